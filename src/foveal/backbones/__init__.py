"""The three families; importing this registers them with timm."""

from .emsnet import EMSNet
from .mat import MAT
from .partialformer import PartialFormer

__all__ = ["MAT", "EMSNet", "PartialFormer"]
