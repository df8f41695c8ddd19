import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.errors import ParameterError
from operators.text_features import Features, TextFeatures

MASK = (1 << 64) - 1
WORD_SEED, CHAR_SEED = 0x9AE16A3B2F90404F, 0xC949D7C7509E6557
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
CHATTY_WORDS = (
    "I'm don't @anna_b @ www.shop.de/x?y=1 https://t.co/a http:/ wwww. LATE late! a b't '' card "
    "card? 😡😡 ❤️ 返品したい über_all 10€ naïve ..."
)
CHATTY_TEXT = st.lists(st.sampled_from(CHATTY_WORDS.split()), max_size=20).map(" ".join)
UNSPACED = ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF))


def mix(value: int) -> int:
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & MASK
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & MASK
    return value ^ value >> 33


def string_hash(text: str, seed: int) -> int:
    for character in text:
        seed = (seed ^ ord(character)) * 0x100000001B3 & MASK
    return mix(seed)


def fold(character: str) -> str:
    if character == "\u2019":
        return "'"
    lower = character.lower() if ord(character) < 0x10000 else character
    return lower if len(lower) == 1 else character


def kind(character: str) -> str:
    """w: part of a word, a: a token by itself, s: space, otherwise a separator."""
    code = ord(character)
    category = unicodedata.category(character)
    if code >= 0x10000:
        return "a"
    if character.isspace() or code == 0x200D or 0xFE00 <= code <= 0xFE0F:
        return "s"
    unspaced = any(first <= code <= last for first, last in UNSPACED)
    if category[0] == "S" or character in "!?" or unspaced:
        return "a"
    return "w" if category[0] in "LNM" else "."


def tokens_of(text: str) -> list[tuple[str, int]]:
    """Tokens with their hashes, by one regular expression over the kinds of characters."""
    folded = "".join(map(fold, text))
    kinds = "".join("'" if c == "'" else "_" if c == "_" else kind(c) for c in folded)
    tokens = []
    position = 0
    while position < len(folded):
        url = re.match(r"https?://|www\.", folded[position:])
        handle = re.match("w[w_]*", kinds[position + 1 :]) if folded[position] == "@" else None
        if url:
            length = re.match("[^s]*", kinds[position:]).end()  # type: ignore[union-attr]  # matches the empty string
            tokens.append(("url", 0x75726C))
        elif handle:
            length = 1 + handle.end()
            tokens.append(("handle", 0x68616E646C65))
        elif word := re.match("w(w|'(?=w))*", kinds[position:]):
            length = word.end()
            characters = folded[position : position + length]
            tokens.append((characters, string_hash(characters, WORD_SEED)))
        else:
            length = 1
            if kinds[position] == "a":
                tokens.append(("alone", string_hash(folded[position], WORD_SEED)))
        if kinds[position] == "w" and not url:
            tokens[-1] = (f" {tokens[-1][0]} ", tokens[-1][1])
        position += length
    return tokens


def features_by_hand(text: str, bits: int, word_ngrams: int, lo: int, hi: int) -> dict[int, float]:
    counts: Counter[int] = Counter()
    tokens = tokens_of(text)
    for position, (padded, _) in enumerate(tokens):
        if padded.startswith(" "):
            for n in range(lo, hi + 1):
                for left in range(len(padded) - n + 1):
                    counts[string_hash(padded[left : left + n], CHAR_SEED) % 2**bits] += 1
        key = WORD_SEED
        for back in range(min(word_ngrams, position + 1)):
            key = mix((key ^ tokens[position - back][1]) * 0x100000001B3 & MASK)
            counts[key % 2**bits] += 1
    weights = {index: 1 + np.log(count) for index, count in counts.items()}
    length = np.sqrt(sum(weight**2 for weight in weights.values()))
    return {index: weight / length for index, weight in weights.items()}


def as_dict(features: Features) -> dict[int, float]:
    return dict(zip(features.indices.tolist(), features.values.tolist(), strict=True))


@settings(deadline=None)
@given(ANY_TEXT | CHATTY_TEXT, st.sampled_from([(18, 2, 3, 5), (10, 1, 3, 3), (14, 3, 4, 6)]))
def test_hashed_ngrams_equal_those_counted_by_hand(
    text: str, parameters: tuple[int, int, int, int]
) -> None:
    bits, word_ngrams, lo, hi = parameters
    features = TextFeatures(bits, word_ngrams, (lo, hi)).transform_many([text])
    expected = features_by_hand(text, *parameters)
    assert as_dict(features) == pytest.approx(expected, rel=1e-5)


@settings(deadline=None)
@given(st.lists(ANY_TEXT, max_size=6))
def test_features_are_distinct_finite_and_of_length_one(texts: list[str]) -> None:
    features = TextFeatures().transform_many(texts)
    assert len(features) == len(texts)
    assert np.isfinite(features.values).all()
    start = 0
    for end in features.ends.tolist():
        indices, values = features.indices[start:end], features.values[start:end]
        assert len(set(indices.tolist())) == len(indices)
        assert end == start or np.square(values).sum() == pytest.approx(1, abs=1e-4)
        start = end
    assert start == len(features.indices)
    assert ((features.indices >= 0) & (features.indices < 2**18)).all()


@settings(deadline=None)
@given(st.lists(ANY_TEXT, min_size=1, max_size=5), st.data())
def test_take_equals_transforming_the_taken_texts(texts: list[str], data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=6))
    taken = TextFeatures().transform_many(texts).take(np.array(positions, np.int64))
    direct = TextFeatures().transform_many([texts[i] for i in positions])
    for name in ("indices", "values", "ends", "lexicon"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(direct, name))


def test_handles_and_addresses_do_not_tell_texts_apart() -> None:
    one = TextFeatures().transform_many(["@anna see https://a.example/1 now"])
    two = TextFeatures().transform_many(["@bob_99 see www.b.example now"])
    assert as_dict(one) == as_dict(two)


def test_case_does_not_tell_ngrams_apart() -> None:
    one, two = (TextFeatures().transform_many([text]) for text in ("WHERE Is it", "where is it"))
    assert as_dict(one) == as_dict(two)
    assert (one.lexicon != two.lexicon).any()


@pytest.mark.parametrize("text", ["", "   ", "...", "\ud800", "\u200d"])
def test_a_text_without_words_has_no_features(text: str) -> None:
    features = TextFeatures().transform_many([text, "hello"])
    assert features.ends[0] == 0
    assert features.ends[1] > 0


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=()), min_size=1, max_size=40))
def test_a_long_text_is_cut_and_its_features_are_bounded(seed_text: str) -> None:
    text = (seed_text * (8_192 // len(seed_text) + 1))[:8_192]
    features = TextFeatures(max_chars=200).transform_many([text])
    assert len(features.indices) <= 200 * 5
    assert as_dict(features) == as_dict(TextFeatures(max_chars=200).transform_many([text[:200]]))


def test_no_texts_give_no_features() -> None:
    features = TextFeatures().transform_many([])
    assert len(features) == 0
    assert features.lexicon.shape == (0, 7)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bits": 0}, "bits"),
        ({"bits": 31}, "bits"),
        ({"word_ngrams": 0}, "word_ngrams"),
        ({"char_ngrams": (5, 3)}, "char_ngrams"),
        ({"char_ngrams": (2, 3)}, "char_ngrams"),
        ({"max_chars": 0}, "max_chars"),
    ],
)
def test_a_parameter_out_of_range_is_refused(parameters: dict[str, int], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        TextFeatures(**parameters)  # type: ignore[arg-type]  # each case names its own parameter
