"""The command that judges recommendations: what it tells, and what it refuses."""

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.recommend import BASELINES, OURS
from benchmarks.recommend.data import SETS, file_choices, stream_of
from benchmarks.recommend.engine import EngineHybrid, as_a_worker
from benchmarks.recommend.prequential import evaluate
from benchmarks.recommend.tune import CHOICES, SHARE, search
from operators.hybrid import Part
from tests.test_recommend import lines, silent, two_tastes


def test_the_command_tells_every_method_by_name_and_the_best_baseline(tmp_path: Path) -> None:
    stream = two_tastes(600)
    path = tmp_path / "ratings.csv"
    columns = zip(stream.customers, stream.items, stream.ts_ms, strict=True)
    path.write_text("user,movie,at\n" + "".join(f"{u},{i},{t}\n" for u, i, t in columns))
    columns_flag = "customer=user,item=movie,ts=at"
    flags = ["--data", str(path), "--columns", columns_flag, "--mode", "repeat"]
    picture = tmp_path / "curves.png"
    done = CliRunner().invoke(main, ["recommend", "--json", *flags, "--plot", str(picture)])
    assert done.exit_code == 0, done.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    answer = json.loads(done.stdout)
    assert answer["data"] == "ratings"
    assert set(answer["methods"]) == {OURS, *BASELINES}
    wanted = {"hr_at_10", "ndcg_at_10", "mrr", "coverage", "cold_item_hr_at_10"}
    for figures in answer["methods"].values():
        assert wanted | {"learn_microseconds_per_event"} <= set(figures)
    best = max(BASELINES, key=lambda name: answer["methods"][name]["hr_at_10"])
    assert answer["best_baseline"] == best
    refused = CliRunner().invoke(main, ["recommend", "--data", "nowhere"])
    assert refused.exit_code == 1
    assert "neither a file nor one of movielens-latest-small" in refused.output


def test_tuning_looks_at_nothing_behind_the_first_fifth() -> None:
    """Whatever comes later, the same settings are found."""
    stream = two_tastes(300)
    other = two_tastes(300)
    later = int(SHARE * 300)
    other.items[later:] = other.items[later:][::-1]
    start = as_a_worker(repeats=True)
    found, again = (
        search(each, start, 1, repeats=True, tell=lambda line: None) for each in (stream, other)
    )
    assert found == again
    allowed = {name: {*values, getattr(start, name)} for name, values in CHOICES.items()}
    assert all(getattr(found, name) in values for name, values in allowed.items())


def test_each_member_alone_is_told_beside_the_hybrid() -> None:
    stream = two_tastes(1_000)
    method = EngineHybrid(stream, 1, as_a_worker(repeats=True))
    evaluate(stream, method, repeats=True, tell=silent)
    members = method.members()
    assert set(members) == {part.name.lower() for part in Part}
    assert 0.0 < max(members.values()) <= 1.0


def test_what_a_catalogue_says_of_items_is_read_from_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text("who,what,at,about\nann,m1,1,red mug\nbob,m1,2,\nbob,c1,3,red cup\n")
    columns = {"customer": "who", "item": "what", "ts": "at", "text": "about"}
    stream = stream_of("orders", file_choices(path, "clicks", columns))
    assert stream.item_texts == ["red mug", "red cup"]
    assert lines(("ann", "tea", None)).item_texts == [""]


def test_films_come_with_their_titles_and_genres(data_directory: Path) -> None:
    choices = SETS["movielens-latest-small"]()
    texts = {choice.item: choice.text for choice in choices[:5_000]}
    assert texts["1"] == "Toy Story (1995) Adventure Animation Children Comedy Fantasy"
    assert np.mean([bool(text) for text in texts.values()]) > 0.99
