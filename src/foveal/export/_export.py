"""One file of one target: made, run, compared, and only then where it is wanted."""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from .._errors import UserError, last_line
from ._target import Options, Target
from .metadata import metadata
from .parity import Parity, compare
from .prepare import AXES, Prepared


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        target: its name.
        dtype: fp32, fp16 or int8.
        files: the first is the model, or the folder that holds it.
        parity: how it compares with the definition; None where the target's runtime is for another system.
        seconds: that making and comparing it took.
    """

    target: str
    dtype: str
    files: list[Path]
    parity: Parity | None
    seconds: float

    @property
    def size(self) -> int:
        """Bytes of all files."""
        parts = [part for file in self.files for part in ([file] if file.is_file() else file.rglob("*"))]
        return sum(part.stat().st_size for part in parts if part.is_file())


def file_of(prepared: Prepared, target: Target, out: Path, options: Options) -> Path:
    """Where a model goes; raises UserError if there is one."""
    parts = [prepared.source.stem, *(["fixed"] if options.fixed else [])]
    parts += [] if options.dtype == "fp32" else [options.dtype]
    path = out / ("_".join(parts).replace("/", "_") + target.suffix)
    if path.exists():
        raise UserError(f"{path} exists; nothing was overwritten")
    return path


def export(
    prepared: Prepared, target: Target, out: Path, options: Options, pictures: Sequence[Image.Image]
) -> Exported:
    """Write a model for a target, run it if its runtime is for this system, and compare it with the definition.

    Args:
        out: folder; it is made.
        pictures: RGB, that it is run on.

    Raises:
        UserError: a missing package, a dtype that the target does not have, a graph that it does not take, a file that
            is there already, or one that differs from the definition by more than the target's tolerance; then none is
            left.
    """
    target.check(options.dtype)
    path, started = file_of(prepared, target, out, options), time.perf_counter()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
        files = target.convert(prepared, Path(folder) / path.name, text_of(prepared, target, options), options)
        parity = _parity(prepared, target, files[0], options, pictures) if target.runs_here else None
        for place in (out / file.name for file in files):
            if place.exists():
                raise UserError(f"{place} exists; nothing was overwritten")
        moved = [Path(shutil.move(file, out / file.name)) for file in files]
    return Exported(target.name, options.dtype, moved, parity, time.perf_counter() - started)


def _parity(
    prepared: Prepared, target: Target, file: Path, options: Options, pictures: Sequence[Image.Image]
) -> Parity:
    """How a file compares with the definition; raises UserError if it is not within the tolerance."""
    try:
        run = target.load(file)
    except Exception as error:  # runtimes have no base of their errors
        raise UserError(f"{file.name} is not written: its runtime cannot load it: {last_line(error)}") from None
    parity = compare(prepared, target, run, options, list(pictures))
    if not parity.passed:
        raise UserError(f"{file.name} is not written: {parity.said()}; {parity.expected()}")
    return parity


def text_of(prepared: Prepared, target: Target, options: Options) -> str:
    """The metadata of a file."""
    free = () if options.fixed else target.dynamic
    shape = [AXES[axis] if AXES.get(axis) in free else side for axis, side in enumerate((1, 3, *prepared.size))]
    outputs = [{"name": o.name, "shape": list(o.shape), "what": o.what} for o in prepared.outputs]
    source = prepared.source
    if "input_size" in source.preprocessing:  # a file may be for another size than the model was made for
        source = replace(source, preprocessing=source.preprocessing | {"input_size": [3, *prepared.size]})
    return metadata(source, outputs, shape, prepared.decoding)
