"""``foveal predict MODEL PICTURE... [--json]``"""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from .._errors import UserError
from ..data import BadImage, open_image
from ..tasks import AS_TRAINED, Preprocessing, load_classifier


def main(argv: list[str]) -> int:
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    return tyro.cli(predict, args=argv, prog="foveal predict", config=config)


def predict(
    model: Annotated[str, tyro.conf.Positional],
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    *,
    top: int = 3,
    preprocessing: Preprocessing = AS_TRAINED,
    on_bad_image: Literal["stop", "skip"] = "stop",
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Label pictures.

    Args:
        model: a run's folder, a timm model that has weights, hf-hub:REPO, local-dir:FOLDER or an .onnx file.
        pictures: files.
        top: how many classes to name.
        on_bad_image: stop at a picture that cannot be read, or skip it and list it.
        as_json: a JSON object per picture instead of a table.
    """
    if not pictures:
        raise UserError("no picture given")
    if top < 1:
        raise UserError(f"top must be at least 1, got {top}")
    classifier = load_classifier(model, preprocessing)
    transform = classifier.transform()
    top = min(top, classifier.num_classes)
    table = Table("picture", *(f"{i + 1}." for i in range(top)))
    for path in pictures:
        try:
            image = transform(open_image(path))
        except BadImage as error:
            if on_bad_image == "stop":
                raise
            print(f"skipped: {error}", file=sys.stderr)
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
