"""``foveal predict MODEL PICTURE|FOLDER|VIDEO... [--out FOLDER] [--json]``"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..tasks import AS_TRAINED, Preprocessing, kind_of
from . import check_device, check_unused
from ._predict_classification import TOP, predict_classes
from ._predict_detection import THRESHOLD, predict_objects


def main(argv: list[str]) -> int:
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    return tyro.cli(predict, args=argv, prog="foveal predict", config=config)


def predict(
    model: Annotated[str, tyro.conf.Positional],
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    *,
    top: int | None = None,
    threshold: float | None = None,
    out: Path | None = None,
    preprocessing: Preprocessing = AS_TRAINED,
    device: str = "cpu",
    on_bad_image: Literal["stop", "skip"] = "stop",
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Label pictures with a classifier, find objects in pictures and videos with a detector.

    Args:
        model: a run's folder; of a classifier also a timm model that has weights, hf-hub:REPO, local-dir:FOLDER or an
            .onnx file.
        pictures: files, and folders of them; of a detector videos too.
        top: how many classes a classifier names; 3 without it.
        threshold: least score of what a detector finds; 0.5 without it.
        out: new files of the same names in this folder show what a detector finds, videos without sound; none is
            overwritten.
        device: as torch names it.
        on_bad_image: stop at a picture or video that cannot be read, or skip it and list it.
        as_json: a JSON object per picture, and per picture of a video, instead of a table.
    """
    common: dict[str, Any] = dict(device=check_device(device), on_bad_image=on_bad_image, as_json=as_json)
    if kind_of(model) == "detection":
        check_unused({"top": top} | asdict(preprocessing), "a detector")
        threshold = THRESHOLD if threshold is None else threshold
        return predict_objects(model, pictures, threshold=threshold, out=out, **common)
    check_unused({"threshold": threshold, "out": out}, "a classifier")
    return predict_classes(model, pictures, top=TOP if top is None else top, preprocessing=preprocessing, **common)
