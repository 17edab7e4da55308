"""``foveal predict MODEL PICTURE|FOLDER|VIDEO... [--out FOLDER] [--json]``"""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .._views import AS_TRAINED, AT_ONCE, Preprocessing, Views
from . import changed, check_unused
from ._load import kind_of
from ._predict_classification import TOP, predict_classes
from ._predict_detection import THRESHOLD, predict_objects
from ._predict_keypoints import predict_bodies
from ._predict_segmentation import predict_pixels


def main(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PICTURE...")],
    /,
    *,
    boxes: str | None = None,
    top: int | None = None,
    threshold: float | None = None,
    out: Path | None = None,
    preprocessing: Preprocessing = AS_TRAINED,
    views: Views = AT_ONCE,
    device: str = "cpu",
    on_bad_image: Literal["stop", "skip"] = "stop",
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Label pictures with a classifier, or their pixels with a segmenter; find objects and joints in pictures, videos.

    Args:
        model: a run's folder or an .onnx file; for a classifier also a timm model that has weights, hf-hub:REPO or
            local-dir:FOLDER. A file needs no PyTorch.
        pictures: files and folders of pictures; for a detector and a keypoint estimator also videos.
        boxes: the folder or the file of a detector, in whose boxes a keypoint estimator looks for joints; without it a
            picture shows one body, which fills it.
        top: how many classes a classifier names; 3 without it.
        threshold: least score of what a detector finds; 0.5 without it.
        out: new files of the same names in this folder show what a detector or a keypoint estimator finds, videos
            without sound; of a segmenter masks/ has the classes and overlays/ shows them. None is overwritten.
        device: as torch names it.
        on_bad_image: stop at a picture or video that cannot be read, or skip it and list it.
        as_json: a JSON object per picture, and per picture of a video, instead of a table.
    """
    common: dict[str, Any] = dict(device=device, on_bad_image=on_bad_image, as_json=as_json)
    kind = kind_of(model)
    if kind == "keypoints":
        check_unused({"top": top} | changed(preprocessing) | changed(views), "a keypoint estimator")
        if boxes is None:
            check_unused({"threshold": threshold}, "a keypoint estimator without --boxes")
        threshold = THRESHOLD if threshold is None else threshold
        return predict_bodies(model, pictures, boxes=boxes, threshold=threshold, out=out, **common)
    if kind == "detection":
        check_unused({"boxes": boxes, "top": top} | changed(preprocessing) | changed(views), "a detector")
        threshold = THRESHOLD if threshold is None else threshold
        return predict_objects(model, pictures, threshold=threshold, out=out, **common)
    if kind == "segmentation":
        check_unused({"boxes": boxes, "top": top, "threshold": threshold} | changed(preprocessing), "a segmenter")
        return predict_pixels(model, pictures, views=views, out=out, **common)
    check_unused({"boxes": boxes, "threshold": threshold, "out": out} | changed(views), "a classifier")
    return predict_classes(model, pictures, top=TOP if top is None else top, preprocessing=preprocessing, **common)
