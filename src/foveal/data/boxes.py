"""What happens to pictures with boxes and masks.

Pixels stay bytes in the order of channels that they are decoded in until the last step, a picture is cut before it is
resized, and its colours are changed where it is smaller; so a picture costs less than resizing it as floats would.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from .._errors import UserError
from . import _shapes
from ._geometry import nearest, normalized, padded, pixels, resized
from ._objects import decode_mask
from ._shapes import fitted

LEFT = 0.1  # share of an object that must be left where a picture is cut or covered; else it is no longer marked
JITTER = (0.1, 2.0)  # scales of large-scale jitter (Ghiasi et al., 2021, section 3)
MOSAIC = (0.5, 1.5)  # scales of the four pictures
XYXY = BoundingBoxFormat.XYXY
CROPS = ("none", "ssd", "jitter")


@dataclass(kw_only=True)
class BoxAugment:
    """What training does to pictures, boxes and masks, in the order mosaic, hflip, crop, color_jitter, copy_paste.

    Attributes:
        hflip: probability of a mirrored picture.
        scales: shorter sides in pixels, of which each picture draws one; empty for the run's image size.
        crop: ssd zooms out, crops to a least overlap with an object, leaves out objects whose center is not seen, and
            distorts colours (Liu et al., 2016, section 2.2); jitter draws a scale of 0.1 to 2 and crops or pads to a
            square of image-size (Ghiasi et al., 2021).
        copy_paste: probability that objects of another picture are pasted in (Ghiasi et al., 2021); needs masks.
        mosaic: probability that a picture becomes one of four (Bochkovskiy et al., 2020, section 3.3).
        color_jitter: strength of colour jitter: brightness, contrast and saturation change by this share at most.
    """

    hflip: float = 0.5
    scales: tuple[int, ...] = ()
    crop: Literal["none", "ssd", "jitter"] = "none"
    copy_paste: float = 0.0
    mosaic: float = 0.0
    color_jitter: float = 0.0

    def __post_init__(self):
        for name in ("hflip", "copy_paste", "mosaic"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name.replace('_', '-')} must be in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.color_jitter < math.inf:
            raise UserError(f"color-jitter must not be below 0, got {self.color_jitter}")
        if self.crop not in CROPS:
            raise UserError(f"crop must be one of {', '.join(CROPS)}, got {self.crop}")
        if any(scale < 1 for scale in self.scales):
            raise UserError(f"scales must be above 0, got {', '.join(map(str, self.scales))}")
        if self.scales and self.crop == "jitter":
            raise UserError("crop jitter draws scales of its own; leave scales out")
        if self.color_jitter and self.crop == "ssd":
            raise UserError("crop ssd distorts colours in its own way; leave color-jitter out")


class BoxTransform:
    """From a sample with an RGB picture to one that ``stack_marked`` takes.

    Args:
        size: shorter side in pixels, or the side of a square.
        max_size: longest side in pixels; a picture that is longer gets a smaller shorter side.
        square: squeeze every picture into a square.
        mean, std: of each channel, of values from 0 to 1.
        augment: what training does; None for evaluation, which leaves the target as it was, in the original's pixels.
        masks: whether targets have masks.

    Raises:
        UserError: masks are needed, and the data has none.
    """

    def __init__(
        self,
        *,
        size: int,
        max_size: int,
        square: bool,
        mean: Sequence[float],
        std: Sequence[float],
        augment: BoxAugment | None,
        masks: bool,
    ):
        self.size, self.max_size, self.square, self.augment, self.masks = size, max_size, square, augment, masks
        self.mean, self.std = mean, std
        self.fill = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8)  # about 0 when normalised
        self.zoom_out, self.iou_crop, self.colour = v2.RandomZoomOut(), v2.RandomIoUCrop(), colour(augment)

    def __call__(self, sample: dict, draw: Callable[[], dict]) -> dict:
        """{"image": RGB picture, "name", "target": as of ``Marked``} -> what ``stack_marked`` takes.

        Returns:
            "image" float32 [3, h, w], "size" (h, w), "original": the size of the picture before, "name", and "target":
            in training ``boxes`` [n, 4] in pixels of the image, ``labels`` [n], ``masks`` bool [n, h, w] if any, and
            ``image_id``; crowds are left out.
        """
        picture: Image.Image = sample["image"]
        if self.augment is None:
            image = pixels(picture)
            image = resized(image, self.fitted(image.shape[1:], self.size))
            target = sample["target"]
        else:
            example = self._augmented(self.augment, sample, draw)
            image = example.image
            target = {"boxes": example.boxes, "labels": example.labels}
            if self.masks:
                target["masks"] = example.masks
            target["image_id"] = sample["target"]["image_id"]
        return {
            "image": normalized(image, self.mean, self.std),
            "size": torch.tensor(image.shape[1:]),
            "original": torch.tensor([picture.height, picture.width]),
            "name": sample["name"],
            "target": target,
        }

    def fitted(self, size: Sequence[int], shorter: int) -> tuple[int, int]:
        """Height and width that a picture of ``size`` gets."""
        return (shorter, shorter) if self.square else fitted(size, shorter, self.max_size)

    def _augmented(self, augment: BoxAugment, sample: dict, draw: Callable[[], dict]) -> "Example":
        masks = self.masks or augment.copy_paste > 0
        example = read(sample, masks)
        size = random.choice(augment.scales) if augment.scales else self.size
        if random.random() < augment.mosaic:
            four = [example, *(read(draw(), masks) for _ in range(3))]
            example = mosaic(four, self.fitted(example.size, size), self.fill)
        example = self._view(augment, example, size)
        if random.random() < augment.copy_paste:
            example = copy_paste(example, self._view(augment, read(draw(), masks), size))
        return example

    def _view(self, augment: BoxAugment, example: "Example", size: int) -> "Example":
        """What is seen of a picture, mirrored or not, at the size of training."""
        if random.random() < augment.hflip:
            example = example.mirrored()
        if augment.crop == "ssd":
            example, view = self._ssd_view(example, size)
        elif augment.crop == "jitter":
            view = jitter_view(example.size, size)
        else:
            view = View((0, 0, *example.size), self.fitted(example.size, size))
        example = example.cropped(view.window)
        grows = view.inner[0] * view.inner[1] > view.window[2] * view.window[3]
        if grows:
            example.image = self.colour(example.image)
        example = example.resized(view.inner)
        if not grows:
            example.image = self.colour(example.image)
        return example.framed(view.place, view.outer or view.inner, self.fill)

    def _ssd_view(self, example: "Example", size: int) -> tuple["Example", "View"]:
        """SSD's crop of a picture in a larger frame, of which only what it shows is ever made."""
        (H, W), (left, top), make = example.size, (0, 0), cast(Any, BoundingBoxes)
        boxes: Any = make(example.boxes, format=XYXY, canvas_size=(H, W))  # as torchvision's transforms take them
        if random.random() < 0.5:
            border = self.zoom_out.make_params([boxes])["padding"]
            left, top = border[:2]
            boxes = v2.functional.pad(boxes, border)
        y, x, (h, w) = 0, 0, boxes.canvas_size
        if len(boxes) and min(h, w) >= 4:  # RandomIoUCrop divides by the crop's height, 0.3 of this, rounded down
            found = self.iou_crop.make_params([boxes])
            if found:
                example = example.chosen(found["is_within_crop_area"])
                y, x, h, w = (found[name] for name in ("top", "left", "height", "width"))
        outer = self.fitted((h, w), size)
        rows, place_y, inner_h = _seen(y, h, top, H, outer[0])
        columns, place_x, inner_w = _seen(x, w, left, W, outer[1])
        window = (rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0])
        return example, View(window, (inner_h, inner_w), (place_y, place_x), outer)


