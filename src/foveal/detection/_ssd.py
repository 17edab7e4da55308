"""What SSD and SSDLite share: six levels, default boxes, the MultiBox loss and the choice of detections.

Losses and detections equal torchvision's SSD, by its default boxes, matcher and box coder.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

from .._errors import UserError
from ..necks import Pyramid, mean_over_processes, pad_to_32
from ._dense import float_tree, grid_anchors, match, suppressed
from ._detector import Detector

NEGATIVES = 3  # of each positive default box, at most (section 2.2)


class MultiBox(Detector):
    """The parts of an SSD around its layers; a subclass sets the attributes.

    Default boxes are laid by the sizes of the maps and scaled by height and width of the images, so that any size will
    do; at small ones the coarse levels have one position each.

    Attributes:
        extra: levels beyond the backbone's, each made from the one before.
        head: from maps to ``cls_logits`` [B, N, num_classes + 1], the background first, and ``bbox_regression``
            [B, N, 4].
        anchors: default boxes of all levels.
        score_thresh, nms_thresh, detections_per_img, topk_candidates: see the subclass.
    """

    strides = (16, 32)
    square = True

    extra: nn.ModuleList
    head: nn.Module
    anchors: Any
    score_thresh: float
    nms_thresh: float
    detections_per_img: int
    topk_candidates: int

    def __init__(self, backbone: Pyramid, num_classes: int):
        super().__init__(backbone, num_classes)
        self.matcher = SSDMatcher(0.5)
        self.coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))

    def forward(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> dict[str, Any]:
        """``logits`` [B, N, num_classes + 1], the background first, ``deltas`` [B, N, 4], ``anchors`` [N, 4]."""
        images = pad_to_32(images)
        maps = self.backbone(images)
        for level in self.extra:
            maps = [*maps, level(maps[-1])]
        out = self.head(maps)
        anchors = grid_anchors(self.anchors, images.shape[2:], maps)["anchors"]
        return {"logits": out["cls_logits"], "deltas": out["bbox_regression"], "anchors": anchors}

    def losses(self, raw: dict[str, Any], targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """``classification``: cross entropy of positive and the hardest negative default boxes; ``boxes``: smooth L1.

        Both by the number of positive default boxes of the batch (eq. 1).
        """
        raw = float_tree(raw)
        anchors, wanted, boxes = raw["anchors"], [], []
        for deltas, target in zip(raw["deltas"], targets):
            matches = match(self.matcher, target["boxes"], anchors)
            positive = (matches >= 0).nonzero()[:, 0]
            matched = matches[positive]
            offsets = self.coder.encode_single(target["boxes"][matched], anchors[positive])
            boxes.append(F.smooth_l1_loss(deltas[positive], offsets, reduction="sum"))
            classes = torch.zeros_like(matches)
            classes[positive] = target["labels"][matched] + 1
            wanted.append(classes)
        wanted = torch.stack(wanted)  # [B, N], 0 for background
        number = mean_over_processes((wanted > 0).sum())
        entropy = F.cross_entropy(raw["logits"].flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
        chosen = entropy[wanted > 0].sum() + _hardest(entropy, wanted > 0).sum()
        return {"classification": chosen / number, "boxes": torch.stack(boxes).sum() / number}

    @torch.no_grad()
    def detections(self, raw: dict[str, Any], sizes: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        raw = float_tree(raw)
        found = []
        for logits, deltas, size in zip(raw["logits"], raw["deltas"], sizes):
            scores = logits.softmax(1)[:, 1:].T  # [N, 1 + K] -> [K, N]
            best, places = scores.topk(min(self.topk_candidates, scores.shape[1]))
            labels, ranks = (best > self.score_thresh).nonzero(as_tuple=True)
            best, places = best[labels, ranks], places[labels, ranks]
            boxes = self.coder.decode_single(deltas, raw["anchors"])[places]
            found.append(suppressed(boxes, best, labels, size, self.nms_thresh, self.detections_per_img))
        return found


def default_boxes(aspect_ratios: list[list[int]], min_ratio: float, max_ratio: float) -> DefaultBoxGenerator:
    """Default boxes of scales from ``min_ratio`` to ``max_ratio`` of the image in equal steps of the levels (eq. 4).

    Args:
        aspect_ratios: of each level; each stands for itself and its inverse, beside two squares.

    Raises:
        UserError: ratios that are not positive and in order.
    """
    if not 0 < min_ratio < max_ratio:
        raise UserError(f"min_ratio must be above 0 and below max_ratio, got {min_ratio} and {max_ratio}")
    return DefaultBoxGenerator(aspect_ratios, min_ratio, max_ratio)


def _hardest(entropy: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """The highest losses of negatives, three for each positive of the same picture, of [B, N] and [B, N].

    Where a picture has fewer negatives than that, positives stand in, as in torchvision.
    """
    order = entropy.detach().masked_fill(positive, -torch.inf).argsort(dim=1, descending=True)
    ranks = torch.arange(entropy.shape[1], device=entropy.device)
    return entropy.gather(1, order)[ranks < NEGATIVES * positive.sum(1, keepdim=True)]
