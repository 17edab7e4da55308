"""Pictures that a command is given."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from .._errors import UserError, first_line
from ..data import BadImage, has_suffix


def read_batches(batches: Any, skipped: list[str], on_bad_image: Literal["stop", "skip"]) -> Iterator[dict]:
    """The batches to evaluate on that are not empty, with a bar on a terminal.

    Args:
        skipped: gets the messages of pictures that cannot be read.

    Raises:
        UserError: a picture cannot be read, and ``on_bad_image`` is stop.
    """
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        shown = progress.add_task("pictures", total=len(batches.data))
        for batch in batches.epoch():
            if batch["bad"] and on_bad_image == "stop":
                raise UserError(f"{batch['bad'][0]}; --on-bad-image skip goes on without it")
            skipped += batch["bad"]
            if len(batch["name"]):
                yield batch
            progress.update(shown, advance=len(batch["name"]) + len(batch["bad"]))


def find_files(given: Sequence[Path], suffixes: tuple[str, ...]) -> list[tuple[Path, Path]]:
    """Files, and for folders those of some suffixes in them and below, sorted; each with its path within its folder.

    Raises:
        UserError: nothing is given, or a folder has none.
    """
    if not given:
        raise UserError("no picture given")
    found = []
    for path in given:
        if not path.is_dir():
            found.append((path, Path(path.name)))
            continue
        inside = sorted(file for file in path.rglob("*") if has_suffix(file, suffixes) and file.is_file())
        if not inside:
            raise UserError(f"{path} has no file that ends in {', '.join(suffixes)}")
        found += [(file, file.relative_to(path)) for file in inside]
    return found


def skip(error: BadImage, on_bad_image: Literal["stop", "skip"]) -> None:
    """List a file that cannot be read, or raise the error."""
    if on_bad_image == "stop":
        raise error
    print(f"skipped: {error}", file=sys.stderr)


def percent(value: float) -> str:
    """A figure of a table."""
    return "-" if math.isnan(value) else f"{value:.1f}"


def new_files(files: Sequence[tuple[Path, Path]], out: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Where the drawing of each file goes in a folder, whose file of that name is not there yet; raises UserError."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is no folder")
    sources: dict[Path, Path] = {}
    for path, name in files:
        drawing = out / name
        if name.suffix.lower() not in suffixes:
            raise UserError(f"cannot draw {path}: expected a name that ends in {', '.join(suffixes)}")
        if drawing in sources:
            raise UserError(f"{sources[drawing]} and {path} would both be drawn as {drawing}")
        if drawing.exists():
            raise UserError(f"{drawing} exists; nothing was overwritten")
        sources[drawing] = path
    return [*sources]


def make_folders(files: Sequence[Path]) -> None:
    """The folders of new files; raises UserError."""
    for folder in sorted({file.parent for file in files}):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror}") from None


def save(picture: Image.Image, file: Path) -> None:
    """Write a picture; raises UserError."""
    try:
        picture.save(file, quality=95)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {file}: {first_line(error)}") from None


def check_json(file: Path) -> None:
    """Raise UserError unless predictions can be written to a file; it must not be there, for it may be the data."""
    if file.suffix != ".json":
        raise UserError(f"cannot write {file}: expected a .json file")
    if not file.parent.is_dir():
        raise UserError(f"cannot write {file}: no such folder")
    if file.exists():
        raise UserError(f"{file} exists; nothing was overwritten")


def write_json(content: Any, file: Path) -> None:
    """Write predictions; raises UserError."""
    try:
        file.write_text(json.dumps(content))
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from None
