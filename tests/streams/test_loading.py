"""What a state on disk is refused for when it is loaded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from streams.errors import ForeignStateError
from streams.loading import Loader

CLICKS_3 = TP("clicks", 3)
LOADER: Any = SimpleNamespace(_settings=SimpleNamespace(data_dir=Path("data")))


def test_state_beyond_the_end_of_a_topic_is_another_topics() -> None:
    with pytest.raises(ForeignStateError, match=r"partition 3 .* offset 10 of clicks.* ends at 7"):
        Loader.checked(LOADER, CLICKS_3, 10, 0, 7)


def test_records_deleted_before_they_were_read_are_told_of_and_skipped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert Loader.checked(LOADER, CLICKS_3, 10, 15, 20) == 15
    assert "records 10 to 15 were deleted" in caplog.text


def test_an_offset_within_the_topic_is_taken() -> None:
    assert Loader.checked(LOADER, CLICKS_3, 7, 0, 7) == 7
