"""RoIAlign (He et al., 2017, section 3) over the levels of a pyramid, as torchvision's MultiScaleRoIAlign.

A bin is the mean of four bilinear samples, thus a weighted sum of sixteen positions of a map. With channels innermost
that is a bag of embeddings, the positions of all levels being the table. torchvision's CPU kernels go from channel to
channel and take four times as long, forward and backward; its CUDA gradient is not deterministic, this one is.
"""

import operator
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torchvision.ops import roi_align as one_level
from torchvision.ops.poolers import LevelMapper

SAMPLES = 2  # of a bin in each direction


def roi_align(maps: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor], size: int) -> torch.Tensor:
    """Features of boxes, each from the level that suits its area (Lin et al., 2017, FPN, eq. 1).

    Args:
        maps: [B, C, H_i, W_i] at strides 4, 8, 16, ...
        boxes: of each picture [n, 4] in pixels.
        size: bins in each direction.

    Returns:
        [M, C, size, size] of the boxes of all pictures, in channels_last.
    """
    device = maps[0].device
    pictures = [torch.full((len(inside),), i, dtype=torch.int, device=device) for i, inside in enumerate(boxes)]
    return pooled(maps, torch.cat(list(boxes)), torch.cat(pictures), size)


def pooled(maps: Sequence[torch.Tensor], boxes: torch.Tensor, pictures: torch.Tensor, size: int) -> torch.Tensor:
    """``roi_align`` of boxes [M, 4] in one list, that know their pictures [M]."""
    levels = LevelMapper(2, 1 + len(maps))([boxes])  # [M], 0 for the finest
    if torch.compiler.is_exporting():
        return _by_level(maps, boxes, pictures, levels, size)
    C, heights, widths = maps[0].shape[1], [x.shape[2] for x in maps], [x.shape[3] for x in maps]
    *firsts, positions = accumulate(map(operator.mul, heights, widths), initial=0)  # where levels begin, and their end
    table = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1).view(-1, C)  # [B * positions, C]
    heights, widths, firsts = levels.new_tensor([heights, widths, firsts], dtype=torch.int)[:, levels]
    scaled = boxes / (4 * 2**levels)[:, None]
    rows, row_weights = _sampled(scaled[:, 1], scaled[:, 3], heights, size)
    columns, column_weights = _sampled(scaled[:, 0], scaled[:, 2], widths, size)
    rows = (pictures * positions + firsts)[:, None, None] + rows * widths[:, None, None]
    places = rows[:, :, None, :, None] + columns[:, None, :, None, :]  # [M, size, size, 4, 4]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    # In float32: weights in half precision would lose more than the maps have lost.
    bags = F.embedding_bag(places.view(-1, 16), table.float(), mode="sum", per_sample_weights=weights.view(-1, 16))
    return bags.view(-1, size, size, C).permute(0, 3, 1, 2).to(table.dtype)


def _by_level(
    maps: Sequence[torch.Tensor], boxes: torch.Tensor, pictures: torch.Tensor, levels: torch.Tensor, size: int
) -> torch.Tensor:
    """The same by the operator that other runtimes have, each level by itself, then in the order of the boxes."""
    rois = torch.cat([pictures[:, None].to(boxes), boxes], dim=1)
    parts, places = [], []
    for level, x in enumerate(maps):
        inside = (levels == level).nonzero()[:, 0]
        torch._check(inside.shape[0] < 2**31)  # or exporters meet sums of sizes that int64 does not hold
        places.append(inside)
        parts.append(one_level(x, rois[inside], size, spatial_scale=1 / (4 * 2**level), sampling_ratio=SAMPLES))
    features = torch.cat(parts)
    index = torch.cat(places)[:, None, None, None].expand_as(features)
    return torch.zeros_like(features).scatter(0, index, features)


def _sampled(
    start: torch.Tensor, end: torch.Tensor, length: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions on one axis that a bin depends on, and their weights.

    Args:
        start, end: of each box [M] in positions of its map.
        length: of the axis [M].
        size: number of bins.

    Returns:
        Positions and weights [M, size, 2 * SAMPLES].
    """
    bins = (end - start).clamp(min=1) / size  # [M]
    first = torch.arange(size, device=start.device)[:, None] * bins[:, None, None]  # [M, size, 1]
    inner = (torch.arange(SAMPLES, device=start.device) + 0.5) * bins[:, None, None] / SAMPLES  # [M, 1, SAMPLES]
    points = start[:, None, None] + first + inner
    last = length[:, None, None] - 1
    inside = (points >= -1) & (points <= length[:, None, None])
    points = points.clamp(min=0).minimum(last.to(points))
    low = points.floor()
    fraction = points - low
    positions = torch.stack([low.int(), (low.int() + 1).minimum(last)], dim=3)
    weights = torch.stack([1 - fraction, fraction], dim=3) * (inside / SAMPLES)[..., None]
    return positions.flatten(2), weights.flatten(2)
