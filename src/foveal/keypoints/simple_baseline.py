"""SimpleBaseline (Xiao et al., 2018, Simple baselines for human pose estimation and tracking)."""

from typing import Any

import torch
from torch import nn

from ..necks import Pyramid
from ._estimator import STRIDE, Estimator, register


@register("simple_baseline")
class SimpleBaseline(Estimator):
    """Three transposed convolutions on the backbone's last map, and a 1x1 convolution to the heatmaps (section 2.1).

    Args:
        backbone: map of stride 32.
        num_classes: number of joints.
        channels: of the transposed convolutions.
        args: see ``Estimator``.
    """

    strides = (32,)

    def __init__(self, backbone: Pyramid, num_classes: int, *, channels: int = 256, **args: Any):
        super().__init__(backbone, num_classes, **args)
        widths = [*backbone.channels, channels, channels]
        self.deconvs = nn.Sequential(*(DeconvNormReLU(width, channels) for width in widths))
        self.heatmaps = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.heatmaps.weight, std=0.001)
        self.heatmaps.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, images: torch.Tensor) -> dict[str, Any]:
        """``heatmaps`` [B, K, ceil(H / 4), ceil(W / 4)]."""
        (x,) = self.backbone(images)
        h, w = ((side + STRIDE - 1) // STRIDE for side in images.shape[2:])  # ONNX divides towards zero
        return {"heatmaps": self.heatmaps(self.deconvs(x)[..., :h, :w])}


class DeconvNormReLU(nn.Sequential):
    """4x4 transposed convolution of stride 2, BatchNorm, ReLU: [B, C, H, W] -> [B, out_channels, 2H, 2W]."""

    def __init__(self, in_channels: int, out_channels: int):
        deconv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        nn.init.normal_(deconv.weight, std=0.001)
        super().__init__(deconv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
