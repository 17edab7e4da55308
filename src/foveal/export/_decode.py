"""What detectors make of their raw outputs, for all pictures of a batch at once, in operators that runtimes have.

``Detector.detections`` is the definition, picture by picture. Here the number of pictures may be a symbol, so that
nothing loops over them; what is found in the whole batch is one list, in which each entry knows its picture. Ties aside
the two agree.
"""

import math
from functools import singledispatch
from typing import Any, NamedTuple

import torch
from torchvision.ops import box_convert, nms

from .._errors import UserError
from ..detection import DETECTORS, Detector
from ..detection._roi_align import pooled
from ..detection._sets import SetDetector
from ..detection._ssd import MultiBox
from ..detection.atss import ATSS
from ..detection.fcos import FCOS
from ..detection.mask_rcnn import RCNN, MaskRCNN
from ..detection.retinanet import RetinaNet

MOST = 2**31  # of what is found; without a limit exporters meet sums of sizes that int64 does not hold


class Found(NamedTuple):
    """Detections of a batch, picture by picture, from high to low scores within each.

    Attributes:
        boxes: [M, 4] in pixels of the images.
        scores: [M].
        labels: [M].
        pictures: [M], the place in the batch.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    pictures: torch.Tensor


@singledispatch
def decode(model: Detector, raw: dict[str, Any], images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Raw outputs for images [B, 3, H, W] that their pictures fill -> ``Found``, and masks [M, m, m] if any."""
    names = [name for name, cls in DETECTORS.items() if isinstance(model, cls)]
    raise UserError(f"{names[0]} has no decoding for graphs; --raw exports its raw outputs")


