"""The built-in scenes: pictures with several objects, composed of photographs of garments on varied backgrounds.

The garments are those of the built-in part of Fashion-MNIST, cut out, tinted, mirrored, and pasted at varied places and
sizes; scenes to train on show its training pictures, scenes to validate on its test pictures. A scene is a function of
its part, number and size alone, so it is the same on every machine and in every worker, and nothing is stored.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from .._errors import UserError
from ._objects import Problem, objects_seen
from ._pictures import VAL_SHARE, Pictures
from .fashion_mnist import BUILT_IN, CLASSES, FashionMNIST, fashion_mnist

COUNT = 2000
HEIGHT = 128
MOST_OBJECTS = 5
SCALES = (0.6, 2.5)  # of a garment's 28 px, where a scene is 128 px high
VISIBLE = 0.5  # share of every object that stays visible, at least
CUT = 12  # what is brighter belongs to a garment; its photographs have a black background
TRIES = 8  # places that are tried for an object


@dataclass(frozen=True)
class Garments:
    """Photographs [N, 28, 28] of garments, their masks and labels [N]."""

    pictures: np.ndarray
    masks: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A picture uint8 [H, W, 3], and of every object its label and the visible part of its mask, bool [H, W]."""

    picture: np.ndarray
    labels: list[int]
    masks: list[np.ndarray]


class Scenes(Pictures):
    """One to five garments in each picture; those that come later cover earlier ones.

    At least half of every object is visible, and its box and mask are of the visible part. A garment's photograph is
    0.6 to 2.5 times 28 px wide in a scene 128 px high, and in proportion in others.

    Args:
        garments: what the scenes show.
        size: height and width in pixels.
        part: 0 to train on, 1 to validate on; scenes of the same number differ between them.
        numbers: of the scenes.
    """

    classes = CLASSES
    has_masks = True

    def __init__(self, garments: Garments, size: tuple[int, int], part: int, numbers: Sequence[int]):
        self.garments, self.size, self.part, self.numbers = garments, size, part, numbers
        self.category_ids = list(range(1, len(CLASSES) + 1))
        self.problems: list[Problem] = []
        self._last: tuple[int, Scene] | None = None  # a sample asks for the picture and then for its annotation

    def __len__(self) -> int:
        return len(self.numbers)

    def picture(self, index: int) -> Image.Image:
        return Image.fromarray(self.scene(index).picture)

    def name(self, index: int) -> str:
        return f"scene {self.numbers[index]}"

    def annotation(self, index: int) -> dict[str, Any]:
        """As that of ``Marked``; ``segmentations`` are bool arrays [H, W], ``image_id`` is the scene's number."""
        scene = self.scene(index)
        return {"target": objects_seen(scene.masks, scene.labels, self.numbers[index], self.size).target()}

    def scene(self, index: int) -> Scene:
        """The scene with its labels and masks."""
        number = self.numbers[index]
        last = self._last
        if last is None or last[0] != number:
            last = number, compose(self.garments, self.size, np.random.RandomState([self.part, number]))
            self._last = last
        return last[1]

    def subset(self, indices: Sequence[int]) -> "Scenes":
        """Some of the scenes, in the given order."""
        return type(self)(self.garments, self.size, self.part, [self.numbers[i] for i in indices])


class SceneMasks(Scenes):
    """Scenes with a class for every pixel: 0 for background, 1 for the first of the garments, and so on."""

    classes: ClassVar[list[str]] = ["background", *CLASSES]

    def annotation(self, index: int) -> dict[str, Any]:
        """{"mask": uint8 [H, W]}."""
        scene = self.scene(index)
        mask = np.zeros(self.size, np.uint8)
        for label, inside in zip(scene.labels, scene.masks):
            mask[inside] = label + 1
        return {"mask": mask}


def scene_masks(name: str) -> tuple[SceneMasks, SceneMasks]:
    """``scenes`` with masks; arguments and errors are the same."""
    train, val = (SceneMasks(part.garments, part.size, part.part, part.numbers) for part in scenes(name))
    return train, val


