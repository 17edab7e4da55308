"""UperNet (Xiao et al., 2018, Unified perceptual parsing for scene understanding), as mmsegmentation builds it.

Pyramid pooling (Zhao et al., 2017) on the coarsest map, a pyramid with BatchNorm, and in training an auxiliary head on
the map of stride 16.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..necks import Pyramid
from ._segmenter import Classes, ConvNormReLU, Segmenter, pixel_loss, register

AUXILIARY = 2  # the map of stride 16


class GridMean(nn.AdaptiveAvgPool2d):
    """``nn.AdaptiveAvgPool2d`` of a square; in export, where its cells may not depend on a size, as two products."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting():
            return super().forward(input)
        rows, columns = (self.shares(side, input) for side in input.shape[2:])
        return rows @ input @ columns.T

    def shares(self, side: int, like: torch.Tensor) -> torch.Tensor:
        """What each position of an axis gives to each cell, [cells, side]."""
        cells: Any = self.output_size
        cell, position = torch.arange(cells, device=like.device), torch.arange(side, device=like.device)
        first, end = cell * side // cells, ((cell + 1) * side + cells - 1) // cells
        inside = (position >= first[:, None]) & (position < end[:, None])
        return inside.to(like.dtype) / (end - first)[:, None]


class PyramidPooling(nn.Module):
    """The map beside its means over grids of several sizes (Zhao et al., 2017, section 3.2)."""

    def __init__(self, in_channels: int, channels: int, scales: tuple[int, ...]):
        super().__init__()
        self.pools = nn.ModuleList(
            nn.Sequential(GridMean(scale), ConvNormReLU(in_channels, channels)) for scale in scales
        )
        self.bottleneck = ConvNormReLU(in_channels + len(scales) * channels, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, in_channels, H, W] -> [B, channels, H, W]."""
        pooled = [F.interpolate(pool(x), x.shape[2:], mode="bilinear") for pool in self.pools]
        return self.bottleneck(torch.cat([x, *pooled], dim=1))


@register("upernet")
class UperNet(Segmenter):
    """UperNet over maps of strides 4 to 32.

    Args:
        backbone: maps of strides 4, 8, 16, 32.
        num_classes: number of classes.
        channels: of pyramid and head.
        auxiliary_channels: of the auxiliary head.
        auxiliary_weight: of its loss; 0 leaves it out.
        pool_scales: sides of the grids of pyramid pooling.
        dropout: of channels before the classes, in training.
    """

    def __init__(
        self,
        backbone: Pyramid,
        num_classes: int,
        *,
        channels: int = 512,
        auxiliary_channels: int = 256,
        auxiliary_weight: float = 0.4,
        pool_scales: tuple[int, ...] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ):
        super().__init__(backbone, num_classes)
        self.auxiliary_weight = auxiliary_weight
        *finer, coarsest = backbone.channels
        self.pooling = PyramidPooling(coarsest, channels, pool_scales)
        self.lateral = nn.ModuleList(ConvNormReLU(width, channels) for width in finer)
        self.smooth = nn.ModuleList(ConvNormReLU(channels, channels, 3) for _ in finer)
        self.bottleneck = ConvNormReLU(len(backbone.channels) * channels, channels, 3)
        self.classes = Classes(channels, num_classes, dropout)
        self.auxiliary: nn.Module | None = None
        if auxiliary_weight:
            head = ConvNormReLU(backbone.channels[AUXILIARY], auxiliary_channels, 3)
            self.auxiliary = nn.Sequential(head, Classes(auxiliary_channels, num_classes, dropout))

    def forward(self, images: torch.Tensor) -> dict[str, Any]:
        """``logits`` [B, num_classes, h, w], and ``map`` of stride 16 for the auxiliary head."""
        maps = self.backbone(images)
        x = self.pooling(maps[-1])
        levels = [x]
        for finer, lateral, smooth in reversed([*zip(maps, self.lateral, self.smooth)]):
            x = lateral(finer) + F.interpolate(x, finer.shape[2:], mode="bilinear")
            levels.insert(0, smooth(x))
        levels = [F.interpolate(x, levels[0].shape[2:], mode="bilinear") for x in levels]
        return {"logits": self.classes(self.bottleneck(torch.cat(levels, dim=1))), "map": maps[AUXILIARY]}

    def losses(self, raw: dict[str, Any], targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """Also ``auxiliary``, the same of the auxiliary head, times its weight."""
        parts = super().losses(raw, targets)
        if self.auxiliary is not None:
            parts["auxiliary"] = self.auxiliary_weight * pixel_loss(self.auxiliary(raw["map"]), targets, stride=16)
        return parts
