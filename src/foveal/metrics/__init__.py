"""Metrics with ``update``, ``compute`` and ``reset``."""

from .accuracy import Accuracy

__all__ = ["Accuracy"]
