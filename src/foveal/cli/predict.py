"""``foveal predict MODEL PICTURE|FOLDER|VIDEO... [--out FOLDER] [--json]``"""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..tasks import AS_TRAINED, AT_ONCE, Preprocessing, Views, kind_of
from . import changed, check_device, check_unused
from ._predict_classification import TOP, predict_classes
from ._predict_detection import THRESHOLD, predict_objects
from ._predict_segmentation import predict_pixels


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
    views: Views = AT_ONCE,
    device: str = "cpu",
    on_bad_image: Literal["stop", "skip"] = "stop",
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Label pictures with a classifier, or their pixels with a segmenter; find objects in pictures and videos.

    Args:
        model: a run's folder; for a classifier also a timm model that has weights, hf-hub:REPO, local-dir:FOLDER or
            an .onnx file.
        pictures: files and folders of pictures; for a detector also videos.
        top: how many classes a classifier names; 3 without it.
        threshold: least score of what a detector finds; 0.5 without it.
        out: new files of the same names in this folder show what a detector finds, videos without sound; of a segmenter
            masks/ has the classes and overlays/ shows them. None is overwritten.
        device: as torch names it.
        on_bad_image: stop at a picture or video that cannot be read, or skip it and list it.
        as_json: a JSON object per picture, and per picture of a video, instead of a table.
    """
    common: dict[str, Any] = dict(device=check_device(device), on_bad_image=on_bad_image, as_json=as_json)
    kind = kind_of(model)
    if kind == "detection":
        check_unused({"top": top} | changed(preprocessing) | changed(views), "a detector")
        threshold = THRESHOLD if threshold is None else threshold
        return predict_objects(model, pictures, threshold=threshold, out=out, **common)
    if kind == "segmentation":
        check_unused({"top": top, "threshold": threshold} | changed(preprocessing), "a segmenter")
        return predict_pixels(model, pictures, views=views, out=out, **common)
    check_unused({"threshold": threshold, "out": out} | changed(views), "a classifier")
    return predict_classes(model, pictures, top=TOP if top is None else top, preprocessing=preprocessing, **common)
