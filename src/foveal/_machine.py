"""The machine and the code, as far as figures depend on them."""

import platform
import subprocess
from functools import cache
from pathlib import Path


def machine() -> dict[str, str]:
    """Versions of foveal and Python, the commit of a checkout, and names of the system and the processor."""
    from . import __version__

    found = {"foveal": __version__, "python": platform.python_version()}
    if made := commit():
        found["commit"] = made
    return found | {"system": platform.platform(), "hardware": processor()}


@cache
def commit() -> str:
    """The commit of the checkout that foveal runs from, with ``+`` where its source differs; empty without one."""
    package = Path(__file__).resolve().parent
    git = ["git", "-C", str(package)]
    try:
        found = subprocess.run(
            [*git, "rev-parse", "--show-toplevel", "HEAD"], capture_output=True, text=True, timeout=9
        )
        top, *head = found.stdout.splitlines()
        if found.returncode or Path(top) / "src" / "foveal" != package:  # another project's, around an environment
            return ""
        same = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."], timeout=9).returncode == 0
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return head[0] + ("" if same else "+")


def processor() -> str:
    """Its name."""
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
