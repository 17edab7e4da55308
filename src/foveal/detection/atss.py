"""ATSS (Zhang et al., 2020, Bridging the gap between anchor-based and anchor-free detection).

An anchor is positive where it overlaps an object more than a threshold that comes from the object's own candidates. The
head is FCOS's with one square anchor a position and a learned scale a level, as in mmdetection's ATSS.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from ..necks import FPN, Pyramid, mean_over_processes, pad_to_32
from ._dense import candidates, centerness, float_tree, grid_anchors, logit, suppressed
from ._detector import Detector, register

BOX_WEIGHT = 2.0  # of the loss of boxes, as in mmdetection


class ATSSHead(nn.Module):
    """Classes, boxes and centerness of one anchor a position."""

    def __init__(self, in_channels: int, num_classes: int, num_levels: int):
        super().__init__()
        self.classification = FCOSClassificationHead(in_channels, 1, num_classes)
        self.regression = FCOSRegressionHead(in_channels, 1)
        self.scales = nn.Parameter(torch.ones(num_levels))

    def forward(self, maps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        deltas, centers = [], []
        for x, scale in zip(maps, self.scales, strict=True):
            x = self.regression.conv(x)
            deltas.append((self.regression.bbox_reg(x) * scale).flatten(2).transpose(1, 2))  # [B, H*W, 4]
            centers.append(self.regression.bbox_ctrness(x).flatten(1))
        logits = self.classification(maps)
        return {"logits": logits, "deltas": torch.cat(deltas, dim=1), "centerness": torch.cat(centers, dim=1)}


@register("atss")
class ATSS(Detector):
    """ATSS at strides 8 to 128.

    Args:
        backbone: maps of strides 8, 16, 32.
        num_classes: number of classes.
        channels: of the pyramid's maps and of the head's layers, a multiple of 32.
        anchor_size: side in pixels of the square anchor of the finest level; each level doubles it.
        topk: candidates of an object on each level.
        score_thresh: classes below this score are left out; a detection's score is class times centerness.
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
        anchor_size: int = 64,
        topk: int = 9,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.6,
        detections_per_img: int = 100,
        topk_candidates: int = 1000,
    ):
        super().__init__(backbone, num_classes)
        self.topk = topk
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img, self.topk_candidates = detections_per_img, topk_candidates
        self.neck = FPN(backbone.channels, channels, extra="output")
        self.anchors = AnchorGenerator(tuple((anchor_size * 2**level,) for level in range(5)), ((1.0,),) * 5)
        self.head = ATSSHead(channels, num_classes, 5)
        self.coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))

    def forward(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> dict[str, Any]:
        """``logits`` [B, N, num_classes], ``deltas`` [B, N, 4], ``centerness`` [B, N], ``anchors``, ``levels``."""
        images = pad_to_32(images)
        maps = self.neck(self.backbone(images))
        return self.head(maps) | grid_anchors(self.anchors, images.shape[2:], maps)

    def losses(self, raw: dict[str, Any], targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """``classification``: focal loss; ``boxes``: generalised IoU; ``centerness``: cross entropy.

        Boxes count by the centerness that their anchors should have, the others by the number of positive anchors.
        """
        raw = float_tree(raw)
        anchors, levels = raw["anchors"], raw["levels"].tolist()
        wanted, boxes, centers, totals = torch.zeros_like(raw["logits"]), [], [], anchors.new_zeros(2)
        for i, target in enumerate(targets):
            objects = assign(anchors, levels, target["boxes"], self.topk)
            positive = (objects >= 0).nonzero()[:, 0]
            objects, chosen = target["boxes"][objects[positive]], objects[positive]
            wanted[i, positive, target["labels"][chosen]] = 1.0
            center = centerness(anchors[positive], objects)
            found = self.coder.decode_single(raw["deltas"][i, positive], anchors[positive])
            boxes.append((generalized_box_iou_loss(found, objects, reduction="none") * center).sum())
            logits = raw["centerness"][i, positive]
            centers.append(F.binary_cross_entropy_with_logits(logits, center, reduction="sum"))
            totals += torch.stack([center.new_tensor(len(positive)), center.sum()])
        number, weight = mean_over_processes(totals)
        return {
            "classification": sigmoid_focal_loss(raw["logits"], wanted, reduction="sum") / number,
            "boxes": BOX_WEIGHT * torch.stack(boxes).sum() / weight,
            "centerness": torch.stack(centers).sum() / number,
        }

    @torch.no_grad()
    def detections(self, raw: dict[str, Any], sizes: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        raw = float_tree(raw)
        levels, found = raw["levels"].tolist(), []
        threshold = logit(self.score_thresh)
        for logits, deltas, centers, size in zip(raw["logits"], raw["deltas"], raw["centerness"], sizes):
            best, places, labels = candidates(logits, levels, threshold, self.topk_candidates)
            boxes = self.coder.decode_single(deltas[places], raw["anchors"][places])
            scores = best.sigmoid() * centers[places].sigmoid()
            found.append(suppressed(boxes, scores, labels, size, self.nms_thresh, self.detections_per_img))
        return found


def assign(anchors: torch.Tensor, levels: list[int], boxes: torch.Tensor, topk: int) -> torch.Tensor:
    """The object of each anchor (algorithm 1).

    Of an object, the ``topk`` anchors of each level whose centers are nearest to its own are candidates; those are
    positive that lie in it and overlap it by the candidates' mean plus standard deviation or more. An anchor of several
    objects belongs to the one that it overlaps most.

    Args:
        anchors: [N, 4].
        levels: how many of them each level has.
        boxes: objects [m, 4].
        topk: candidates of a level.

    Returns:
        Index of the object [N], -1 for background.
    """
    if not len(boxes):
        return anchors.new_full((len(anchors),), -1, dtype=torch.long)
    overlaps = box_iou(anchors, boxes)  # [N, m]
    points = (anchors[:, :2] + anchors[:, 2:]) / 2
    distances = torch.cdist(points, (boxes[:, :2] + boxes[:, 2:]) / 2)
    places, first = [], 0
    for level in distances.split(levels):
        places.append(first + level.topk(min(topk, len(level)), dim=0, largest=False).indices)
        first += len(level)
    places = torch.cat(places)  # [candidates, m]
    chosen = overlaps.gather(0, places)
    threshold = chosen.mean(0) + (chosen.std(0) if len(chosen) > 1 else 0)
    corners = points[places]  # [candidates, m, 2]
    inside = torch.cat([corners - boxes[:, :2], boxes[:, 2:] - corners], dim=2).amin(2) > 0
    kept = torch.where((chosen >= threshold) & inside, chosen, -1)
    most, objects = torch.full_like(overlaps, -1).scatter_(0, places, kept).max(1)
    return torch.where(most >= 0, objects, -1)
