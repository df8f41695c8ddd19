"""Local state that survives: rows in columns, checkpoints in one write, a clear error otherwise."""
