"""What a benchmark ran on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version


def print_machine(*packages: str) -> None:
    """Print the versions of Python and the packages, cores, memory and load."""
    print(" ".join([f"python {platform.python_version()}", *(f"{name} {_find_version(name)}" for name in packages)]))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"{os.cpu_count()} cores, {memory:.0f} GiB, load {os.getloadavg()[0]:.2f}")


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"
