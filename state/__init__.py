"""Local state that survives: rows in columns, checkpoints in one write, a clear error otherwise.

- `rows`: customer id → slot → row of one structured array, in memory up to a cap.
- `slots`, `changes`, `room`: what `rows` is made of: the table, what is not durable yet, the cap.
- `partition`: rows, offsets, watermark and changelog position of one source partition, in one
  RocksDB; the cold store behind the rows in memory.
- `changelog`: the records of a copy of all that, in a compacted topic.
- `arrays`: the arrays that a worker's models share, in one file.
- `layout`: what a stored row looks like, as a fingerprint.
- `records`, `snapshot`, `rocks`: what is stored, in which form, and how RocksDB is used.
- `description`, `directories`: what lies on a disk, and where; what was set aside.
- `errors`: everything that can be wrong, by name.

Between `take_snapshot` (one call, on the loop that changes the rows) and `Partition.write` (in a
worker thread) the rows may change: what is written is the snapshot's bytes. The rows in it stay in
memory until `settle`, which says that they are durable.
"""
