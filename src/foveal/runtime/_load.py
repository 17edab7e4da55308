"""A model from a file, whatever its task."""

from typing import Any

from .._errors import UserError
from .._views import AS_TRAINED, Preprocessing
from ._file import File
from .classification import Classifier
from .detection import Detector
from .keypoints import KeypointModel
from .segmentation import Segmenter

TASKS: dict[str, Any] = {
    "classification": Classifier,
    "detection": Detector,
    "segmentation": Segmenter,
    "keypoints": KeypointModel,
}


def task_of(name: str) -> str:
    """The task of an ONNX file; raises UserError."""
    return _task(File(name, quick=True))


def load(name: str, task: str | None = None, preprocessing: Preprocessing = AS_TRAINED) -> Any:
    """The model of an ONNX file.

    Args:
        name: path of the file. One that ``foveal export`` has not written is taken for a classifier, whose first output
            are logits; its metadata may hold ``classes`` and ``preprocessing`` as JSON.
        task: that it must have: classification, detection, segmentation or keypoints; None for any.
        preprocessing: of a classifier what differs from what the file says.

    Returns:
        ``Classifier``, ``Detector``, ``Segmenter`` or ``KeypointModel``.

    Raises:
        UserError: no such file, no ONNX model, another task, malformed metadata, a classifier that does not say how it
            was trained to see.
    """
    file = File(name)
    found = _task(file)
    if task is not None and task != found:
        what = "was not written by foveal and is taken for a classifier" if file.about is None else f"is for {found}"
        raise UserError(f"{name} {what}; expected a model for {task}")
    if found == "classification":
        return Classifier(file, preprocessing)
    if preprocessing != AS_TRAINED:
        raise UserError(f"{name} is for {found}: preprocessing can be changed of a classifier alone")
    return TASKS[found](file)


def _task(file: File) -> str:
    found = "classification" if file.about is None else str(file.about.get("task"))
    if found not in TASKS:
        raise UserError(f"{file.name} has malformed metadata: unknown task {found!r}")
    return found
