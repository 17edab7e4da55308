"""Parameters and multiply-adds of our models as the thesis counts them."""

from math import ceil

import torch
from torch import nn

from ..backbones.emsnet import Propagation
from ..backbones.partialformer import PartialAttention
from ..bench import count_macs


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def thesis_macs(model: nn.Module, size: tuple[int, int] = (224, 224)) -> int:
    """Multiply-adds of one image of ``size`` (H, W) by the convention of the model's chapter.

    Chapter 3 (EMSNet): products. Chapter 4 (MAT Transformer): fvcore's count. Chapter 5 (PartialFormer): products,
    with queries, keys and values of all tokens (eq. 5.8), which the model does not compute for background tokens.
    """
    macs = count_macs(model, size)
    family = type(getattr(model, "model", model)).__name__  # features_only wraps the model
    if family == "MAT":
        return macs.fvcore
    if family == "PartialFormer":
        return macs.products + background_projections(model, size)
    return macs.products


def background_projections(model: nn.Module, size: tuple[int, int]) -> int:
    """What eq. 5.8 and the two products of eq. 5.6 would cost a PartialFormer beyond what it computes."""
    extra = 0
    for name, module in model.named_modules():
        if not isinstance(module, PartialAttention):
            continue
        stage = int(name.split("stages.")[1].split(".")[0])
        tokens = ceil(size[0] / 2 ** (stage + 2)) * ceil(size[1] / 2 ** (stage + 2))
        dim, heads = module.qkv.in_features, module.num_heads
        foreground = ceil(tokens / module.fg_div)
        literal = 3 * (tokens + 1) * dim**2 + 2 * (tokens - foreground) * dim
        folded = 3 * (foreground + 1) * dim**2 + 2 * tokens * dim * heads + 2 * dim**2
        extra += literal - folded
    return extra


def further_macs(model: nn.Module, size: tuple[int, int]) -> int:
    """What some counters add to the products of an EMSNet: an upper estimate of what the chapter counts beyond them.

    2 per element of BatchNorm, 1 per element of GELU, and p^2 per output of Propagation.
    """
    extra = 0

    def count(module: nn.Module, args: tuple, out: torch.Tensor) -> None:
        nonlocal extra
        if isinstance(module, Propagation):
            area = module.weight.shape[0] ** 2
            extra += area * (out.numel() - args[0].numel())
        else:
            extra += out.numel() * (2 if isinstance(module, nn.BatchNorm2d) else 1)

    counted = [module for module in model.modules() if isinstance(module, (nn.BatchNorm2d, nn.GELU, Propagation))]
    hooks = [module.register_forward_hook(count) for module in counted]
    parameter = next(model.parameters())
    model.eval()(torch.zeros(1, 3, *size, device=parameter.device))
    for hook in hooks:
        hook.remove()
    return extra


def equations_macs(tokens: int, dim: int, heads: int, foreground: int, expand: int) -> int:
    """One partial attention module by eq. 5.8 to 5.10 as printed: dim stands in HeadMLP's term where N_F belongs."""
    projections = 3 * tokens * dim**2
    mmsa = foreground * dim**2 + 2 * foreground**2 * dim + 2 * expand * heads**2 * dim * foreground
    return projections + mmsa + 3 * (tokens - foreground) * dim


def pvt_macs(tokens: int, dim: int, reduction: int) -> int:
    """Attention with keys reduced by ``reduction`` per side by a convolution of that kernel and stride."""
    reduced = tokens // reduction**2
    return 3 * tokens * dim**2 + 2 * reduced * dim**2 + 2 * tokens * reduced * dim


def swin_macs(tokens: int, dim: int, window: int) -> int:
    """Window attention: four projections and two products with the keys of a window."""
    return 4 * tokens * dim**2 + 2 * window**2 * tokens * dim
