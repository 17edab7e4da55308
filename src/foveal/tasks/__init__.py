"""Tasks: a model with its losses, predictions and metric."""

from .classification import Classification

__all__ = ["Classification"]
