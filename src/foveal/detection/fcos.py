"""FCOS (Tian et al., 2020, FCOS: A simple and strong anchor-free object detector), by torchvision's head.

Losses and detections equal torchvision's: points near the center of an object are positive, and the two coarsest levels
come from the pyramid's last map.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from ..necks import FPN, Pyramid, mean_over_processes, pad_to_32
from ._dense import candidates, centerness, float_tree, grid_anchors, suppressed
from ._detector import Detector, register


@register("fcos")
class FCOS(Detector):
    """FCOS at strides 8 to 128, with a box for each position.

    Args:
        backbone: maps of strides 8, 16, 32.
        num_classes: number of classes.
        channels: of the pyramid's maps and of the head's layers, a multiple of 32.
        center_sampling_radius: of the square around an object's center whose points are positive, in strides.
        score_thresh: detections below this score are left out; a score is the geometric mean of class and centerness.
        nms_thresh: overlap above which the lower one of two boxes of a class is left out.
        detections_per_img: most detections of a picture.
        topk_candidates: most pairs of point and class of a level before suppression.
    """

    strides = (8, 16, 32)

    def __init__(
        self,
        backbone: Pyramid,
        num_classes: int,
        *,
        channels: int = 256,
        center_sampling_radius: float = 1.5,
        score_thresh: float = 0.2,
        nms_thresh: float = 0.6,
        detections_per_img: int = 100,
        topk_candidates: int = 1000,
    ):
        super().__init__(backbone, num_classes)
        self.center_sampling_radius = center_sampling_radius
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img, self.topk_candidates = detections_per_img, topk_candidates
        self.neck = FPN(backbone.channels, channels, extra="output")
        self.anchors = AnchorGenerator(tuple((8 * 2**level,) for level in range(5)), ((1.0,),) * 5)
        self.head = FCOSHead(channels, 1, num_classes)
        self.coder = BoxLinearCoder(normalize_by_size=True)

    def forward(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> dict[str, Any]:
        """Of N positions, each the center of a square of its stride.

        Returns:
            ``logits`` [B, N, num_classes], ``distances`` [B, N, 4] to the sides in strides, ``centerness`` [B, N],
            ``anchors`` [N, 4], ``levels`` [5].
        """
        images = pad_to_32(images)
        maps = self.neck(self.backbone(images))
        out = self.head(maps)
        anchors = grid_anchors(self.anchors, images.shape[2:], maps)
        centers = out["bbox_ctrness"][..., 0]
        return {"logits": out["cls_logits"], "distances": out["bbox_regression"], "centerness": centers, **anchors}

    def losses(self, raw: dict[str, Any], targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """``classification``: focal loss; ``boxes``: generalised IoU; ``centerness``: cross entropy.

        All by the number of positive points of the batch.
        """
        raw = float_tree(raw)
        anchors, levels = raw["anchors"], raw["levels"].tolist()
        wanted, distances, centers, number = torch.zeros_like(raw["logits"]), [], [], 0
        for i, target in enumerate(targets):
            objects = self.assign(anchors, levels, target["boxes"])
            positive = (objects >= 0).nonzero()[:, 0]
            objects = objects[positive]
            wanted[i, positive, target["labels"][objects]] = 1.0
            boxes, points = target["boxes"][objects], anchors[positive]
            found = self.coder.decode(raw["distances"][i, positive], points)
            distances.append(generalized_box_iou_loss(found, boxes, reduction="sum"))
            logits = raw["centerness"][i, positive]
            centers.append(F.binary_cross_entropy_with_logits(logits, centerness(points, boxes), reduction="sum"))
            number += len(positive)
        mean = mean_over_processes(anchors.new_tensor(number))
        return {
            "classification": sigmoid_focal_loss(raw["logits"], wanted, reduction="sum") / mean,
            "boxes": torch.stack(distances).sum() / mean,
            "centerness": torch.stack(centers).sum() / mean,
        }

    def assign(self, anchors: torch.Tensor, levels: list[int], boxes: torch.Tensor) -> torch.Tensor:
        """The object of each point (section 3.1): the smallest that it lies in, near its center, of the level's size.

        Args:
            anchors: [N, 4], squares of a stride around the points.
            levels: how many of them each level has.
            boxes: objects [m, 4].

        Returns:
            Index of the object [N], -1 for background.
        """
        if not len(boxes):
            return anchors.new_full((len(anchors),), -1, dtype=torch.long)
        points = (anchors[:, :2] + anchors[:, 2:]) / 2
        strides = anchors[:, 2] - anchors[:, 0]
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        near = (points[:, None] - centers).abs().amax(2) < self.center_sampling_radius * strides[:, None]
        distances = torch.cat([points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]], dim=2)  # [N, m, 4]
        lower, upper = 4 * strides, 8 * strides  # of the distance to the farthest side
        lower[: levels[0]], upper[-levels[-1] :] = 0, math.inf
        farthest = distances.amax(2)
        suits = near & (distances.amin(2) > 0) & (farthest > lower[:, None]) & (farthest < upper[:, None])
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        smallest, objects = torch.where(suits, areas, math.inf).min(1)
        return torch.where(smallest < math.inf, objects, -1)

    @torch.no_grad()
    def detections(self, raw: dict[str, Any], sizes: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        raw = float_tree(raw)
        levels, found = raw["levels"].tolist(), []
        for logits, distances, centers, size in zip(raw["logits"], raw["distances"], raw["centerness"], sizes):
            scores = (logits.sigmoid() * centers.sigmoid()[:, None]).sqrt()
            best, places, labels = candidates(scores, levels, self.score_thresh, self.topk_candidates)
            boxes = self.coder.decode(distances[places], raw["anchors"][places])
            found.append(suppressed(boxes, best, labels, size, self.nms_thresh, self.detections_per_img))
        return found
