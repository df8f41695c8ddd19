"""The C library's allocator, told to keep memory together."""

import ctypes

M_ARENA_MAX = -8
"""The number of this parameter in glibc's ``malloc.h``."""
ARENAS = 2


def limit_arenas() -> bool:
    """Have all threads allocate from few arenas; return whether the C library can do that.

    glibc gives each thread an arena of its own, and each keeps what it once got from the system.
    Checkpoints of many megabytes are written by whichever thread is free, so in the end every
    arena is as large as the largest checkpoint: a quarter of a worker's memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc: another allocator, with other habits
        return False
    return bool(mallopt(M_ARENA_MAX, ARENAS))
