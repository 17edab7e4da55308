"""``foveal predict`` of a detector."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .._draw import draw_objects
from .._errors import UserError
from ..data import SUFFIXES, VIDEO_SUFFIXES, BadImage, Video, new_video, open_image
from ..metrics import encode_mask
from ..metrics.coco import DECIMALS
from ._load import load_model
from ._pictures import find_files, make_folders, new_files, save, skip

THRESHOLD = 0.5
KNOWN = SUFFIXES + VIDEO_SUFFIXES


def predict_objects(
    model: str,
    pictures: Sequence[Path],
    *,
    threshold: float,
    out: Path | None,
    device: str,
    on_bad_image: Literal["stop", "skip"],
    as_json: bool,
) -> int:
    """Print or draw the objects in pictures and videos; arguments are those of the command."""

    def load() -> Callable:
        return partial(look_for_objects, load_model("detection", model, device=device), threshold, as_json)

    return look_at(pictures, load, "objects", threshold, out, on_bad_image, as_json)


def look_at(
    pictures: Sequence[Path],
    load: Callable[[], Callable],
    what: str,
    threshold: float,
    out: Path | None,
    on_bad_image: Literal["stop", "skip"],
    as_json: bool,
) -> int:
    """Look at pictures and videos, print a table of what is in them, and draw it.

    Args:
        load: gives what looks, when all else is right: from a picture, what its JSON object says of its origin, and
            whether to draw, to names and scores of what is in it, and the picture, drawn into or not.
        what: it looks for.
        as_json: no table, for what looks prints JSON objects.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold must be in [0, 1], got {threshold:g}")
    files = find_files(pictures, KNOWN)
    drawings = [] if out is None else new_files(files, out, KNOWN)
    look = load()
    make_folders(drawings)
    table, console = Table("file", what, box=SIMPLE_HEAD, pad_edge=False), Console(stderr=True)
    with Progress(console=console, transient=True, disable=as_json or not console.is_terminal) as progress:
        for number, (path, _) in enumerate(progress.track(files, description="files")):
            drawing = drawings[number] if drawings else None
            video = path.suffix.lower() in VIDEO_SUFFIXES
            try:
                found = _video(path, look, drawing, progress) if video else _picture(path, look, drawing)
            except BadImage as error:
                skip(error, on_bad_image)
            else:
                table.add_row(str(path), found or "none")
    if not as_json:
        Console(highlight=False, markup=False).print(table)
        print("next: --out FOLDER draws them" if out is None else f"drawn in {out}")
    return 0


def look_for_objects(
    detector: Any, threshold: float, as_json: bool, picture: Image.Image, where: dict[str, Any], drawn: bool
) -> tuple[list[tuple[str, float]], Image.Image]:
    """Names and scores of the objects in a picture, and the picture, on which they are ``drawn`` or not.

    Args:
        where: what the picture's JSON object says of its origin.
    """
    (found,) = detector.detect([picture], threshold)
    names = [detector.classes[label] for label in found["labels"].tolist()]
    if as_json:
        boxes = [[round(value, DECIMALS) for value in box] for box in found["boxes"].tolist()]
        scores = [round(score, 6) for score in found["scores"].tolist()]
        answer = where | dict(height=picture.height, width=picture.width, boxes=boxes, labels=names, scores=scores)
        if "masks" in found:
            answer["masks"] = [encode_mask(mask, mask.shape) for mask in np.asarray(found["masks"])]
        print(json.dumps(answer))
    return [*zip(names, found["scores"].tolist())], draw_objects(picture, found, detector.classes) if drawn else picture


def _picture(path: Path, look: Callable, drawing: Path | None) -> str:
    """What is in a picture, for people."""
    found, picture = look(open_image(path), {"picture": str(path)}, drawing is not None)
    if drawing is not None:
        save(picture, drawing)
    return ", ".join(f"{name} {score:.2f}" for name, score in found)


def _video(path: Path, look: Callable, drawing: Path | None, progress: Progress) -> str:
    """How often what is in a video, for people."""
    counts, number = Counter(), 0
    with Video(path) as video, nullcontext() if drawing is None else new_video(drawing, video.rate) as add:
        frames = progress.track(video, total=video.num_frames or None, description=path.name)
        for number, (seconds, picture) in enumerate(frames, start=1):
            where = dict(video=str(path), frame=number - 1, seconds=round(seconds, 3))
            found, picture = look(picture, where, add is not None)
            counts.update(name for name, _ in found)
            if add is not None:
                add(picture)
    return f"in {number} pictures: " + (", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none")
