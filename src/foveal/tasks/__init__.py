"""Tasks: a model with its losses, predictions and metric."""

from .._models import weights_folder
from ..data import BoxAugment
from ._classifier import AS_TRAINED, Classifier, Preprocessing, load_classifier
from ._task import Metric, Task, TaskArgs
from ._weights import kind_of
from .classification import Augment, Classification, ClassificationArgs, write_config
from .detection import Detection, DetectionArgs, DetectorModel, load_detector

TASKS: dict[str, type[TaskArgs]] = {"classification": ClassificationArgs, "detection": DetectionArgs}

__all__ = [
    "AS_TRAINED",
    "TASKS",
    "Augment",
    "BoxAugment",
    "Classification",
    "ClassificationArgs",
    "Classifier",
    "Detection",
    "DetectionArgs",
    "DetectorModel",
    "Metric",
    "Preprocessing",
    "Task",
    "TaskArgs",
    "kind_of",
    "load_classifier",
    "load_detector",
    "weights_folder",
    "write_config",
]
