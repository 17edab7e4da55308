"""Parameters and multiply-adds of our models as the thesis counts them."""

from math import ceil

from torch import nn

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
