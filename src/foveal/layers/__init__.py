"""What two families share, and nothing else; timm's and torchvision's layers are used where they exist."""

from ._conv import ConvMlp, ConvNorm, DepthwiseConv, ResidualDWConv
from ._fast import Linear, has_symbols, is_exporting, is_fast_path, notrace, on_gpu
from ._init import init_tokens
from ._pyramid import PyramidBackbone, Stage, four_stages

__all__ = [
    "ConvMlp",
    "ConvNorm",
    "DepthwiseConv",
    "Linear",
    "PyramidBackbone",
    "ResidualDWConv",
    "Stage",
    "four_stages",
    "has_symbols",
    "init_tokens",
    "is_exporting",
    "is_fast_path",
    "notrace",
    "on_gpu",
]
