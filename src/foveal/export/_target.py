"""What an export target is, and how one is found by its name."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np

from .._errors import UserError, unknown
from .prepare import Prepared

Runner: TypeAlias = Callable[[np.ndarray], dict[str, np.ndarray]]  # images -> outputs by their names


@dataclass(frozen=True)
class Options:
    """How something is exported.

    Attributes:
        fixed: for images of the example's shape alone; otherwise batch, height and width are free where the target
            can have them free.
        dtype: fp32, fp16 or int8.
        calibration: batches of images that int8 takes its ranges from.
        symmetric: int8 has its zero in the middle of each range.
        keep_float: parts of the model that int8 leaves in float32, by their names in it.
        runtime_files: folder of the runtime that a page brings along; None for where its package manager puts it.
    """

    fixed: bool = False
    dtype: str = "fp32"
    calibration: tuple[np.ndarray, ...] = ()
    symmetric: bool = False
    keep_float: tuple[str, ...] = ()
    runtime_files: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """A format of files and its runtime.

    Attributes:
        name: as ``--to`` takes it.
        what: in a few words.
        packages: modules that conversion and running need.
        extra: that brings them.
        suffix: of its file, or of its folder.
        dynamic: which of batch, height and width may be free.
        tolerance: for each dtype that it can do, the largest difference of an output that is no error, as a share of
            the output's largest value (below 1: of 1); None where the task's own figure has to say.
        convert: writes the file, and those beside it, and returns them all.
        load: of a file, a function from images [B, 3, H, W] to the outputs, run by the target's own runtime;
            ``threads`` is 1, where the runtime has a say in it.
        read: of a file, the text of its metadata.
        opens: what opens a file, whose name stands for {}: a command, or Python.
        system: the only one that its runtime is for, as ``platform.system`` has it; on others files are not run.
    """

    name: str
    what: str
    packages: tuple[str, ...]
    extra: str | None
    suffix: str
    dynamic: tuple[str, ...]
    tolerance: dict[str, float | None]
    convert: Callable[[Prepared, Path, str, Options], list[Path]]
    load: Callable[..., Runner]
    read: Callable[[Path], str]
    opens: str
    system: str | None = None

    @property
    def runs_here(self) -> bool:
        """Whether the runtime is for this system."""
        return self.system in (None, platform.system())

    def check(self, dtype: str) -> None:
        """Raise UserError if a package is missing or the target does not have the dtype."""
        if dtype not in self.tolerance:
            known = ", ".join(self.tolerance)
            raise UserError(f"{self.name} has no {dtype}, but {known}")
        missing = [package for package in self.packages if find_spec(package) is None]
        if missing:
            raise UserError(f"{self.name} needs {', '.join(missing)}: pip install 'foveal[{self.extra}]'")


TARGETS: dict[str, Target] = {}


def register(target: Target) -> Target:
    """Enter a target under its name."""
    TARGETS[target.name] = target
    return target


def find(name: str) -> Target:
    """The target of a name; raises UserError with the nearest names."""
    if name not in TARGETS:
        raise unknown("target", name, TARGETS)
    return TARGETS[name]
