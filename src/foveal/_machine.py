"""The machine, as far as figures depend on it."""

import platform
from pathlib import Path


def machine() -> dict[str, str]:
    """Versions of foveal and Python, and names of the system and the processor."""
    from . import __version__

    system = platform.platform()
    return {"foveal": __version__, "python": platform.python_version(), "system": system, "hardware": processor()}


def processor() -> str:
    """Its name."""
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
