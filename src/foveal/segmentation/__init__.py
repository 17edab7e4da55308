"""Semantic segmentation over any timm backbone, one file each."""

from . import semantic_fpn, upernet  # noqa: F401 - the import enters a segmenter into SEGMENTERS
from ._segmenter import SEGMENTERS, Segmenter, build

__all__ = ["SEGMENTERS", "Segmenter", "build"]
