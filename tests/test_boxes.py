"""Boxes, masks and labels stay right whatever a picture goes through.

An object is a rectangle that fills a channel of its own, on black; so a channel of the picture that comes out says how
much of each pixel the object covers. Where a picture is resized once, that share and the mask are held to closed forms:

- A mask is sampled at the middles of pixels, so its extent differs from the scaled box by HALF a pixel at most.
- Interpolation is linear: along an axis a pixel is covered by a half or more where its middle lies in the object, and
  by a half or less where it does not. At a picture's edge an eighth of the kernel is cut off: a half is 3/7 to 4/7.

Where the picture is resized again, as a mosaic may be, the first half of a pixel grows with it.
"""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, Mask

from foveal._errors import UserError
from foveal.data import BoxAugment, BoxTransform, stack_marked
from foveal.data.boxes import LEFT, MOSAIC, Example, copy_paste, jitter_view, mosaic, read, tight

HALF = 0.501  # of a pixel, and what float32 makes of it
LEVELS = 3 / 255  # of a channel, by which interpolation of bytes may round
INSIDE, OUTSIDE = (3 / 7) ** 2, 4 / 7
BLACK = torch.zeros(3, dtype=torch.uint8)
CHANNELS = range(3)
slow_start = dict(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def examples(number: int):
    return settings(max_examples=number, **slow_start)


@dataclass
class Drawn:
    """A picture of rectangles [x1, y1, x2, y2], none of which covers another, and the channel of each."""

    size: tuple[int, int]
    boxes: list[list[int]]
    channels: list[int]

    def masks(self) -> np.ndarray:
        masks = np.zeros((len(self.boxes), *self.size), bool)
        for mask, (left, top, right, bottom) in zip(masks, self.boxes):
            mask[top:bottom, left:right] = True
        return masks

    def sample(self) -> dict:
        """As ``Batches`` gives it; the label of an object is its channel."""
        picture, masks = np.zeros((*self.size, 3), np.uint8), self.masks()
        for mask, channel in zip(masks, self.channels):
            picture[mask, channel] = 255
        target: dict[str, Any] = {
            "boxes": torch.tensor(self.boxes).float().view(-1, 4),
            "labels": torch.tensor(self.channels).long(),
            "crowd": torch.zeros(len(self.boxes), dtype=torch.bool),
            "segmentations": list(masks),
            "image_id": 7,
        }
        return {"image": Image.fromarray(picture), "name": "drawn", "target": target}


@st.composite
def intervals(draw, length: int):
    start = draw(st.integers(0, length - 1))
    return start, draw(st.integers(start + 1, length))


@st.composite
def drawn(draw, channels=CHANNELS):
    size = draw(st.integers(4, 80)), draw(st.integers(4, 80))
    picture = Drawn(size, [], [])
    taken = np.zeros(size, bool)
    for channel in channels:
        (left, right), (top, bottom) = draw(intervals(size[1])), draw(intervals(size[0]))
        if not taken[top:bottom, left:right].any():
            taken[top:bottom, left:right] = True
            picture.boxes.append([left, top, right, bottom])
            picture.channels.append(channel)
    return picture


@st.composite
def several(draw, count: int):
    """Pictures that share the channels, so that in what is made of them no two objects have the same."""
    owners = [draw(st.integers(0, count - 1)) for _ in CHANNELS]
    return [draw(drawn([c for c in CHANNELS if owners[c] == i])) for i in range(count)]


seeds = st.integers(0, 2**32 - 1)


def seed(number: int) -> None:
    random.seed(number)
    torch.manual_seed(number)


def transform(augment: BoxAugment | None, *, masks: bool = True, size=48, max_size=96, square=False) -> BoxTransform:
    """One that fills with black and leaves colours as they are."""
    options = dict(size=size, max_size=max_size, square=square, mean=(0, 0, 0), std=(1, 1, 1))
    made = BoxTransform(**options, augment=augment, masks=masks)
    made.colour = v2.Identity()
    return made


def extent(covered: torch.Tensor) -> torch.Tensor:
    """The box of what covers at least half as much as it covers anywhere, along each axis."""
    columns, rows = covered.amax(0), covered.amax(1)
    return tight(((rows >= rows.max() / 2)[:, None] & (columns >= columns.max() / 2))[None])[0]


def check(image: torch.Tensor, target: dict, tolerance: float = HALF, sharp: bool = True) -> None:
    """What holds of every picture [3, h, w] of values from 0 to 1 with its target.

    Args:
        tolerance: by which the extent of a mask may differ from its box, in pixels.
        sharp: whether pixels and masks were resized once.
    """
    boxes, labels = target["boxes"], target["labels"]
    h, w = image.shape[1:]
    assert boxes.shape == (len(labels), 4)
    assert boxes.dtype == torch.float32
    assert len({*labels.tolist()}) == len(labels)
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor([w, h])).all()
    assert (boxes[:, 2:] - boxes[:, :2] > 0.999).all()
    if "masks" not in target:
        for box, label in zip(boxes, labels):
            assert (extent(image[label]) - box).abs().max() <= tolerance + 0.5
        return
    masks = target["masks"]
    assert masks.shape == (len(labels), h, w)
    assert masks.dtype == torch.bool
    assert not (masks.sum(0) > 1).any()
    assert masks.any(2).any(1).all()
    torch.testing.assert_close(tight(masks), boxes, rtol=0, atol=tolerance)
    if sharp:
        for mask, label in zip(masks, labels):
            assert image[label][mask].min() >= INSIDE - LEVELS
            assert not (image[label][~mask] > OUTSIDE + LEVELS).any()


