"""Items written by a kernel must read as if a JSON library had written them."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.outcomes.item_json import GrowingTexts, pack, write_items

IDS = ["tea", 'a "quoted" cup', "naïve 🫖", "", "x" * 200, "back\\slash"]
REASONS = ["popular now", "often chosen with “tea”", 'you bought "it"']


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.integers(0, len(IDS) - 1),
                st.floats(-1e6, 1e6, width=32),
                st.integers(0, len(REASONS) - 1),
            ),
            max_size=12,
        ),
        max_size=5,
    )
)
def test_lists_read_as_the_items_scores_and_reasons_they_were_made_of(
    lists: list[list[tuple[int, float, int]]],
) -> None:
    shape = (len(lists), 12)
    items, scores = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    why = np.zeros(shape, np.int64)
    for row, entries in enumerate(lists):
        for place, (item, score, reason) in enumerate(entries):
            items[row, place], scores[row, place], why[row, place] = item, score, reason
    written = write_items(items, scores, pack(IDS), why, pack(REASONS))
    assert [json.loads(each) for each in written] == [
        [
            {
                "item_id": IDS[item],
                "rank": rank,
                "score": np.round(np.float64(np.float32(score)), 4),
                "reasons": [REASONS[reason]],
            }
            for rank, (item, score, reason) in enumerate(entries, start=1)
        ]
        for entries in lists
    ]


@given(st.lists(st.lists(st.text(max_size=20_000), max_size=40), max_size=8))
def test_texts_added_in_any_portions_are_all_there(portions: list[list[str]]) -> None:
    texts = GrowingTexts()
    for portion in portions:
        texts.extend(portion)
    everything = [text for portion in portions for text in portion]
    pool, starts = texts.texts
    found = [json.loads(bytes(pool[starts[i] : starts[i + 1]])) for i in range(len(texts))]
    assert found == everything
    texts.clear()
    texts.extend(["new"])
    assert bytes(texts.texts.pool[: texts.texts.starts[1]]) == b'"new"'
