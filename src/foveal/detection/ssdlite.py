"""SSDLite (Sandler et al., 2018, MobileNetV2, section 6.2): SSD of separable convolutions, by torchvision's head.

The layers are those of torchvision's ``ssdlite320_mobilenet_v3_large`` and, equally, of mmdetection's
``ssdlite_mobilenetv2``: maps of strides 16 and 32 as the backbone gives them, four extra levels of 512, 256, 256 and
128 channels, six default boxes a position. Scales, initialisation and thresholds are torchvision's.

Of the totals in the thesis's tables 4.5 (there called SSD) and 5.5 the backbones leave 1.2 to 1.4 million parameters to
the head. This one has 1.15 to 1.25 million at their channels, and 0.11 more with 256 in place of 128, as in SSD, which
gives all five totals; that of CVNets, which first projects the maps to 512 and 256 channels, has 0.9 to 1.0 million,
and the one of SSD 8.5 million and more.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import Conv2dNormActivation

from .._errors import UserError
from ..necks import Pyramid
from ._detector import register
from ._ssd import MultiBox, default_boxes


@register("ssdlite")
class SSDLite(MultiBox):
    """SSDLite with six levels, of six default boxes a position.

    In training the coarsest level of a batch of one picture has a single position, of which no variance exists.
    torchvision raises an error then; here BatchNorm uses its running statistics for that map and leaves them as they
    are.

    Args:
        backbone: maps of strides 16, 32.
        num_classes: number of classes, without background.
        extra_channels: of the four extra levels.
        min_ratio: scale of the default boxes of the finest level, as a share of the image's sides.
        max_ratio: the same of the coarsest level.
        score_thresh: detections below this score are left out.
        nms_thresh: overlap above which the lower one of two boxes of a class is left out.
        detections_per_img: most detections of a picture.
        topk_candidates: most default boxes of a class before suppression.

    Raises:
        UserError: no class, other than four extra levels, ratios that are not positive and in order.
    """

    def __init__(
        self,
        backbone: Pyramid,
        num_classes: int,
        *,
        extra_channels: Sequence[int] = (512, 256, 256, 128),
        min_ratio: float = 0.2,
        max_ratio: float = 0.95,
        score_thresh: float = 0.001,
        nms_thresh: float = 0.55,
        detections_per_img: int = 300,
        topk_candidates: int = 300,
    ):
        super().__init__(backbone, num_classes)
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img, self.topk_candidates = detections_per_img, topk_candidates
        self.anchors = default_boxes([[2, 3]] * 6, min_ratio, max_ratio)
        if len(extra_channels) != 4 or min(extra_channels) < 2:
            raise UserError(f"extra_channels takes four numbers of 2 or more, got {[*extra_channels]}")
        channels = [*backbone.channels, *extra_channels]
        self.extra = nn.ModuleList(_extra_level(*pair) for pair in pairwise(channels[1:]))
        self.head = SSDLiteHead(channels, self.anchors.num_anchors_per_location(), num_classes + 1, NORM)


class _BatchNorm(nn.BatchNorm2d):
    """BatchNorm that in training, too, uses its running statistics on maps of one value a channel."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.training and input.numel() == input.shape[1]:  # [1, C, 1, 1]
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


NORM = partial(_BatchNorm, eps=0.001, momentum=0.03)


def _extra_level(in_channels: int, out_channels: int) -> nn.Sequential:
    """[B, in_channels, H, W] -> [B, out_channels, H / 2, W / 2], rounded upwards."""
    half = out_channels // 2
    conv = partial(Conv2dNormActivation, norm_layer=NORM, activation_layer=nn.ReLU6)
    level = nn.Sequential(
        conv(in_channels, half, kernel_size=1),
        conv(half, half, kernel_size=3, stride=2, groups=half),
        conv(half, out_channels, kernel_size=1),
    )
    for module in level.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.03)
    return level
