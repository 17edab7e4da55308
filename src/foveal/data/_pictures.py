"""Labelled pictures: the contracts of every data format."""

import os
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .._errors import UserError
from ._decode import BadImage, decode_image

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
UNLABELLED = -1
VAL_SHARE = 0.1  # held out of every class where there is no validation part


class Pictures(ABC):
    """A list of annotated pictures."""

    classes: list[str]

    @abstractmethod
    def __len__(self) -> int:
        """Number of pictures."""

    @abstractmethod
    def picture(self, index: int) -> Image.Image:
        """The picture in RGB; raises BadImage."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What messages and results call it: its path, or its place."""

    @abstractmethod
    def annotation(self, index: int) -> dict[str, Any]:
        """What its sample holds beside the picture and its name."""

    def sample(self, index: int) -> dict[str, Any]:
        """{"image": RGB picture, "name": str} with the annotation; raises BadImage."""
        return {"image": self.picture(index), "name": self.name(index), **self.annotation(index)}


class Labelled(Pictures):
    """A list of pictures that have a class each."""

    @abstractmethod
    def label(self, index: int) -> int:
        """Its class, an index into ``classes``, or -1 if it has none."""

    def annotation(self, index: int) -> dict[str, Any]:
        return {"label": self.label(index)}


class Divisible(Labelled):
    """A list of which a part can be held out."""

    @abstractmethod
    def subset(self, indices: list[int]) -> "Divisible":
        """Some of the pictures, in the given order."""


@dataclass(frozen=True)
class Sample:
    """An undecoded picture of a stream; ``broken`` says why there is none."""

    name: str
    label: int
    data: bytes = b""
    broken: str = ""

    def sample(self) -> dict[str, Any]:
        """{"image": RGB picture, "label": int, "name": str}; raises BadImage."""
        if self.broken:
            raise BadImage(self.name, self.broken)
        return {"image": decode_image(self.data, self.name), "label": self.label, "name": self.name}


class Stream(ABC):
    """Labelled pictures that can only be read one after the other."""

    classes: list[str]

    @abstractmethod
    def __len__(self) -> int:
        """Number of pictures."""

    @abstractmethod
    def samples(self, worker: int, workers: int, *, seed: int | None, epoch: int, skip: int) -> Iterator[Sample]:
        """The share of one worker, without its first ``skip`` samples.

        With a seed the samples are shuffled, as a pure function of all arguments, and do not end. Without one each
        comes exactly once over all workers, in order.

        Args:
            worker: this one of all ``workers``, which are those of all processes.
        """


def picture_files(paths: Iterable[Path]) -> list[Path]:
    """Those of some paths whose suffix is a picture's, sorted; hidden ones, which macOS leaves, are none."""
    return sorted(path for path in paths if has_suffix(path, SUFFIXES))


def has_suffix(path: Path, suffixes: Sequence[str]) -> bool:
    """Whether a file is called as those of some suffixes are, and is no hidden one, which macOS leaves."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def class_order(names: Iterable[str]) -> list[str]:
    """Sorted names without repetition: as numbers if all are whole numbers."""
    distinct = set(names)
    numeric = all(name.isascii() and name.isdecimal() for name in distinct)
    return sorted(distinct, key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name) if numeric else name)


def hold_out_tenth(pictures: Any, place: str) -> tuple[Any, Any]:
    """Training and validation part: every tenth picture, always the same ones, is held out.

    Args:
        pictures: a list with ``subset``.
        place: what the message calls them.

    Raises:
        UserError: a single picture.
    """
    if len(pictures) < 2:
        raise UserError(f"{place} needs two pictures, one to train and one to validate")
    step, places = round(1 / VAL_SHARE), range(len(pictures))
    return pictures.subset([i for i in places if i % step]), pictures.subset(places[::step])


def hold_out(pictures: Divisible, place: str) -> tuple[Divisible, Divisible]:
    """Training and validation part: a tenth of every class, at least one picture, always the same ones, is held out.

    Args:
        place: what the message says before the name of a class.

    Raises:
        UserError: a class of one picture.
    """
    members: list[list[int]] = [[] for _ in pictures.classes]
    for index in range(len(pictures)):
        members[pictures.label(index)].append(index)
    held_out = set()
    for label, indices in zip(pictures.classes, members):
        if len(indices) == 1:
            raise UserError(f"{place}{label} needs two pictures, one to train and one to validate")
        count = max(1, round(len(indices) * VAL_SHARE)) if indices else 0
        held_out.update(random.Random(os.fsencode(label)).sample(indices, count))
    kept = [index for index in range(len(pictures)) if index not in held_out]
    return pictures.subset(kept), pictures.subset(sorted(held_out))