@dataclass
class View:
    """A window (top, left, height, width) of a picture, resized to ``inner``, at a place (top, left) in ``outer``."""

    window: tuple[int, int, int, int]
    inner: tuple[int, int]
    place: tuple[int, int] = (0, 0)
    outer: tuple[int, int] | None = None


@dataclass
class Example:
    """A picture uint8 [3, H, W] with boxes [n, 4], labels [n], and masks bool [n, H, W] if they are used.

    Boxes lie inside the picture and have a width and a height of a pixel at least. Where a picture is cut, a box is
    that of the part of the mask that is left, or without masks what is left of the box.
    """

    image: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    masks: Any = None  # a tensor, or None

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[2]

    def chosen(self, which: torch.Tensor) -> "Example":
        """Only the objects that ``which``, bool [n], says."""
        if which.all():
            return self
        masks = None if self.masks is None else self.masks[which]
        return Example(self.image, self.boxes[which], self.labels[which], masks)

    def mirrored(self) -> "Example":
        """Left and right exchanged."""
        boxes = self.boxes.clone()
        boxes[:, [2, 0]] = self.size[1] - self.boxes[:, [0, 2]]
        return Example(self.image.flip(2), boxes, self.labels, None if self.masks is None else self.masks.flip(2))

    def cropped(self, window: tuple[int, int, int, int]) -> "Example":
        """The part (top, left, height, width), which lies inside the picture."""
        if window == (0, 0, *self.size):
            return self
        top, left, h, w = window
        rows, columns = slice(top, top + h), slice(left, left + w)
        before, masks = self.boxes - torch.tensor([left, top, left, top]), None
        boxes = _clamped(before, (h, w))
        enough = _area(boxes) >= LEFT * _area(before)
        if self.masks is not None:
            masks = self.masks[:, rows, columns]
            cut = (boxes != before).any(1) & (_area(boxes) > 0)
            enough[cut] = _pixels(masks[cut]) >= LEFT * _pixels(self.masks[cut])
            boxes[cut] = tight(masks[cut])  # zeros where no pixel is left
        enough &= _solid(boxes, (h, w))
        return Example(self.image[:, rows, columns], boxes, self.labels, masks).chosen(enough)

    def resized(self, size: tuple[int, int]) -> "Example":
        """The whole in another size; what becomes smaller than a pixel is no longer marked."""
        h, w = (new / old for new, old in zip(size, self.size))
        boxes = _clamped(self.boxes * torch.tensor([w, h, w, h]), size)
        solid, masks = _solid(boxes, size), self.masks
        if masks is not None and size != self.size:
            masks = nearest(masks, size)
            if size[0] < self.size[0] or size[1] < self.size[1]:
                solid &= masks.any(2).any(1)
        return Example(resized(self.image, size), boxes, self.labels, masks).chosen(solid)

    def framed(self, place: tuple[int, int], size: tuple[int, int], fill: torch.Tensor) -> "Example":
        """The picture at a place (top, left) of a larger one of ``size``, the rest of which is filled."""
        if size == self.size:
            return self
        (top, left), (h, w) = place, self.size
        image = fill.repeat(*size, 1).permute(2, 0, 1)
        image[:, top : top + h, left : left + w] = self.image
        border = (left, size[1] - left - w, top, size[0] - top - h)
        masks = None if self.masks is None else F.pad(self.masks, border)
        return Example(image, self.boxes + torch.tensor([left, top, left, top]), self.labels, masks)


