"""Exported models of any task in ONNX Runtime: numpy, Pillow and onnxruntime suffice.

``load("model.onnx")`` gives a model that knows its task, its classes and its preprocessing: all lie in the file.
"""

from ._file import KEY, VERSION, File, Model, is_exported
from ._load import load, task_of
from .classification import Classifier
from .detection import Detector
from .keypoints import KeypointModel
from .segmentation import Segmenter

__all__ = [
    "KEY",
    "VERSION",
    "Classifier",
    "Detector",
    "File",
    "KeypointModel",
    "Model",
    "Segmenter",
    "is_exported",
    "load",
    "task_of",
]
