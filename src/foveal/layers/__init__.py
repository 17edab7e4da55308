"""What two families share, and nothing else; timm's and torchvision's layers are used where they exist."""

from ._export import is_exporting
from ._init import init_tokens
from ._nhwc import DepthwiseConv, DWConvMlp, PositionalConv
from ._pyramid import PyramidBackbone, Stage

__all__ = [
    "DWConvMlp",
    "DepthwiseConv",
    "PositionalConv",
    "PyramidBackbone",
    "Stage",
    "init_tokens",
    "is_exporting",
]
