"""Tasks: a model with its losses, predictions and metric."""

from .._models import weights_folder
from ..data import BoxAugment, MaskAugment
from ._classifier import AS_TRAINED, Classifier, Preprocessing, load_classifier
from ._task import Metric, Task, TaskArgs
from ._weights import kind_of
from .classification import Augment, Classification, ClassificationArgs, write_config
from .detection import Detection, DetectionArgs, DetectorModel, load_detector
from .segmentation import Segmentation, SegmentationArgs, SegmenterModel, Views, load_segmenter

TASKS: dict[str, type[TaskArgs]] = {
    "classification": ClassificationArgs,
    "detection": DetectionArgs,
    "segmentation": SegmentationArgs,
}

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
    "MaskAugment",
    "Metric",
    "Preprocessing",
    "Segmentation",
    "SegmentationArgs",
    "SegmenterModel",
    "Task",
    "TaskArgs",
    "Views",
    "kind_of",
    "load_classifier",
    "load_detector",
    "load_segmenter",
    "weights_folder",
    "write_config",
]