@decode.register(RetinaNet)
def _(model: Any, raw: dict[str, Any], images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    picture, place, label, scores = _candidates(model, raw, raw["logits"].sigmoid())
    boxes = model.coder.decode_single(raw["deltas"][picture, place], raw["anchors"][place])
    return _suppressed(model, Found(boxes, scores, label, picture), images)


@decode.register(FCOS)
def _(model: Any, raw: dict[str, Any], images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    scores = (raw["logits"].sigmoid() * raw["centerness"].sigmoid()[..., None]).sqrt()
    picture, place, label, scores = _candidates(model, raw, scores)
    boxes = model.coder.decode(raw["distances"][picture, place], raw["anchors"][place])
    return _suppressed(model, Found(boxes, scores, label, picture), images)


@decode.register(ATSS)
def _(model: Any, raw: dict[str, Any], images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    picture, place, label, scores = _candidates(model, raw, raw["logits"].sigmoid())
    boxes = model.coder.decode_single(raw["deltas"][picture, place], raw["anchors"][place])
    scores = scores * raw["centerness"][picture, place].sigmoid()
    return _suppressed(model, Found(boxes, scores, label, picture), images)


@decode.register(MultiBox)
def _(model: Any, raw: dict[str, Any], images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    scores = raw["logits"].softmax(2)[..., 1:].transpose(1, 2)  # [B, K, N]
    best, places = _topk(scores, model.topk_candidates)
    picture, label, rank = _true(best > model.score_thresh).unbind(1)
    place = places[picture, label, rank]
    boxes = model.coder.decode_single(raw["deltas"][picture, place], raw["anchors"][place])
    return _suppressed(model, Found(boxes, best[picture, label, rank], label, picture), images)


@decode.register(SetDetector)
def _(model: Any, raw: dict[str, Any], images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    logits, boxes = raw["logits"][-1], raw["boxes"][-1]
    number = logits.shape[1]
    scores, places, labels = model.best(logits)  # [B, n]
    boxes = box_convert(boxes, model.form, "xyxy").gather(1, places[..., None].expand(-1, -1, 4))
    limits = _limits(images)
    pictures = torch.arange(images.shape[0], device=images.device)[:, None].expand(-1, number)
    boxes = (boxes * limits).clamp(min=0).minimum(limits)
    return boxes.flatten(0, 1), scores.flatten(), labels.flatten(), pictures.flatten()


@decode.register(RCNN)
def _(model: Any, raw: dict[str, Any], images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    regions, pictures = _proposals(model, raw, images)
    features = pooled(raw["maps"], regions, pictures, 7)
    logits, deltas = model.box_predictor(model.box_head(features))
    scores = logits.softmax(1).narrow(1, 1, model.num_classes)
    deltas = deltas.unflatten(1, (model.num_classes + 1, 4)).narrow(1, 1, model.num_classes)
    place, label = _true(scores > model.box_score_thresh).unbind(1)
    boxes = model.box_coder.decode_single(deltas[place, label], regions[place])
    boxes = _clipped(boxes, images)
    kept = _true(((boxes[:, 2:] - boxes[:, :2]) >= 1e-2).all(1))[:, 0]
    place, label = place[kept], label[kept]
    found = Found(boxes[kept], scores[place, label], label, pictures[place])
    kept = _nms(found, images, model.num_classes, model.box_nms_thresh)
    return _first(found, kept, images.shape[0], model.box_detections_per_img)


@decode.register(MaskRCNN)
def _(model: Any, raw: dict[str, Any], images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    found = Found(*decode.dispatch(RCNN)(model, raw, images))
    masks = model.mask_predictor(model.mask_head(pooled(raw["maps"], found.boxes, found.pictures, 14)))
    index = (found.labels + 1)[:, None, None, None].expand(-1, 1, *masks.shape[2:])
    return *found, masks.gather(1, index)[:, 0].sigmoid()


def _candidates(model: Any, raw: dict[str, Any], scores: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Picture, place, class and score [M] of those of scores [B, N, K] that count, the best of each level."""
    picture, place, label = _true(scores > model.score_thresh).unbind(1)
    found = scores[picture, place, label]
    ends = raw["levels"].cumsum(0)
    level = (place[:, None] >= ends).int().sum(1)  # Core ML takes sums of booleans for floats
    order = found.sort(descending=True).indices
    groups = (picture * len(ends) + level)[order]
    columns = torch.arange(scores.shape[0] * len(ends), device=scores.device)
    ranks = (groups[:, None] == columns).int().cumsum(0).gather(1, groups[:, None])[:, 0]
    chosen = order[_true(ranks <= model.topk_candidates)[:, 0]]
    return picture[chosen], place[chosen], label[chosen], found[chosen]


def _true(mask: torch.Tensor) -> torch.Tensor:
    """Where a mask is True, [M, axes]."""
    places = mask.nonzero()
    torch._check(places.shape[0] < MOST)
    return places


def _topk(scores: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and places of the highest [.., N] -> [.., most]; where there are fewer, -1 and the first place."""
    more = scores.new_full((1,), -1.0).expand(*scores.shape[:-1], most)
    values, places = torch.cat([scores, more], dim=-1).topk(most)
    return values, torch.where(places < scores.shape[-1], places, 0)


def _suppressed(model: Any, found: Found, images: torch.Tensor) -> Found:
    """Boxes inside their pictures, behind non-maximum suppression by class."""
    found = found._replace(boxes=_clipped(found.boxes, images))
    kept = _nms(found, images, model.num_classes, model.nms_thresh)
    return _first(found, kept, images.shape[0], model.detections_per_img)


def _nms(found: Found, images: torch.Tensor, num_classes: int, iou: float) -> torch.Tensor:
    """Places [n] of what is left of each class in each picture, from high to low scores.

    Classes and pictures are shifted apart, in a square of fields that is as small as can be: the farther away, the
    coarser are coordinates in float32.
    """
    side = math.isqrt(num_classes - 1) + 1
    row = found.pictures * side + found.labels // side
    column = found.labels - found.labels // side * side
    shift = torch.stack([column, row], dim=1) * (_limits(images)[:2] + 1)
    kept = nms(found.boxes + shift.repeat(1, 2), found.scores, iou)
    torch._check(kept.shape[0] < MOST)
    return kept


def _first(found: Found, kept: torch.Tensor, batch: Any, most: int) -> Found:
    """The first ``most`` of each picture among those kept [n], which are ordered by their scores."""
    inside = found.pictures[kept] == torch.arange(batch, device=kept.device)[:, None]  # [B, n]
    inside = inside & (inside.int().cumsum(1) <= most)
    chosen = kept[_true(inside)[:, 1]]
    return Found(*(part[chosen] for part in found))


def _limits(images: torch.Tensor) -> torch.Tensor:
    """Width, height, width, height of the pictures."""
    H, W = images.shape[2:]
    return torch.tensor([W, H, W, H], device=images.device, dtype=torch.float32)


def _clipped(boxes: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return boxes.clamp(min=0).minimum(_limits(images))


def _proposals(model: Any, raw: dict[str, Any], images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes [M, 4] inside their pictures, and the pictures [M]; see ``RCNN.proposals``."""
    before, after = model.top_n_test
    ends = raw["levels"].cumsum(0)
    level = (torch.arange(raw["anchors"].shape[0], device=images.device)[:, None] >= ends).sum(1)  # [N]
    scores = raw["objectness"].sigmoid()
    levels = torch.arange(len(ends), device=images.device)
    best, places = _topk(torch.where(level == levels[:, None], scores[:, None], -1.0), before)  # [B, L, before]
    picture, level, rank = _true(best >= 0).unbind(1)
    place = places[picture, level, rank]
    boxes = model.rpn_coder.decode_single(raw["deltas"][picture, place], raw["anchors"][place])
    boxes = _clipped(boxes, images)
    kept = _true(((boxes[:, 2:] - boxes[:, :2]) >= 1e-3).all(1))[:, 0]
    found = Found(boxes[kept], best[picture, level, rank][kept], level[kept], picture[kept])
    found = _first(found, _nms(found, images, len(ends), model.rpn_nms_thresh), images.shape[0], after)
    return found.boxes, found.pictures
