"""Initialisation of the two token families; neither chapter states one, this is the usual one of PVTv2."""

import math

from timm.layers import trunc_normal_
from torch import nn


def init_tokens(module: nn.Module) -> None:
    """Linear: truncated normal of std 0.02; convolution: normal by fan-out; biases zero. For ``Module.apply``."""
    if isinstance(module, nn.Linear) and not module.weight.is_meta:  # where that takes a third of building
        trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
    if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
        nn.init.zeros_(module.bias)
