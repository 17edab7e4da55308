"""``foveal eval MODEL --data D [--per-class] [--json]``"""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from .._errors import UserError
from .._views import AS_TRAINED, AT_ONCE, Preprocessing, Views
from . import changed, check_unused
from ._eval_classification import evaluate_classifier
from ._eval_detection import evaluate_detector
from ._eval_keypoints import evaluate_keypoints
from ._eval_segmentation import evaluate_segmenter
from ._evaluation import Evaluation
from ._load import kind_of


def main(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    /,
    *,
    data: str,
    root: Path | None = None,
    boxes: str | None = None,
    labels: Path | None = None,
    preprocessing: Preprocessing = AS_TRAINED,
    batch_size: int | None = None,
    workers: int = 0,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    views: Views = AT_ONCE,
    confusion: Path | None = None,
    save_predictions: Path | None = None,
    per_class: bool = False,
    on_bad_image: Literal["stop", "skip"] = "stop",
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Accuracy and calibration of a classifier, mean IoU of a segmenter, COCO's average precision of other models.

    Args:
        model: a run's folder or an .onnx file; for a classifier also a timm model that has weights, hf-hub:REPO or
            local-dir:FOLDER. A file needs no PyTorch.
        data: a data set's name, a file or a folder, as foveal data lists them; the validation part is taken, of data
            without one all, and of what a run was trained on the tenth that it held out.
        root: where a named data set lies, or the pictures of a COCO file.
        boxes: where a keypoint estimator looks: the folder or the file of a detector, or COCO's results of one
            (.json); in the marked boxes without it.
        labels: labels of the numbered pictures in a folder, in the order of their numbers: a line of text each (class
            index or name, also behind the picture's name), or ImageNet-ReaL's real.json. Of a classifier.
        batch_size: pictures at once; without it 64 of a classifier, and 8 of others.
        workers: processes, for a file threads, that read pictures; 0 reads them in between.
        device: as torch names it.
        precision: bf16 runs under autocast.
        confusion: draw the confusion matrix of a classifier into this PNG, SVG or PDF file.
        save_predictions: write what a detector or a keypoint estimator finds into this .json file, as COCO's results.
        per_class: list every class, or every joint.
        on_bad_image: stop at a picture that cannot be read and at annotations that are wrong, or skip and list them.
        as_json: print one JSON object of metrics, classes, settings and environment, and of a classifier's confusions.
    """
    kind = kind_of(model)
    batch_size = (64 if kind == "classification" else 8) if batch_size is None else batch_size
    for name, value, least in (("batch-size", batch_size, 1), ("workers", workers, 0)):
        if value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")
    asked = Evaluation(
        model=model,
        data=data,
        root=root,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
        per_class=per_class,
        on_bad_image=on_bad_image,
        as_json=as_json,
    )
    of_classifiers = {"labels": labels, "confusion": confusion} | changed(preprocessing)
    if kind == "keypoints":
        check_unused(of_classifiers | changed(views), "a keypoint estimator")
        evaluate_keypoints(asked, boxes, save_predictions)
    elif kind == "detection":
        check_unused(of_classifiers | {"boxes": boxes} | changed(views), "a detector")
        evaluate_detector(asked, save_predictions)
    elif kind == "segmentation":
        check_unused(of_classifiers | {"boxes": boxes, "save_predictions": save_predictions}, "a segmenter")
        evaluate_segmenter(asked, views)
    else:
        check_unused({"boxes": boxes, "save_predictions": save_predictions} | changed(views), "a classifier")
        evaluate_classifier(asked, labels, preprocessing, confusion)
    if not as_json:
        print(f"next: foveal predict {model} PICTURE...")
    return 0
