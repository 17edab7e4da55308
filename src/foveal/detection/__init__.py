"""Detectors over any timm backbone, one file each."""

from . import atss, detr, fcos, mask_rcnn, retinanet, sparse_rcnn, ssd, ssdlite  # noqa: F401 - the import enters a detector into DETECTORS
from ._detector import DETECTORS, Detector, build

__all__ = ["DETECTORS", "Detector", "build"]
