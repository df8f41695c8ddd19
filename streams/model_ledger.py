"""What of each worker's learning is in the arrays, and up to where the deltas were read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.model_records import Origin

LEDGER_ARRAY = "sync/ledger"
"""Under this name the ledger lies among the arrays that it is about, so that a file or a snapshot
never has the one without the other. No model is called ``sync``."""
MAX_INCARNATIONS = 1_000


class _Saved(msgspec.Struct, frozen=True):
    cluster_id: str
    position: int
    sequences: dict[str, int]


class Ledger:
    """Which deltas are in the arrays.

    Deltas of every incarnation are numbered 1, 2, 3, … and come in this order, so that the last
    number says it all. Beyond `MAX_INCARNATIONS` the one heard of longest ago is forgotten.

    Parameters
    ----------
    position
        Next offset of the deltas to take in; what lies from there on may be in the arrays too.
    sequences
        The last number by incarnation, the one heard of last at the end.

    Examples
    --------
    >>> from streams.model_records import Origin
    >>> ledger = Ledger()
    >>> ledger.note(Origin("a", 1, 0)), ledger.note(Origin("a", 4, 0))
    (0, 2)
    >>> ledger.has(Origin("a", 4, 0)), ledger.has(Origin("a", 5, 0))
    (True, False)
    """

    def __init__(self, position: int = 0, sequences: Mapping[str, int] | None = None) -> None:
        self.position = position
        self._sequences = dict(sequences or {})

    def has(self, origin: Origin) -> bool:
        """Tell whether a delta is in the arrays already, or was left out before."""
        return origin.sequence <= self._sequences.get(origin.incarnation, 0)

    def note(self, origin: Origin) -> int:
        """Enter a delta; return how many before it never came."""
        missing = origin.sequence - self._sequences.pop(origin.incarnation, 0) - 1
        self._sequences[origin.incarnation] = origin.sequence
        while len(self._sequences) > MAX_INCARNATIONS:
            del self._sequences[next(iter(self._sequences))]
        return missing

    def as_array(self, cluster_id: str) -> NDArray[Any]:
        """Return the ledger as uint8[bytes], with the cluster whose offset `position` is."""
        saved = _Saved(cluster_id, self.position, self._sequences)
        return np.frombuffer(msgspec.json.encode(saved), np.uint8)

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], cluster_id: str, end: int) -> Ledger | None:
        """Return the ledger among `arrays`.

        Parameters
        ----------
        arrays
            As saved or as in a snapshot.
        cluster_id
            Of the broker.
        end
            Where the deltas end. A position beyond it is one of a topic that is no more.

        Returns
        -------
        None where the arrays have no ledger that can be read and is about these deltas.
        """
        if LEDGER_ARRAY not in arrays:
            return None
        try:
            saved = msgspec.json.decode(arrays[LEDGER_ARRAY].tobytes(), type=_Saved)
        except msgspec.DecodeError:  # another version's
            return None
        if saved.cluster_id != cluster_id or saved.position > end:
            return None
        return cls(saved.position, saved.sequences)
