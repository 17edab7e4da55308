"""``foveal predict`` of a classifier."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .._errors import UserError
from .._views import Preprocessing
from ..data import SUFFIXES, BadImage, open_image
from ._load import load_model
from ._pictures import find_files, skip

TOP = 3


def predict_classes(
    model: str,
    pictures: Sequence[Path],
    *,
    top: int,
    preprocessing: Preprocessing,
    device: str,
    on_bad_image: Literal["stop", "skip"],
    as_json: bool,
) -> int:
    """Print the likeliest classes of pictures; arguments are those of the command."""
    if top < 1:
        raise UserError(f"top must be at least 1, got {top}")
    files = find_files(pictures, SUFFIXES)
    classifier = load_model("classification", model, preprocessing=preprocessing, device=device)
    top = min(top, classifier.num_classes)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("picture", *(f"{i + 1}." for i in range(top))):
        table.add_column(title, overflow="fold")  # and not cut off
    for path, _ in files:
        try:
            labels = likeliest_classes(classifier, open_image(path), top)
        except BadImage as error:
            skip(error, on_bad_image)
            continue
        if as_json:
            print(json.dumps({"picture": str(path), "labels": [{"class": n, "score": s} for n, s in labels]}))
        else:
            table.add_row(str(path), *(f"{name} {100 * score:.1f} %" for name, score in labels))
    if not as_json:
        Console(highlight=False, markup=False).print(table)
        print(f"next: foveal eval {model} --data DATA")
    return 0


def likeliest_classes(classifier: Any, picture: Image.Image, top: int) -> list[tuple[str, float]]:
    """The titles and probabilities of the likeliest classes of an RGB picture, from high to low."""
    scores = np.asarray(classifier.scores(classifier.transform()(picture)[None])[0])
    return [(classifier.titles[i], float(scores[i])) for i in (-scores).argsort(kind="stable")[:top]]
