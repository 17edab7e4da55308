"""Metrics with ``update``, ``compute`` and ``reset``, and ``state`` and ``merge`` for several processes."""

from .accuracy import Accuracy
from .calibration import Calibration
from .coco import CocoAP, coco_results, encode_mask
from .confusion import draw_confusion
from .iou import MeanIoU
from .oks import OksAP
from .real import RealLabels
from .report import ClassificationReport

__all__ = [
    "Accuracy",
    "Calibration",
    "ClassificationReport",
    "CocoAP",
    "MeanIoU",
    "OksAP",
    "RealLabels",
    "coco_results",
    "draw_confusion",
    "encode_mask",
]
