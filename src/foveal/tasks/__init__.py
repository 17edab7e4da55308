"""Tasks: a model with its losses, predictions and metric."""

from ._task import Metric, Task, TaskArgs
from .classification import Augment, Classification, ClassificationArgs

TASKS: dict[str, type[TaskArgs]] = {"classification": ClassificationArgs}

__all__ = ["TASKS", "Augment", "Classification", "ClassificationArgs", "Metric", "Task", "TaskArgs"]
