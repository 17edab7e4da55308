"""Tasks: a model with its losses, predictions and metric."""

from .._models import weights_folder
from ._classifier import AS_TRAINED, Classifier, Preprocessing, load_classifier
from ._task import Metric, Task, TaskArgs
from .classification import Augment, Classification, ClassificationArgs, write_config

TASKS: dict[str, type[TaskArgs]] = {"classification": ClassificationArgs}

__all__ = [
    "AS_TRAINED",
    "TASKS",
    "Augment",
    "Classification",
    "ClassificationArgs",
    "Classifier",
    "Metric",
    "Preprocessing",
    "Task",
    "TaskArgs",
    "load_classifier",
    "weights_folder",
    "write_config",
]
