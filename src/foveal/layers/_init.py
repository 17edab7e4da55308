"""Initialisation of the two token families; neither chapter states one, this is the usual one of PVTv2.

EMSNet shares that of projections.
"""

import math

from timm.layers import trunc_normal_
from torch import nn


def init_tokens(module: nn.Module) -> None:
    """Linear: truncated normal of std 0.02; convolution: normal by fan-out; biases zero. For ``Module.apply``."""
    if isinstance(module, nn.Linear):
        init_projection(module)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_projection(module: nn.Linear | nn.Conv2d) -> None:
    """Truncated normal of std 0.02, bias zero; nothing on the meta device, where that takes a third of building."""
    if module.weight.is_meta:
        return
    trunc_normal_(module.weight, std=0.02)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
