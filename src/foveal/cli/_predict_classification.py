"""``foveal predict`` of a classifier."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from .._errors import UserError
from ..data import SUFFIXES, BadImage, open_image
from ..tasks import Preprocessing, load_classifier
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
    classifier = load_classifier(model, preprocessing, device=device)
    transform = classifier.transform()
    top = min(top, classifier.num_classes)
    table = Table("picture", *(f"{i + 1}." for i in range(top)))
    for path, _ in files:
        try:
            image = transform(open_image(path))
        except BadImage as error:
            skip(error, on_bad_image)
            continue
        scores, classes = classifier.scores(image[None])[0].topk(top)
        labels = [(classifier.titles[i], score) for i, score in zip(classes.tolist(), scores.tolist())]
        if as_json:
            print(json.dumps({"picture": str(path), "labels": [{"class": n, "score": s} for n, s in labels]}))
        else:
            table.add_row(str(path), *(f"{name} {100 * score:.1f} %" for name, score in labels))
    if not as_json:
        Console().print(table)
    return 0
