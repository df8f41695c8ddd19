import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from streams.broker import EmbeddedBroker
from streams.settings import Settings

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def broker() -> AsyncIterator[EmbeddedBroker]:
    """One embedded broker for all tests; topics of a test have names of their own."""
    async with EmbeddedBroker() as running:
        yield running


@pytest.fixture
def settings(broker: EmbeddedBroker, tmp_path: Path) -> Settings:
    """Settings that point at the embedded broker and at a directory of this test's own."""
    return Settings(broker=broker.url, data_dir=tmp_path / "data")


@pytest.fixture(scope="session")
def data_directory() -> Path:
    """The public data sets, from CRM_DATA or beside the repository."""
    named = os.environ.get("CRM_DATA")
    directory = Path(named) if named else BESIDE
    if not directory.is_dir():
        pytest.skip(
            f"no public data: {directory} is not a directory; set CRM_DATA to where it lies"
        )
    return directory
