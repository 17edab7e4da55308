"""What two families share, and nothing else; timm's and torchvision's layers are used where they exist."""

from ._conv import ConvMlp, ConvNorm, DepthwiseConv, ResidualDWConv
from ._fast import Linear, fused_linear, is_exporting, is_fast_path
from ._init import init_tokens
from ._pyramid import PyramidBackbone, Stage

__all__ = [
    "ConvMlp",
    "ConvNorm",
    "DepthwiseConv",
    "Linear",
    "PyramidBackbone",
    "ResidualDWConv",
    "Stage",
    "fused_linear",
    "init_tokens",
    "is_exporting",
    "is_fast_path",
]
