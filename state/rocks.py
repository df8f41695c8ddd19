"""RocksDB as the state uses it: memory bounded in one place, errors with names."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DbClosedError,
    DBCompressionType,
    Options,
    Rdict,
    WriteBufferManager,
    WriteOptions,
)

from state.errors import (
    CorruptStateError,
    StateError,
    StateLockedError,
    StateUnavailableError,
)
from state.logs import require_readable_logs

# Full write buffers of one partition that may be waiting for the disk before a write waits.
UNFLUSHED_BUFFERS_WAITED_FOR = 4
WAIT_SECONDS = 0.002
MOST_WAITS = 1000

# Of the filter that tells, a key, whether a file may hold it at all: wrong one time in a hundred.
BLOOM_BITS = 10

UNLOGGED = WriteOptions()
# rocksdict's stub takes this attribute for a method.
UNLOGGED.disable_wal = True  # type: ignore[method-assign, assignment]

REBUILD = "remove that directory to rebuild it"


class SharedOptions:
    """Memory and files of all partitions of a process, bounded in one place.

    Parameters
    ----------
    cache_bytes
        Size of the one cache of blocks, indexes and filters, shared by all partitions.
    write_buffer_bytes
        Memory of unflushed writes over all partitions; beyond it RocksDB flushes early. It may
        be passed for as long as a flush takes.
    max_open_files
        Files that each partition keeps open.
    sync
        Whether `Partition.write` waits for the disk; otherwise for the operating system only.

    Attributes
    ----------
    cache, write_buffers
        RocksDB's own objects, which know how much is in use.
    """

    def __init__(
        self,
        *,
        cache_bytes: int = 64 << 20,
        write_buffer_bytes: int = 64 << 20,
        max_open_files: int = 256,
        sync: bool = False,
    ) -> None:
        self.sync = sync
        self.cache = Cache(cache_bytes)
        self.write_buffers = WriteBufferManager(write_buffer_bytes, False)
        blocks = BlockBasedOptions()
        blocks.set_block_cache(self.cache)
        blocks.set_cache_index_and_filter_blocks(True)
        blocks.set_format_version(5)
        blocks.set_bloom_filter(BLOOM_BITS, block_based=False)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(blocks)
        options.set_write_buffer_manager(self.write_buffers)
        options.set_write_buffer_size(min(8 << 20, write_buffer_bytes))
        options.set_max_write_buffer_number(UNFLUSHED_BUFFERS_WAITED_FOR + 4)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_max_open_files(max_open_files)
        options.set_keep_log_file_num(2)
        options.set_max_log_file_size(1 << 20)
        options.set_stats_dump_period_sec(0)
        self._options = options

    def open(self, path: Path, access: AccessType | None = None) -> Rdict:
        """Open the RocksDB in the directory `path`, to read and write unless told otherwise."""
        require_readable_logs(path, REBUILD)
        # Named for the column family too: rocksdict would otherwise take its options from the
        # last run's file, with a cache of its own for each partition.
        families = {"default": self._options}
        return Rdict(
            str(path),
            self._options,
            column_families=families,
            access_type=access or AccessType.read_write(),
        )


def wait_for_flushes(db: Rdict) -> None:
    """Wait while `db` cannot keep up with its writes; 2 s at most, then RocksDB itself waits.

    RocksDB slows writers down when too much is unflushed, and rocksdict keeps the interpreter
    lock meanwhile: the whole process would stand still. Here it does not.
    """
    for _ in range(MOST_WAITS):
        unflushed = db.property_int_value("rocksdb.num-immutable-mem-table") or 0
        if (
            unflushed < UNFLUSHED_BUFFERS_WAITED_FOR
            and not db.property_int_value("rocksdb.actual-delayed-write-rate")
            and not db.property_int_value("rocksdb.is-write-stopped")
        ):
            return
        time.sleep(WAIT_SECONDS)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn what RocksDB and the operating system raise into errors of `state.errors`."""
    try:
        yield
    except OSError as error:
        raise StateUnavailableError(
            # rocksdict's own have a text only.
            f"cannot use {path} ({error.strerror or error}): choose a directory that can be written"
        ) from error
    except DbClosedError as error:
        raise StateUnavailableError(f"the state in {path} was closed: open it again") from error
    except Exception as error:
        # RocksDB's own errors are bare exceptions that differ in their text only.
        if type(error) is not Exception:
            raise
        raise _named(" ".join(str(error).split()), path) from error


def _named(text: str, path: Path) -> StateError:
    """Choose the error for RocksDB's `text`."""
    held = "While lock file" in text and "temporarily unavailable" in text
    if held or "lock hold by current process" in text:
        return StateLockedError(
            f"{path} is in use: stop the other worker, or use another data directory"
        )
    lost_file = "MANIFEST" in text and "No such file" in text
    if lost_file or text.startswith(("Corruption", "Invalid argument", "Not implemented")):
        return CorruptStateError(f"the state in {path} is damaged ({text}): {REBUILD}")
    return StateUnavailableError(
        f"cannot read or write {path} ({text}): check its permissions and the disk"
    )
