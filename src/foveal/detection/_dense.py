"""What detectors that predict at every position of several maps share."""

from collections.abc import Sequence
from typing import Any

import torch
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image


def grid_anchors(generator: AnchorGenerator, size: Sequence[int], maps: list[torch.Tensor]) -> dict[str, Any]:
    """Anchors of one picture, as torchvision lays them.

    Args:
        size: height and width in pixels of what the maps come from.
        maps: [B, C, H_i, W_i], from fine to coarse.

    Returns:
        ``anchors`` [N, 4], and ``levels`` [len(maps)], how many of them each map has.
    """
    maps = [x[:1, :1].float() for x in maps]  # anchors keep the maps' type, and half precision would round them
    image = maps[0].new_zeros(()).expand(1, 3, *size)  # of which the generator reads the shape alone
    (anchors,) = generator(ImageList(image, [(0, 0)]), maps)
    per_position = generator.num_anchors_per_location()
    levels = [x.shape[2] * x.shape[3] * count for x, count in zip(maps, per_position)]
    return {"anchors": anchors, "levels": torch.tensor(levels)}


def match(matcher: Matcher, objects: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """The object [m, 4] of each box [n, 4]: its index, -1 for background, -2 for neither."""
    if not len(objects):
        return boxes.new_full((len(boxes),), Matcher.BELOW_LOW_THRESHOLD, dtype=torch.long)
    return matcher(box_iou(objects, boxes))


def logit(score: float) -> float:
    """The logit of a score in 0 to 1; of the ends a large number."""
    return torch.tensor(score, dtype=torch.float64).logit(1e-9).item()


def candidates(
    scores: torch.Tensor, levels: list[int], threshold: float, most: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best (anchor, class) pairs of each level above a threshold.

    Args:
        scores: [N, K], of one picture, in any monotonic unit.
        levels: how many of the N belong to each level.
        threshold: in the same unit.
        most: pairs of each level.

    Returns:
        Scores, indices of anchors and classes [M] each.
    """
    K, first = scores.shape[1], 0
    chosen = []
    for level in scores.split(levels):
        flat = level.flatten()
        above = (flat > threshold).nonzero()[:, 0]
        best, order = flat[above].topk(min(most, len(above)))
        places = above[order]
        chosen.append((best, first + places // K, places % K))
        first += len(level)
    values, anchors, labels = (torch.cat(parts) for parts in zip(*chosen))
    return values, anchors, labels


def centerness(anchors: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """How central each anchor [n, 4] lies in its box [n, 4]: 1 at the center, 0 at the border (FCOS, eq. 3)."""
    points = (anchors[:, :2] + anchors[:, 2:]) / 2
    before, behind = points - boxes[:, :2], boxes[:, 2:] - points
    return (before.minimum(behind) / before.maximum(behind)).prod(1).sqrt()


def suppressed(
    boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, size: torch.Tensor, iou: float, most: int
) -> dict[str, torch.Tensor]:
    """Boxes [M, 4], scores and labels [M] inside a picture of size [2], behind non-maximum suppression by class."""
    height, width = size.tolist()
    boxes = clip_boxes_to_image(boxes, (height, width))
    kept = batched_nms(boxes, scores, labels, iou)[:most]
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


def float_tree(raw: Any) -> Any:
    """Raw outputs in float32: losses and boxes are not computed in half precision."""
    if isinstance(raw, dict):
        return {name: float_tree(value) for name, value in raw.items()}
    if isinstance(raw, list):
        return [float_tree(value) for value in raw]
    return raw.float() if torch.is_floating_point(raw) else raw