def example(picture: Drawn, masks: bool = True) -> Example:
    return read(picture.sample(), masks)


PLAIN, SSD, JITTER = BoxAugment(), BoxAugment(crop="ssd"), BoxAugment(crop="jitter")
ONCE = {  # what resizes a picture once, with the pictures that it takes and whether it squeezes them into squares
    "flip": (PLAIN, 1, False),
    "square": (PLAIN, 1, True),
    "scales": (BoxAugment(scales=(20, 48, 70)), 1, False),
    "ssd": (SSD, 1, True),
    "ssd, not square": (SSD, 1, False),
    "jitter": (JITTER, 1, False),
    "copy-paste": (BoxAugment(copy_paste=1.0), 2, False),
    "copy-paste, ssd": (BoxAugment(copy_paste=1.0, crop="ssd"), 2, True),
    "copy-paste, jitter": (BoxAugment(copy_paste=1.0, crop="jitter"), 2, False),
    "mosaic": (BoxAugment(mosaic=1.0), 4, False),
    "mosaic, copy-paste": (BoxAugment(mosaic=1.0, copy_paste=1.0), 5, True),
}
TWICE = {  # a part of the mosaic is enlarged at most so much: to twice its size, or to 1 / 0.3 of it in small integers
    "mosaic, jitter": (BoxAugment(mosaic=1.0, crop="jitter"), 4, 2),
    "mosaic, ssd": (BoxAugment(mosaic=1.0, crop="ssd"), 4, 4),
}


def augmented(augment: BoxAugment, pictures: list[Drawn], number: int, **options) -> dict:
    """The first picture, with the others as those that are drawn, by a seed."""
    samples = iter([picture.sample() for picture in pictures])
    seed(number)
    return transform(augment, **options)(next(samples), lambda: next(samples))


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("name", ONCE)
@examples(60)
@given(data=st.data(), number=seeds)
def test_boxes_masks_and_picture_agree(name, masks, data, number):
    augment, count, square = ONCE[name]
    pictures = data.draw(several(count))
    out = augmented(augment, pictures, number, masks=masks, square=square)
    assert out["size"].tolist() == [*out["image"].shape[1:]]
    assert out["original"].tolist() == [*pictures[0].size]
    assert out["target"]["image_id"] == 7
    check(out["image"], out["target"])


