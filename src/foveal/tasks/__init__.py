"""Tasks: a model with its losses, predictions and metric."""

from ._task import Metric, Task
from .classification import Classification

__all__ = ["Classification", "Metric", "Task"]
