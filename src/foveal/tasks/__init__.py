"""Tasks: a model with its losses, predictions and metric."""

from collections.abc import Callable
from typing import Any

from .._models import kind_of, weights_folder
from .._views import AS_TRAINED, AT_ONCE, Preprocessing, Views
from ..data import BoxAugment, JointAugment, MaskAugment
from ._classifier import Classifier, load_classifier
from ._task import Card, Metric, Task, TaskArgs
from .classification import Augment, Classification, ClassificationArgs, write_config
from .detection import Detection, DetectionArgs, DetectorModel, load_detector
from .keypoints import KeypointArgs, KeypointModel, Keypoints, load_keypoints
from .segmentation import Segmentation, SegmentationArgs, SegmenterModel, load_segmenter

TASKS: dict[str, type[TaskArgs]] = {
    "classification": ClassificationArgs,
    "detection": DetectionArgs,
    "segmentation": SegmentationArgs,
    "keypoints": KeypointArgs,
}

LOADERS: dict[str, Callable[..., Any]] = {  # of a trained model from its name
    "classification": load_classifier,
    "detection": load_detector,
    "segmentation": load_segmenter,
    "keypoints": load_keypoints,
}

__all__ = [
    "AS_TRAINED",
    "AT_ONCE",
    "LOADERS",
    "TASKS",
    "Augment",
    "BoxAugment",
    "Card",
    "Classification",
    "ClassificationArgs",
    "Classifier",
    "Detection",
    "DetectionArgs",
    "DetectorModel",
    "JointAugment",
    "KeypointArgs",
    "KeypointModel",
    "Keypoints",
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
    "load_keypoints",
    "load_segmenter",
    "weights_folder",
    "write_config",
]
