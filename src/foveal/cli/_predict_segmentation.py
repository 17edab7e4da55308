"""``foveal predict`` of a segmenter."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .._draw import draw_classes, palette_image
from .._views import Views
from ..data import SUFFIXES, BadImage, open_image
from ._load import load_model
from ._pictures import find_files, make_folders, new_files, save, skip

NAMED = 5  # classes of a picture in the table


def predict_pixels(
    model: str,
    pictures: Sequence[Path],
    *,
    views: Views,
    out: Path | None,
    device: str,
    on_bad_image: Literal["stop", "skip"],
    as_json: bool,
) -> int:
    """Print the classes of pixels in pictures, or write them; arguments are those of the command."""
    files = find_files(pictures, SUFFIXES)
    masks, overlays = [], []
    if out is not None:
        masks = new_files([(path, name.with_suffix(".png")) for path, name in files], out / "masks", SUFFIXES)
        overlays = new_files(files, out / "overlays", SUFFIXES)
    segmenter = load_model("segmentation", model, device=device)
    make_folders(masks + overlays)
    table = Table("picture", "share of the pixels", box=SIMPLE_HEAD, pad_edge=False)
    for number, (path, _) in enumerate(files):
        try:
            picture = open_image(path)
        except BadImage as error:
            skip(error, on_bad_image)
            continue
        classes, shares = classes_of_pixels(segmenter, picture, views)
        if as_json:
            size = dict(height=picture.height, width=picture.width)
            print(json.dumps({"picture": str(path), **size, "shares": {k: round(v, 6) for k, v in shares.items()}}))
        else:
            named = [f"{name} {100 * share:.1f} %" for name, share in [*shares.items()][:NAMED]]
            table.add_row(str(path), ", ".join(named) + (", ..." if len(shares) > NAMED else ""))
        if out is not None:
            save(palette_image(classes), masks[number])
            save(draw_classes(picture, classes), overlays[number])
    if not as_json:
        Console(highlight=False, markup=False).print(table)
        drawn = "next: --out FOLDER writes classes and draws them"
        print(drawn if out is None else f"classes in {out / 'masks'}, drawn in {out / 'overlays'}")
    return 0


def classes_of_pixels(segmenter: Any, picture: Image.Image, views: Views) -> tuple[np.ndarray, dict[str, float]]:
    """The class of each pixel of an RGB picture [H, W], and the shares of the classes that it has, from high to low."""
    classes = np.asarray(segmenter.segment([picture], views)[0])
    counts = np.bincount(classes.flatten(), minlength=len(segmenter.classes))
    order = (-counts).argsort(kind="stable").tolist()
    return classes, {segmenter.classes[i]: counts[i].item() / classes.size for i in order if counts[i]}
