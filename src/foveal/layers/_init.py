"""Initialisation of the two token families; neither chapter states one, this is the usual one of PVTv2."""

import math

from timm.layers import trunc_normal_
from torch import nn


def init_tokens(module: nn.Module) -> None:
    """Linear: truncated normal of std 0.02; convolution: normal by fan-out; biases zero. For ``Module.apply``."""
    if not isinstance(module, (nn.Linear, nn.Conv2d)) or module.weight.is_meta:  # to fill what has no values is slow
        return
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
    else:
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
