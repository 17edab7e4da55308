"""What stands between a backbone and a head."""

from .fpn import FPN
from .model import PyramidModel, Registry, mean_over_processes
from .pyramid import Pyramid, pad_to_32

__all__ = ["FPN", "Pyramid", "PyramidModel", "Registry", "mean_over_processes", "pad_to_32"]
