"""Whether a TCP port can be listened on."""

import socket


def free_port(host: str = "127.0.0.1", wanted: int = 0) -> int:
    """Return `wanted` if it is free on `host`, or for 0 any port that is.

    A port with connections that are only just closed is free.

    Raises
    ------
    OSError
        Where it cannot be listened on.

    Examples
    --------
    >>> free_port() > 0
    True
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, wanted))
        return int(probe.getsockname()[1])
