"""Semantic FPN (Kirillov et al., 2019, Panoptic feature pyramid networks), as mmsegmentation builds it.

That is with BatchNorm in the head, where the paper has GroupNorm, and with dropout before the classes.
"""

from typing import Any

import torch
from torch import nn

from ..necks import FPN, Pyramid
from ._segmenter import Classes, ConvNormReLU, Segmenter, register


@register("semantic_fpn")
class SemanticFPN(Segmenter):
    """A pyramid whose levels are enlarged step by step to stride 4 and added up (figure 3).

    Args:
        backbone: maps of strides 4, 8, 16, 32.
        num_classes: number of classes.
        pyramid_channels: of the pyramid.
        channels: of the head.
        dropout: of channels before the classes, in training.
    """

    def __init__(
        self,
        backbone: Pyramid,
        num_classes: int,
        *,
        pyramid_channels: int = 256,
        channels: int = 128,
        dropout: float = 0.1,
    ):
        super().__init__(backbone, num_classes)
        self.neck = FPN(backbone.channels, pyramid_channels)
        self.levels = nn.ModuleList([ConvNormReLU(pyramid_channels, channels, 3)])
        for steps in (1, 2, 3):
            layers: list[nn.Module] = []
            for width in [pyramid_channels] + [channels] * (steps - 1):
                layers += [ConvNormReLU(width, channels, 3), nn.Upsample(scale_factor=2.0, mode="bilinear")]
            self.levels.append(nn.Sequential(*layers))
        self.classes = Classes(channels, num_classes, dropout)

    def forward(self, images: torch.Tensor) -> dict[str, Any]:
        """``logits`` [B, num_classes, h, w]."""
        maps = self.neck(self.backbone(images))
        enlarged = [level(x) for level, x in zip(self.levels, maps, strict=True)]
        return {"logits": self.classes(sum(enlarged[1:], enlarged[0]))}