@pytest.mark.parametrize("name", TWICE)
@examples(60)
@given(data=st.data(), number=seeds)
def test_boxes_and_masks_agree_where_a_mosaic_is_resized(name, data, number):
    augment, count, enlarged = TWICE[name]
    out = augmented(augment, data.draw(several(count)), number)
    check(out["image"], out["target"], HALF + HALF * enlarged, sharp=False)


@pytest.mark.parametrize("name", [*ONCE, *TWICE])
@examples(10)
@given(data=st.data(), number=seeds)
def test_a_seed_decides(name, data, number):
    augment, count, _ = (ONCE | TWICE)[name]
    pictures = data.draw(several(count))
    one, other = (augmented(augment, pictures, number) for _ in range(2))
    assert torch.equal(one["image"], other["image"])
    assert all(torch.equal(one["target"][key], other["target"][key]) for key in ("boxes", "labels", "masks"))


@pytest.mark.parametrize("name", [name for name, (augment, count, _) in ONCE.items() if count == 1])
@examples(40)
@given(picture=drawn(), number=seeds)
def test_boxes_of_rectangles_need_no_masks(name, picture, number):
    augment, _, square = ONCE[name]
    one, other = (augmented(augment, [picture], number, masks=masks, square=square) for masks in (True, False))
    assert torch.equal(one["image"], other["image"])
    assert torch.equal(one["target"]["labels"], other["target"]["labels"])
    torch.testing.assert_close(one["target"]["boxes"], other["target"]["boxes"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("square", [True, False])
@examples(60)
@given(picture=drawn(), number=seeds)
def test_without_a_crop_nothing_is_lost(square, masks, picture, number):
    """Every object is where the picture's new size puts it, mirrored or not, unless it is smaller than a pixel."""
    out = augmented(PLAIN, [picture], number, masks=masks, square=square)
    (H, W), (h, w) = picture.size, out["size"].tolist()
    boxes = torch.tensor(picture.boxes).view(-1, 4) * torch.tensor([w / W, h / H, w / W, h / H])
    mirrored = torch.stack([w - boxes[:, 2], boxes[:, 1], w - boxes[:, 0], boxes[:, 3]], dim=1)
    same(out["target"], [(boxes, picture.channels), (mirrored, picture.channels)])


def same(target: dict, wanted: list[tuple[torch.Tensor, list[int]]]) -> None:
    """Boxes and labels are one of ``wanted``, less what is smaller than a pixel; of a size near one either will do."""
    for boxes, labels in wanted:
        sides = (boxes[:, 2:] - boxes[:, :2]).amin(1)
        left = [i for i, side in enumerate(sides) if side > 1.001 or (side > 0.999 and labels[i] in target["labels"])]
        if target["labels"].tolist() == [labels[i] for i in left] and torch.allclose(
            target["boxes"], boxes[left].float(), rtol=0, atol=1e-2
        ):
            return
    raise AssertionError(f"expected {wanted}, got {target}")


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("crop", ["ssd", "jitter"])
@examples(100)
@given(picture=drawn(), square=st.booleans(), number=seeds)
def test_a_view_shows_what_it_says(crop, masks, picture, square, number):
    """Boxes of a crop in closed form. What keeps a tenth of its area, and under SSD its middle, is not lost."""
    made = transform(SSD if crop == "ssd" else JITTER, masks=masks, square=square)
    before = example(picture, masks)
    seed(number)
    if crop == "ssd":
        chosen, view = made._ssd_view(before, 48)
    else:
        chosen, view = before, jitter_view(before.size, 48)
    after = chosen.cropped(view.window).resized(view.inner).framed(view.place, view.outer, BLACK)
    y, x, h, w = view.window
    inside, labels = [], []
    for channel, (left, top, right, bottom) in zip(picture.channels, picture.boxes):
        cut = [min(max(left - x, 0), w), min(max(top - y, 0), h), min(max(right - x, 0), w), min(max(bottom - y, 0), h)]
        area, whole = (cut[2] - cut[0]) * (cut[3] - cut[1]), (right - left) * (bottom - top)
        center = x < (left + right) / 2 < x + w and y < (top + bottom) / 2 < y + h
        if 10 * area >= whole and (center or crop == "jitter"):
            inside.append(cut)
            labels.append(channel)
    scale = torch.tensor([view.inner[1] / w, view.inner[0] / h] * 2)
    boxes = torch.tensor(inside).view(-1, 4) * scale + torch.tensor([view.place[1], view.place[0]] * 2)
    found = {"boxes": after.boxes.as_subclass(torch.Tensor), "labels": after.labels}
    same(found, [(boxes, labels)])
    assert after.size == view.outer
    if masks:
        check(after.image / 255, found | {"masks": after.masks.as_subclass(torch.Tensor)})


@st.composite
def ragged(draw, size: tuple[int, int], most: int = 3):
    """Masks of one or two rectangles each, which may cover one another."""
    masks = np.zeros((draw(st.integers(0, most)), *size), bool)
    for mask in masks:
        for _ in range(draw(st.integers(1, 2))):
            (left, right), (top, bottom) = draw(intervals(size[1])), draw(intervals(size[0]))
            mask[top:bottom, left:right] = True
    return masks


def marked(masks: np.ndarray, picture: torch.Tensor) -> Example:
    objects = torch.from_numpy(masks)
    make: Any = BoundingBoxes
    boxes = make(tight(objects), format="XYXY", canvas_size=tuple(masks.shape[1:]))
    return Example(picture, boxes, torch.arange(len(masks)), Mask(objects))


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@examples(300)
@given(data=st.data(), size=sizes)
def test_a_cut_object_is_judged_by_its_mask(data, size):
    masks = data.draw(ragged(size))
    (left, right), (top, bottom) = data.draw(intervals(size[1])), data.draw(intervals(size[0]))
    after = marked(masks, torch.zeros(3, *size, dtype=torch.uint8)).cropped((top, left, bottom - top, right - left))
    parts = masks[:, top:bottom, left:right]
    kept = remain(masks, parts, after.labels)
    assert after.labels.tolist() == kept
    assert np.array_equal(after.masks.numpy(), parts[kept])
    assert torch.equal(after.boxes.as_subclass(torch.Tensor), tight(torch.from_numpy(parts[kept])))


@pytest.mark.parametrize("left", [1, 3, 4, 5])
@pytest.mark.parametrize("how", ["cut", "cut without masks", "covered"])
def test_a_tenth_is_kept(how, left):
    """Of an object 40 px wide ``left`` columns remain."""
    masks = np.zeros((1, 20, 60), bool)
    masks[:, 5:15, 10:50] = True
    before = marked(masks, torch.zeros(3, 20, 60, dtype=torch.uint8))
    if how == "covered":
        above = np.zeros((1, 20, 50 - left), bool)
        above[:, 2:] = True
        torch.manual_seed(0)  # which pastes it
        after = copy_paste(before, marked(above, torch.zeros(3, *above.shape[1:], dtype=torch.uint8)))
        assert len(after.labels) == 1 + (left >= 4)
    else:
        before.masks = None if how == "cut without masks" else before.masks
        assert len(before.cropped((0, 50 - left, 20, 10)).labels) == (left >= 4)


def remain(before: np.ndarray, after: np.ndarray, found: torch.Tensor) -> list[int]:
    """The objects of which a tenth is left or more; of one with just a tenth either will do."""
    shares = after.sum((1, 2)) / before.sum((1, 2))
    near = np.isclose(shares, LEFT)
    return [i for i, share in enumerate(shares) if (i in found if near[i] else share > LEFT)]


@examples(200)
@given(data=st.data(), size=sizes, other=sizes, number=seeds)
def test_pasted_objects_cover_those_below(data, size, other, number):
    below, above = data.draw(ragged(size)), data.draw(ragged(other))
    seed(number)
    bright = marked(above, torch.full((3, *other), 200, dtype=torch.uint8))
    bright.labels += 100
    after = copy_paste(marked(below, torch.full((3, *size), 50, dtype=torch.uint8)), bright)
    h, w = min(size[0], other[0]), min(size[1], other[1])
    pasted = [label - 100 for label in after.labels.tolist() if label >= 100]
    parts = above[:, :h, :w]
    assert set(pasted) <= {*remain(above, parts, after.labels - 100)}
    moved = np.zeros((len(pasted), *size), bool)
    moved[:, :h, :w] = parts[pasted]
    cover = moved.any(0)
    assert np.array_equal(after.image.numpy(), np.where(cover, 200, np.full((3, *size), 50)))
    uncovered = below & ~cover
    kept = remain(below, uncovered, after.labels)
    assert after.labels.tolist() == kept + [100 + i for i in pasted]
    masks = np.concatenate([uncovered[kept], moved])
    assert np.array_equal(after.masks.numpy(), masks)
    assert torch.equal(after.boxes.as_subclass(torch.Tensor), tight(torch.from_numpy(masks)))


@examples(200)
@given(data=st.data(), H=st.integers(32, 80), W=st.integers(32, 80), masks=st.booleans(), number=seeds)
def test_parts_of_a_mosaic(data, H, W, masks, number):
    """Each picture is an object as a whole, so what is seen of it is its box; at 1.5 times its size it may be lost.

    All of them meet in a point.
    """
    owners = data.draw(st.permutations([*CHANNELS, None]))
    pictures = []
    for channel in owners:
        h, w = (data.draw(st.integers(8, 80)) for _ in range(2))
        pictures.append(Drawn((h, w), [] if channel is None else [[0, 0, w, h]], [] if channel is None else [channel]))
    seed(number)
    after = mosaic([example(picture, masks) for picture in pictures], (H, W), BLACK)
    assert after.size == (H, W)
    boxes, seen = after.boxes.as_subclass(torch.Tensor), after.image == 255
    assert torch.equal(seen, after.image > 0)
    meet: tuple[set[float], set[float]] = set(), set()
    for number, (picture, channel) in enumerate(zip(pictures, owners)):
        if channel is None:
            continue
        left, top, right, bottom = tight(seen[channel][None])[0].tolist()
        meet[0].add(right if number % 2 == 0 else left)
        meet[1].add(bottom if number < 2 else top)
        if channel in after.labels:
            place = after.labels.tolist().index(channel)
            torch.testing.assert_close(boxes[place], tight(seen[channel][None])[0], rtol=0, atol=1e-3)
            if masks:
                assert torch.equal(after.masks[place].as_subclass(torch.Tensor), seen[channel])
        else:
            h, w = picture.size
            scale = MOSAIC[1] * min(H / h, W / w)
            assert seen[channel].sum() < (LEFT * h * w + (h + w + 1) / 2) * scale**2  # each side is rounded by a half
    assert len(meet[0]) == len(meet[1]) == 1


@examples(100)
@given(picture=drawn(), flags=st.lists(st.booleans(), min_size=3, max_size=3))
def test_crowds_are_not_trained_on(picture, flags):
    sample = picture.sample()
    crowd = torch.tensor(flags[: len(picture.boxes)], dtype=torch.bool)
    sample["target"]["crowd"] = crowd
    kept = [i for i, flag in enumerate(crowd) if not flag]
    found = read(sample, True)
    assert found.labels.tolist() == [picture.channels[i] for i in kept]
    assert found.boxes.tolist() == [picture.boxes[i] for i in kept]
    assert np.array_equal(found.masks.numpy(), picture.masks()[kept])


@pytest.mark.parametrize("augment", [BoxAugment(color_jitter=0.4), SSD])
@examples(40)
@given(picture=drawn(), number=seeds)
def test_colours_leave_boxes_alone(augment, picture, number):
    made = BoxTransform(size=48, max_size=96, square=False, mean=(0.5,) * 3, std=(1,) * 3, augment=augment, masks=True)
    seed(number)
    out = made(picture.sample(), dict)
    check(out["image"], out["target"], sharp=False)
    assert out["image"].min() >= -0.501
    assert out["image"].max() <= 0.501


@examples(60)
@given(data=st.data(), size=st.integers(16, 48), more=st.integers(24, 64), square=st.booleans())
def test_evaluation_resizes_and_normalises_as_torchvision(data, size, more, square):
    picture = data.draw(drawn())
    options: dict[str, Any] = dict(mean=(0.2, 0.5, 0.7), std=(0.1, 0.2, 0.3))
    made = BoxTransform(size=size, max_size=size + more, square=square, **options, augment=None, masks=True)
    resize = v2.Resize([size, size]) if square else v2.Resize(size, max_size=size + more)
    theirs = v2.Compose([v2.ToImage(), resize, v2.ToDtype(torch.float32, scale=True), v2.Normalize(**options)])
    sample = picture.sample()
    out = made(sample, dict)
    assert out["target"] is sample["target"]
    assert out["size"].tolist() == [*out["image"].shape[1:]]
    torch.testing.assert_close(out["image"], theirs(sample["image"]), rtol=0, atol=1e-4)


@examples(60)
@given(pictures=st.lists(drawn(), min_size=1, max_size=3), masks=st.booleans(), number=seeds)
def test_a_batch_holds_its_samples(pictures, masks, number):
    options = [dict(masks=masks, size=20 + 20 * i) for i in range(len(pictures))]
    samples = [augmented(JITTER, [picture], number, **each) for picture, each in zip(pictures, options)]
    batch = stack_marked(samples)
    H, W = batch["image"].shape[2:]
    assert H % 32 == W % 32 == 0
    assert max(H, W) < 20 * len(pictures) + 32
    assert batch["name"] == ["drawn"] * len(pictures)
    for i, sample in enumerate(samples):
        h, w = batch["size"][i].tolist()
        assert (h, w) == sample["image"].shape[1:]
        assert batch["original"][i].tolist() == [*pictures[i].size]
        assert torch.equal(batch["image"][i, :, :h, :w], sample["image"])
        target, before = batch["target"][i], sample["target"]
        assert torch.equal(target["boxes"], before["boxes"])
        assert torch.equal(target["labels"], before["labels"])
        assert batch["image"][i].count_nonzero() == sample["image"].count_nonzero()
        if masks:
            assert target["masks"].shape[1:] == (H, W)
            assert torch.equal(target["masks"][:, :h, :w], before["masks"])
            assert target["masks"].sum() == before["masks"].sum()
        check(batch["image"][i], target)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        (dict(hflip=1.1), "hflip must be in [0, 1], got 1.1"),
        (dict(copy_paste=-0.1), "copy-paste must be in [0, 1], got -0.1"),
        (dict(mosaic=2), "mosaic must be in [0, 1], got 2"),
        (dict(color_jitter=-1), "color-jitter must not be below 0, got -1"),
        (dict(crop="centre"), "crop must be one of none, ssd, jitter, got centre"),
        (dict(scales=(48, 0)), "scales must be above 0, got 48, 0"),
        (dict(scales=(48,), crop="jitter"), "crop jitter draws scales of its own; leave scales out"),
        (dict(color_jitter=0.4, crop="ssd"), "crop ssd distorts colours in its own way; leave color-jitter out"),
    ],
)
def test_settings_that_make_no_sense(settings_, message):
    with pytest.raises(UserError) as error:
        BoxAugment(**settings_)
    assert str(error.value) == message
