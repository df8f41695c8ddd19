import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.codepoints import MAX_CHARS, codes_of
from operators.errors import ParameterError
from operators.lexicon import LEXICON_COLUMNS, Lexicon, vader_lexicon, vader_valences

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)


def compound(text: str) -> float:
    return float(vader_lexicon().score_many([text])[0, 0])


def column(name: str, text: str) -> float:
    return float(vader_lexicon().score_many([text])[0, LEXICON_COLUMNS.index(name)])


@pytest.mark.parametrize(
    "text",
    [
        "The service was good",
        "The service was very good",
        "The service was slightly good",
        "The service was not good",
        "The service was not really very good",
        "The service was GREAT today!!!",
        "VERY bad service, what a disaster",
        "The food was great, but the service was horrible",
        "no problem, thanks :)",
        "I don't like this",
        "I love it 😍",
        "really? you want more help?",
        "the bus leaves at ten",
        "hardly a catastrophe",
        "",
    ],
)
def test_compound_agrees_with_vader(text: str) -> None:
    vader = pytest.importorskip("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer()
    assert compound(text) == pytest.approx(vader.polarity_scores(text)["compound"], abs=2e-4)


def test_reading_the_lexicon_leaves_the_package_and_its_http_client_alone() -> None:
    script = (
        "import sys; from operators.lexicon import vader_valences; vader_valences();"
        "sys.exit('requests' in sys.modules or 'vaderSentiment.vaderSentiment' in sys.modules)"
    )
    # A fresh interpreter, since another test imports the package.
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_every_valence_lies_in_range() -> None:
    valences = vader_valences()
    assert len(valences) > 7_000
    assert all(-4 <= valence <= 4 for _, valence in valences)


def test_negation_turns_the_sign() -> None:
    assert compound("happy") > 0 > compound("not happy")
    assert compound("I am happy") > 0 > compound("I wasn\u2019t happy")


def test_intensifier_strengthens_and_dampener_weakens() -> None:
    assert compound("extremely bad") < compound("bad") < compound("slightly bad") < 0


def test_columns_count_what_they_say() -> None:
    assert column("exclamations", "no!! way!") == pytest.approx(0.75)
    assert column("exclamations", "!" * 100) == 1
    assert column("questions", "why?") == pytest.approx(0.25)
    assert column("capitals", "WHERE IS my card") == pytest.approx(0.5)
    assert column("negations", "never again, cannot believe it") == pytest.approx(0.5)
    assert column("positive", "good and bad") > 0
    assert column("negative", "good and bad") > 0


def test_only_the_first_characters_count() -> None:
    assert compound("x " * (MAX_CHARS // 2) + "terrible") == 0
    assert codes_of(["ab" * MAX_CHARS]).ends.tolist() == [MAX_CHARS]


@settings(deadline=None)
@given(st.lists(ANY_TEXT, max_size=8))
def test_any_text_gets_finite_bounded_numbers(texts: list[str]) -> None:
    scores = vader_lexicon().score_many(texts)
    assert scores.shape == (len(texts), len(LEXICON_COLUMNS))
    assert np.isfinite(scores).all()
    assert (np.abs(scores) <= 1).all()
    assert (scores[:, 1:] >= 0).all()


@settings(deadline=None)
@given(st.lists(ANY_TEXT, min_size=1, max_size=6))
def test_a_text_scores_the_same_whatever_stands_beside_it(texts: list[str]) -> None:
    alone = np.concatenate([vader_lexicon().score_many([text]) for text in texts])
    np.testing.assert_array_equal(vader_lexicon().score_many(texts), alone)


def test_too_many_words_are_refused() -> None:
    with pytest.raises(ParameterError, match="more than 100"):
        Lexicon([(f"word{i}", 1.0) for i in range(101)], max_words=100)


@pytest.mark.parametrize("valence", [4.1, -5.0, float("nan"), float("inf")])
def test_a_valence_out_of_range_is_refused(valence: float) -> None:
    with pytest.raises(ParameterError, match=r"\[-4, 4\]"):
        Lexicon([("word", valence)])


def test_folding_keeps_the_length_of_a_text() -> None:
    codes = codes_of(["İSTANBUL", "Straße", "ΣΑΣ"])
    assert codes.ends.tolist() == [8, 14, 17]
    assert codes.folded[14:].tolist() == [0x3C3, 0x3B1, 0x3C3]
