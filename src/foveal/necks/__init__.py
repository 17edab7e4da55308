"""What stands between a backbone and a head."""

from .fpn import FPN
from .pyramid import Pyramid, pad_to_32

__all__ = ["FPN", "Pyramid", "pad_to_32"]
