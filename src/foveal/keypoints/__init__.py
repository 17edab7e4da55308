"""Keypoints of the one body in an image, over any timm backbone, one file per model."""

from . import simple_baseline  # noqa: F401 - the import enters an estimator into ESTIMATORS
from ._estimator import ESTIMATORS, STRIDE, Estimator, build

__all__ = ["ESTIMATORS", "STRIDE", "Estimator", "build"]