def colour(augment: BoxAugment | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """What changes the colours of pictures uint8 [3, H, W]."""
    if augment is not None and augment.crop == "ssd":
        return v2.RandomPhotometricDistort()
    if augment is not None and augment.color_jitter:
        return v2.ColorJitter(augment.color_jitter, augment.color_jitter, augment.color_jitter)
    return v2.Identity()


def read(sample: dict, masks: bool) -> Example:
    """A sample's picture and the objects that are trained on, which are all but crowds; raises UserError."""
    image, target = pixels(sample["image"]), sample["target"]
    size = image.shape[1], image.shape[2]
    kept = np.flatnonzero(~np.asarray(target["crowd"]))
    decoded = _decoded(sample, kept.tolist(), size) if masks else None
    boxes = _clamped(torch.as_tensor(target["boxes"][kept]), size)
    return Example(image, boxes, torch.as_tensor(target["labels"][kept]), decoded).chosen(_solid(boxes, size))


def _decoded(sample: dict, kept: list[int], size: tuple[int, int]) -> torch.Tensor:
    codes: Any = sample["target"]["segmentations"] if kept else []
    if codes is None:
        raise UserError(f"{sample['name']} has no masks, which copy-paste and detectors of masks need")
    masks = np.zeros((len(kept), *size), bool)
    for mask, index in zip(masks, kept):
        mask[:] = decode_mask(codes[index], size)
    return torch.from_numpy(masks)


def mosaic(four: Sequence[Example], size: tuple[int, int], fill: torch.Tensor) -> Example:
    """Four pictures around a random point of a canvas.

    Each, at 0.5 to 1.5 times the size at which it would just fit the canvas, touches the point with a corner, and is
    cut where its quarter of the canvas ends.
    """
    H, W = size
    y, x = (int(random.uniform(0.25, 0.75) * side) for side in size)
    parts = []
    for i, example in enumerate(four):
        upper, left_side = i < 2, i % 2 == 0
        quarter = (y if upper else H - y, x if left_side else W - x)
        if min(quarter) < 1:
            continue  # a canvas of a few pixels
        scale = random.uniform(*MOSAIC) * min(H / example.size[0], W / example.size[1])
        (h, inner_h), (w, inner_w) = (_cut(side, room, scale) for side, room in zip(example.size, quarter))
        window = (example.size[0] - h if upper else 0, example.size[1] - w if left_side else 0, h, w)
        place = (y - inner_h if upper else y, x - inner_w if left_side else x)
        parts.append((place, example.cropped(window).resized((inner_h, inner_w))))
    image = fill.repeat(H, W, 1).permute(2, 0, 1)
    for (top, left), part in parts:
        image[:, top : top + part.size[0], left : left + part.size[1]] = part.image
    moved = [part.boxes + torch.tensor([x, y, x, y]) for (y, x), part in parts]
    joined = Example(image, torch.cat(moved), torch.cat([part.labels for _, part in parts]))
    if four[0].masks is not None:
        joined.masks, first = torch.zeros(len(joined.labels), H, W, dtype=torch.bool), 0
        for (top, left), part in parts:
            last = first + len(part.labels)
            joined.masks[first:last, top : top + part.size[0], left : left + part.size[1]] = part.masks
            first = last
    return joined


def copy_paste(example: Example, other: Example) -> Example:
    """Objects of another picture, each with probability 1/2, are pasted in where they lie there (Ghiasi et al., 2021).

    They cover those below them, whose masks and boxes become smaller; one of which less than a tenth is left vanishes.
    """
    h, w = (min(sides) for sides in zip(example.size, other.size))
    pasted = other.chosen(torch.rand(len(other.labels)) < 0.5).cropped((0, 0, h, w))
    if not len(pasted.labels):
        return example
    above = F.pad(pasted.masks, (0, example.size[1] - w, 0, example.size[0] - h))
    cover = above.any(0)
    image = example.image.clone()
    image[:, :h, :w] = torch.where(cover[:h, :w], pasted.image, image[:, :h, :w])
    after = example.masks & ~cover
    pixels_before, pixels_after = _pixels(example.masks), _pixels(after)
    boxes, covered = example.boxes.clone(), pixels_after < pixels_before
    boxes[covered] = tight(after[covered])
    left = (pixels_after >= LEFT * pixels_before) & (pixels_after > 0)
    return Example(
        image,
        torch.cat([boxes[left], pasted.boxes]),
        torch.cat([example.labels[left], pasted.labels]),
        torch.cat([after[left], above]),
    )


def jitter_view(size: tuple[int, int], side: int) -> View:
    """Large-scale jitter: a picture of ``size`` at 0.1 to 2 times that at which it just fits a square of ``side``."""
    scale = random.uniform(*JITTER) * min(side / size[0], side / size[1])
    (h, inner_h), (w, inner_w) = (_cut(length, side, scale) for length in size)
    top, left = random.randint(0, size[0] - h), random.randint(0, size[1] - w)
    return View((top, left, h, w), (inner_h, inner_w), (0, 0), (side, side))


def tight(masks: torch.Tensor) -> torch.Tensor:
    """Boxes [n, 4] around masks [n, H, W]; zeros for a mask without a pixel."""
    return torch.from_numpy(_shapes.tight(masks.numpy()))


def stack_marked(samples: list[dict]) -> dict:
    """Samples of ``BoxTransform`` -> a batch; images and masks get zeros on the right and the lower side.

    Returns:
        "image" [B, 3, H, W], where H and W are those of the largest picture, rounded up to multiples of 32, "size" and
        "original" [B, 2], and lists "target" and "name".
    """
    images, targets = padded([sample["image"] for sample in samples]), []
    H, W = images.shape[2:]
    for sample in samples:
        h, w = sample["image"].shape[1:]
        target = dict(sample["target"])
        if "masks" in target:
            target["masks"] = F.pad(target["masks"], (0, W - w, 0, H - h))
        targets.append(target)
    sizes = {name: torch.stack([sample[name] for sample in samples]) for name in ("size", "original")}
    return {"image": images, **sizes, "target": targets, "name": [sample["name"] for sample in samples]}


def _clamped(boxes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return boxes.clamp(min=0).minimum(torch.tensor([size[1], size[0], size[1], size[0]]))


def _solid(boxes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """bool [n]: which boxes lie inside and have a pixel of width and height."""
    return v2.functional.sanitize_bounding_boxes(boxes, format=XYXY, canvas_size=(size[0], size[1]))[1]


def _pixels(masks: torch.Tensor) -> torch.Tensor:
    """How many pixels each of [n, H, W] has."""
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.long)


def _area(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _cut(side: int, room: int, scale: float) -> tuple[int, int]:
    """How many of ``side`` pixels are shown in ``room`` pixels at a scale, and how many they become."""
    shown = min(side, max(1, round(room / scale)))
    return shown, room if shown < side else min(room, max(1, round(side * scale)))


def _seen(start: int, length: int, offset: int, side: int, outer: int) -> tuple[tuple[int, int], int, int]:
    """Along one axis: what a window from ``start``, resized to ``outer``, shows of a picture from ``offset``.

    Returns:
        first and last of the picture's pixels, and where they begin and how many they become.
    """
    first, last = max(start, offset), min(start + length, offset + side)
    begin, end = (round((edge - start) * outer / length) for edge in (first, last))
    begin = min(begin, outer - 1)
    return (first - offset, last - offset), begin, max(1, end - begin)
