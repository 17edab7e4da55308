"""Keypoints of one body in each image, over any timm backbone, one file per model."""

from . import simple_baseline  # noqa: F401 - the import enters an estimator into ESTIMATORS
from ._estimator import ESTIMATORS, Estimator, build

__all__ = ["ESTIMATORS", "Estimator", "build"]
