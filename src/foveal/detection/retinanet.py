"""RetinaNet (Lin et al., 2017, Focal loss for dense object detection), by torchvision's head and anchors.

Losses and detections equal torchvision's. The two coarsest levels come from the backbone's last map, as in the paper.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import sigmoid_focal_loss

from ..necks import FPN, Pyramid, pad_to_32
from ._dense import candidates, float_tree, grid_anchors, logit, match, suppressed
from ._detector import Detector, register


@register("retinanet")
class RetinaNet(Detector):
    """RetinaNet at strides 8 to 128, with nine anchors a position.

    Args:
        backbone: maps of strides 8, 16, 32.
        num_classes: number of classes.
        channels: of the pyramid's maps and of the head's layers.
        anchor_size: side in pixels of the smallest anchor of the finest level; each level doubles it.
        score_thresh: detections below this score are left out.
        nms_thresh: overlap above which the lower one of two boxes of a class is left out.
        detections_per_img: most detections of a picture.
        topk_candidates: most pairs of anchor and class of a level before suppression.
    """

    strides = (8, 16, 32)

    def __init__(
        self,
        backbone: Pyramid,
        num_classes: int,
        *,
        channels: int = 256,
        anchor_size: int = 32,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
        topk_candidates: int = 1000,
    ):
        super().__init__(backbone, num_classes)
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img, self.topk_candidates = detections_per_img, topk_candidates
        self.neck = FPN(backbone.channels, channels, extra="input")
        sides = [anchor_size * 2**level for level in range(5)]
        sizes = tuple(tuple(int(side * 2 ** (octave / 3)) for octave in range(3)) for side in sides)
        self.anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
        self.head = RetinaNetHead(channels, 9, num_classes)
        self.matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
        self.coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))

    def forward(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> dict[str, Any]:
        """``logits`` [B, N, num_classes], ``deltas`` [B, N, 4], ``anchors`` [N, 4], ``levels`` [5]."""
        images = pad_to_32(images)
        maps = self.neck(self.backbone(images))
        out = self.head(maps)
        anchors = grid_anchors(self.anchors, images.shape[2:], maps)
        return {"logits": out["cls_logits"], "deltas": out["bbox_regression"], **anchors}

    def losses(self, raw: dict[str, Any], targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """``classification``: focal loss; ``boxes``: L1 distance; both by the number of positive anchors."""
        raw = float_tree(raw)
        anchors, classification, boxes = raw["anchors"], [], []
        for logits, deltas, target in zip(raw["logits"], raw["deltas"], targets):
            matches = match(self.matcher, target["boxes"], anchors)
            positive = (matches >= 0).nonzero()[:, 0]
            matched = matches[positive]
            wanted = torch.zeros_like(logits)
            wanted[positive, target["labels"][matched]] = 1.0
            counted = matches != Matcher.BETWEEN_THRESHOLDS
            focal = sigmoid_focal_loss(logits[counted], wanted[counted], reduction="sum")
            offsets = self.coder.encode_single(target["boxes"][matched], anchors[positive])
            number = max(1, len(positive))
            classification.append(focal / number)
            boxes.append(F.l1_loss(deltas[positive], offsets, reduction="sum") / number)
        return {"classification": torch.stack(classification).mean(), "boxes": torch.stack(boxes).mean()}

    @torch.no_grad()
    def detections(self, raw: dict[str, Any], sizes: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        raw = float_tree(raw)
        levels = raw["levels"].tolist()
        threshold = logit(self.score_thresh)
        found = []
        for logits, deltas, size in zip(raw["logits"], raw["deltas"], sizes):
            best, places, labels = candidates(logits, levels, threshold, self.topk_candidates)
            boxes = self.coder.decode_single(deltas[places], raw["anchors"][places])
            found.append(suppressed(boxes, best.sigmoid(), labels, size, self.nms_thresh, self.detections_per_img))
        return found
