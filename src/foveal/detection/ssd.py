"""SSD (Liu et al., 2016, SSD: Single shot multibox detector), by torchvision's head and default boxes.

Ours is where the levels start: the paper's first two are VGG's at strides 8 and 16, these are a backbone's at strides
16 and 32, and all extra levels halve the map, which makes maps of side 20, 10, 5, 3, 2 and 1 at 320x320. The paper's L2
normalisation of the first map is for VGG, which has no norms, and is left out. The extra levels' channels and the
aspect ratios are the paper's (figure 2, section 3.1), the scales those for COCO (section 3.4) without the one that
belongs to stride 8.
"""

from itertools import pairwise

from torch import nn
from torchvision.models.detection.ssd import SSDHead

from ..necks import Pyramid
from ._detector import register
from ._ssd import MultiBox, default_boxes


@register("ssd")
class SSD(MultiBox):
    """SSD with six levels, of four or six default boxes a position.

    Args:
        backbone: maps of strides 16, 32.
        num_classes: number of classes, without background.
        min_ratio: scale of the default boxes of the finest level, as a share of the image's sides.
        max_ratio: the same of the coarsest level.
        score_thresh: detections below this score are left out.
        nms_thresh: overlap above which the lower one of two boxes of a class is left out.
        detections_per_img: most detections of a picture.
        topk_candidates: most default boxes of a class before suppression.

    Raises:
        UserError: no class, ratios that are not positive and in order.
    """

    def __init__(
        self,
        backbone: Pyramid,
        num_classes: int,
        *,
        min_ratio: float = 0.15,
        max_ratio: float = 0.9,
        score_thresh: float = 0.01,
        nms_thresh: float = 0.45,
        detections_per_img: int = 200,
        topk_candidates: int = 400,
    ):
        super().__init__(backbone, num_classes)
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img, self.topk_candidates = detections_per_img, topk_candidates
        self.anchors = default_boxes([[2], [2, 3], [2, 3], [2, 3], [2], [2]], min_ratio, max_ratio)
        channels = [*backbone.channels, 512, 256, 256, 256]
        self.extra = nn.ModuleList(_extra_level(*pair) for pair in pairwise(channels[1:]))
        self.head = SSDHead(channels, self.anchors.num_anchors_per_location(), num_classes + 1)


def _extra_level(in_channels: int, out_channels: int) -> nn.Sequential:
    """[B, in_channels, H, W] -> [B, out_channels, H / 2, W / 2], rounded upwards."""
    level = nn.Sequential(
        nn.Conv2d(in_channels, out_channels // 2, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels // 2, out_channels, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
    )
    for parameter in level.parameters():
        init = nn.init.xavier_uniform_ if parameter.ndim > 1 else nn.init.zeros_
        init(parameter)
    return level
