"""Parameters and multiply-adds of our models as the thesis counts them."""

from collections.abc import Iterator
from math import ceil
from typing import Any, TypeVar

import timm
import torch
from torch import nn

from ..backbones import EMSNet
from ..backbones.emsnet import Propagation
from ..backbones.mat import MAT, MATAttention
from ..backbones.partialformer import PartialAttention
from ..bench import Macs
from ..detection import DETECTORS, Detector
from ..detection.mask_rcnn import RCNN
from ..keypoints import ESTIMATORS
from ..segmentation import SEGMENTERS

T = TypeVar("T", bound=nn.Module)

METHODS = (DETECTORS, 80), (SEGMENTERS, 150), (ESTIMATORS, 17)  # with the classes of COCO, ADE20K, COCO's joints
BOXES, MASKS = 1000, 100  # on which mmdetection's counter runs the heads of Mask R-CNN


class Counted(nn.Module):
    """A detector as mmdetection's counter runs it: what follows the choice of boxes included, the choice left out."""

    detector: Any

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector

    def forward(self, images: torch.Tensor) -> None:
        raw = self.detector(images)
        if self.detector.masks:
            self.detector.mask_outputs(raw["maps"], [images.new_zeros(MASKS, 4)])
        if isinstance(self.detector, RCNN):
            self.detector.box_outputs(raw["maps"], [images.new_zeros(BOXES, 4)])


def build(method: str, model: str, args: dict[str, Any], **method_args: Any) -> nn.Module:
    """A timm model with its arguments; in a detector, segmenter or estimator of keypoints if ``method`` names one."""
    for registry, classes in METHODS:
        if method in registry:
            built = registry.build(method, model, classes, backbone_args=args, **method_args)
            return Counted(built) if isinstance(built, Detector) else built
    assert not method, method
    return timm.create_model(model, **args)


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def thesis_macs(model: nn.Module, macs: Macs, size: tuple[int, int] = (224, 224)) -> int:
    """Multiply-adds of one image by the convention of the model's chapter.

    Chapter 3 (EMSNet): products. Chapter 4 (MAT Transformer): fvcore's count. Chapter 5 (PartialFormer): products,
    with queries, keys and values of all tokens (eq. 5.8), which the model does not compute for background tokens.

    Args:
        macs: what ``count_macs`` gives.
        size: (H, W) of the image.
    """
    if _holds(model, MAT):
        return macs.fvcore
    return macs.products + background_projections(model, size)


def other_macs(model: nn.Module, macs: Macs, size: tuple[int, int]) -> tuple[int, str] | None:
    """The count by a rule that comes nearer to some of the chapter's figures, and that rule; None for chapter 5."""
    if _holds(model, EMSNet):
        rule = "if norms, activations and p^2 per output of Propagation are counted too"
        return macs.products + further_macs(model, size), rule
    if _holds(model, MAT):
        rule = "by a counter that does not see attention's products, with windows padded before their projections"
        return macs.products + padded_projections(model, size), rule
    return None


def background_projections(model: nn.Module, size: tuple[int, int]) -> int:
    """What eq. 5.8 and the two products of eq. 5.6 would cost a PartialFormer beyond what it computes."""
    extra = 0
    for module, height, width in _in_stages(model, size, PartialAttention):
        tokens, dim, heads = height * width, module.qkv.in_features, module.num_heads
        foreground = ceil(tokens / module.fg_div)
        literal = 3 * (tokens + 1) * dim**2 + 2 * (tokens - foreground) * dim
        folded = 3 * (foreground + 1) * dim**2 + 2 * tokens * dim * heads + 2 * dim**2
        extra += literal - folded
    return extra


def padded_projections(model: nn.Module, size: tuple[int, int]) -> int:
    """What a counter of modules finds in a MAT that pads windows before all their projections, beyond our products.

    It finds the four projections at padded positions and no products of attention. For maps of a window or more.
    """
    extra = 0
    for module, height, width in _in_stages(model, size, MATAttention):
        tokens, area, dim = height * width, module.window_size**2, module.qkv.in_features
        windows = ceil(height / module.window_size) * ceil(width / module.window_size)
        attention = windows * (area + module.mix) * area + module.mix * (windows**2 + tokens * windows)
        extra += 4 * (windows * area - tokens) * dim**2 - 2 * attention * dim
    return extra


def _holds(model: nn.Module, family: type[nn.Module]) -> bool:
    return any(isinstance(module, family) for module in model.modules())


def _in_stages(model: nn.Module, size: tuple[int, int], kind: type[T]) -> Iterator[tuple[T, int, int]]:
    """Modules of a kind, with height and width of their stage's map for an image of ``size``."""
    for name, module in model.named_modules():
        if isinstance(module, kind):
            stride = 4 * 2 ** int(name.split("stages.")[1].split(".")[0])
            yield module, ceil(size[0] / stride), ceil(size[1] / stride)


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
    """One partial attention module by eq. 5.8 to 5.10 as printed, less ChannelMLP's 2 d^2 / r, which is some hundreds.

    ``dim`` stands in HeadMLP's term where N_F belongs.
    """
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
