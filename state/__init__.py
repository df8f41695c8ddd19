"""Local state that survives: rows in columns, checkpoints in one write, a clear error otherwise.

- `rows`: customer id → slot → row of one structured array, in memory.
- `partition`: rows, source offsets and watermark of one source partition, in one RocksDB.
- `arrays`: the arrays that a worker's models share, in one file.
- `layout`: what a stored row looks like, as a fingerprint.
- `records`, `rocks`: what a partition's RocksDB holds, and how RocksDB is used.
- `errors`: everything that can be wrong, by name.

Between `take_snapshot` (one call, on the loop that changes the rows) and `Partition.write` (in a
worker thread) the rows may change: what is written is the snapshot's bytes.
"""