def scenes(name: str) -> tuple[Scenes, Scenes]:
    """Training and validation scenes; the latter are a tenth more.

    Args:
        name: "scenes" for 2000 training scenes 128 px high and 160 px wide; "scenes:COUNT" for another number of them,
            "scenes:COUNTxHEIGHT" also for another height, the width being 5/4 of it.

    Raises:
        UserError: another name, no picture, a height below 32 or above 2048.
    """
    (train, val), (size, *numbers) = garments_of_parts(), asked(name, "scenes", COUNT, 32)
    return Scenes(train, size, 0, numbers[0]), Scenes(val, size, 1, numbers[1])


def asked(name: str, kind: str, count: int, least: int) -> tuple[tuple[int, int], range, range]:
    """What KIND, KIND:COUNT or KIND:COUNTxHEIGHT names: height and width of the pictures, numbers of either part.

    Args:
        count: of pictures to train on, without COUNT.
        least: height.

    Raises:
        UserError: another name, no picture, a height below ``least`` or above 2048.
    """
    match = re.fullmatch(rf"{kind}(?::(\d{{1,9}})(?:x(\d{{1,9}}))?)?", name)
    if match is None:
        raise UserError(f"unknown {kind} {name!r}; expected {kind}, {kind}:COUNT or {kind}:COUNTxHEIGHT")
    count, height = int(match[1] or count), int(match[2] or HEIGHT)
    if count < 1:
        raise UserError(f"{name} has no picture; expected a number above 0")
    if not least <= height <= 2048:
        raise UserError(f"the height of {kind} must be in {least}..2048, got {height}")
    return (height, height * 5 // 4), range(count), range(max(1, round(count * VAL_SHARE)))


def compose(garments: Garments, size: tuple[int, int], rng: np.random.RandomState) -> Scene:
    """A scene of ``size`` (height, width), all of it drawn from ``rng``.

    RandomState, because NumPy promises that its numbers stay the same; and no library of linear algebra, whose sums
    differ between machines.
    """
    H, W = size
    scene = Scene(background(garments, size, rng), [], [])
    whole: list[int] = []  # pixels of each mask before anything covered it
    for _ in range(rng.randint(1, MOST_OBJECTS + 1)):
        picture, alpha, label = _garment(garments, H, rng)
        h, w = alpha.shape
        mask = alpha >= 128
        for _ in range(TRIES):
            top, left = rng.randint(0, H - h + 1), rng.randint(0, W - w + 1)
            window = (slice(top, top + h), slice(left, left + w))
            hidden = [np.count_nonzero(other[window] & mask) for other in scene.masks]
            visible = [np.count_nonzero(other) - n for other, n in zip(scene.masks, hidden)]
            if all(n >= VISIBLE * before for n, before in zip(visible, whole)):
                break
        else:
            continue  # too crowded: the scene has an object less
        for other in scene.masks:
            other[window] &= ~mask
        canvas = np.zeros(size, bool)
        canvas[window] = mask
        under = scene.picture[window] * (255 - alpha.astype(np.int32))[..., None]
        scene.picture[window] = (under + picture) // 255
        scene.labels.append(label)
        scene.masks.append(canvas)
        whole.append(int(np.count_nonzero(mask)))
    return scene


def _garment(garments: Garments, height: int, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray, int]:
    """A garment for a scene of this height: colours times alpha int32 [h, w, 3], alpha uint8 [h, w], label."""
    index = rng.randint(len(garments.labels))
    low, high = SCALES
    side = max(8, round(28 * height / HEIGHT * low * (high / low) ** rng.random_sample()))
    mask = garments.masks[index]
    layers = [np.where(mask, garments.pictures[index], 0), np.where(mask, np.uint8(255), np.uint8(0))]
    grey, alpha = (
        np.asarray(Image.fromarray(layer).resize((side, side), Image.Resampling.BILINEAR)) for layer in layers
    )
    rows, columns = np.flatnonzero((alpha >= 128).any(1)), np.flatnonzero((alpha >= 128).any(0))
    kept = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    grey, alpha = grey[kept], alpha[kept]
    if rng.random_sample() < 0.5:
        grey, alpha = grey[:, ::-1], alpha[:, ::-1]
    dark, bright = rng.randint(0, 96, 3), rng.randint(96, 256, 3)  # what black and white of the photograph become
    colours = dark * alpha[..., None].astype(np.int32) + (bright - dark) * grey[..., None].astype(np.int32)
    return colours, alpha, int(garments.labels[index])


def background(garments: Garments, size: tuple[int, int], rng: np.random.RandomState) -> np.ndarray:
    """uint8 [H, W, 3]: a pattern between two colours, with a little noise."""
    pattern = (_gradient, _clouds, _stripes, _checks, _cloth)[rng.randint(5)](garments, size, rng)
    first, second = rng.randint(0, 256, (2, 3))
    steps = np.arange(256)[:, None]
    palette = (first * (255 - steps) + second * steps) // 255
    noise = np.frombuffer(rng.bytes(size[0] * size[1]), np.uint8).reshape(size) >> rng.randint(3, 8)
    return np.clip(palette.astype(np.int16)[pattern] + noise[..., None], 0, 255).astype(np.uint8)


def _gradient(_: Garments, size: tuple[int, int], rng: np.random.RandomState) -> np.ndarray:
    """A ramp in a random direction."""
    (a, b), (y, x) = rng.randint(-8, 9, 2), _grid(size)
    ramp = a * x + b * y
    low, high = ramp.min(), ramp.max()
    return ((ramp - low) * 255 // max(1, high - low)).astype(np.uint8)


def _clouds(_: Garments, size: tuple[int, int], rng: np.random.RandomState) -> np.ndarray:
    """Smooth noise, coarse or fine."""
    cells = rng.randint(3, 25)
    return _enlarged(rng.randint(0, 256, (cells, cells)).astype(np.uint8), size)


def _stripes(_: Garments, size: tuple[int, int], rng: np.random.RandomState) -> np.ndarray:
    """Bands of two colours in a random direction."""
    (a, b), (y, x) = rng.randint(-4, 5, 2), _grid(size)
    return ((a * x + b * y) // rng.randint(8, 96) % 2 * 255).astype(np.uint8)


def _checks(_: Garments, size: tuple[int, int], rng: np.random.RandomState) -> np.ndarray:
    """A chessboard."""
    cell, (y, x) = rng.randint(3, 33), _grid(size)
    return ((x // cell + y // cell) % 2 * 255).astype(np.uint8)


def _cloth(garments: Garments, size: tuple[int, int], rng: np.random.RandomState) -> np.ndarray:
    """A few pixels from the middle of a garment, enlarged until they are a blur."""
    top, left = rng.randint(8, 13, 2)
    middle = garments.pictures[rng.randint(len(garments.pictures)), top : top + 8, left : left + 8]
    return _enlarged(middle, size)


def _grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(size[0], dtype=np.int32)[:, None], np.arange(size[1], dtype=np.int32)


def _enlarged(small: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BILINEAR))


@cache
def garments_of_parts() -> tuple[Garments, Garments]:
    train, val = (_cut_out(part) for part in fashion_mnist(BUILT_IN))
    return train, val


def _cut_out(part: FashionMNIST) -> Garments:
    """The garments with their masks: what is brighter than ``CUT``, and the holes in it."""
    dark = np.pad(part.pictures, ((0, 0), (1, 1), (1, 1))) <= CUT
    columns = np.arange(dark.shape[2], dtype=np.uint32)
    rows = (dark.astype(np.uint32) << columns).sum(2, dtype=np.uint32)  # a row of pixels is the bits of a number
    outside = np.zeros_like(rows)
    outside[:, 0] = rows[:, 0]
    before = None
    while before is None or (before != outside).any():  # the dark spreads from the rim
        before = outside.copy()
        outside[:, 1:] |= outside[:, :-1] & rows[:, 1:]
        outside[:, :-1] |= outside[:, 1:] & rows[:, :-1]
        outside |= (outside << np.uint32(1) | outside >> np.uint32(1)) & rows
    masks = outside[:, 1:-1, None] >> columns[1:-1] & 1 == 0
    return Garments(part.pictures, masks, part.labels)
