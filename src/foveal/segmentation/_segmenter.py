"""The contract of every segmenter, and what they share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..data import IGNORED
from ..necks import PyramidModel, Registry, mean_over_processes


class Segmenter(PyramidModel, ABC):
    """A class for every pixel, 0 to num_classes - 1. Images come normalised and resized."""

    @abstractmethod
    def forward(self, images: torch.Tensor) -> dict[str, Any]:
        """The raw outputs, the same in training and evaluation.

        Args:
            images: [B, 3, H, W].

        Returns:
            ``logits`` [B, num_classes, h, w] at stride 4, where 4h and 4w are H and W rounded up to multiples of 32;
            and what ``losses`` needs beside them.
        """

    def losses(self, raw: dict[str, Any], targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parts of the loss, to be summed: ``pixels``, the mean cross entropy of the pixels that count.

        Args:
            raw: what ``forward`` gave.
            targets: classes [B, H, W], 255 where a pixel does not count.
        """
        return {"pixels": pixel_loss(raw["logits"], targets)}

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] -> logits of each class for each pixel [B, num_classes, H, W]."""
        return enlarged(self(images)["logits"].float(), images.shape[2:])


SEGMENTERS: Registry[Segmenter] = Registry("segmenter")
register, build = SEGMENTERS.register, SEGMENTERS.build


def enlarged(logits: torch.Tensor, size: Sequence[int], stride: int = 4) -> torch.Tensor:
    """[B, K, h, w] -> [B, K, H, W], bilinear: the upper left part of a map ``stride`` times as large."""
    return F.interpolate(logits, scale_factor=float(stride), mode="bilinear")[..., : size[0], : size[1]]


def pixel_loss(logits: torch.Tensor, targets: torch.Tensor, stride: int = 4) -> torch.Tensor:
    """Mean cross entropy of logits [B, K, h, w] over the pixels of all processes that count, of targets [B, H, W]."""
    number = mean_over_processes((targets != IGNORED).sum())
    logits = enlarged(logits.float(), targets.shape[1:], stride)
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum") / number


class ConvNormReLU(nn.Sequential):
    """Convolution, BatchNorm, ReLU, initialised as in mmsegmentation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1):
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class Classes(nn.Sequential):
    """Dropout of whole channels and a 1x1 convolution: logits [B, num_classes, H, W] of a map [B, C, H, W]."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float):
        conv = nn.Conv2d(in_channels, num_classes, 1)
        nn.init.normal_(conv.weight, std=0.01)
        conv.bias = nn.Parameter(torch.zeros(num_classes))
        super().__init__(nn.Dropout2d(dropout), conv)
