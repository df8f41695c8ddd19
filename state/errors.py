"""The error tree of the local state. Each text is one line that ends in what to do.

::

    StateError
    ├── RowsFullError             more customers than the cap on rows allows
    ├── LayoutMismatchError       written with another row layout or format version
    ├── ForeignStateError         made for another cluster, other topics, another partition
    ├── CorruptStateError         the bytes on disk are not what was written
    ├── StateLockedError          another process (or this one) holds it open
    └── StateUnavailableError     directory not writable, disk full, I/O error
"""


class StateError(Exception):
    """Root of every error that the local state raises on purpose; its text is one clear line."""


class RowsFullError(StateError):
    """More customers than the cap on rows allows.

    Attributes
    ----------
    checkpoint_helps
        Whether there is room once what changed is durable: rows that wait for a checkpoint
        cannot leave the memory before it.
    """

    def __init__(self, text: str, *, checkpoint_helps: bool = False) -> None:
        super().__init__(text)
        self.checkpoint_helps = checkpoint_helps


class LayoutMismatchError(StateError):
    """The state was written with another row layout or another format version."""


class ForeignStateError(StateError):
    """The state was made for another cluster, other topics or another partition."""


class CorruptStateError(StateError):
    """The bytes on disk are not what was written."""


class StateLockedError(StateError):
    """Another process, or another part of this one, holds the state open."""


class StateUnavailableError(StateError):
    """The state cannot be read or written: directory not writable, disk full, I/O error."""
