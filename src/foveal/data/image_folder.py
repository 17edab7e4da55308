"""Folders of pictures: ``class/picture`` or ``train/class/picture`` beside ``val/class/picture``."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from .._errors import UserError
from ._decode import open_image
from ._pictures import SUFFIXES, UNLABELLED, Divisible, class_order, picture_files

PARTS = {"train", "training", "val", "valid", "validation", "eval", "dev", "test", "testing"}  # and no classes


class PictureFiles(Divisible):
    """Pictures on disk, decoded when asked for.

    Names and labels lie in two arrays: a list of a million objects would be copied into every worker as it is read.
    """

    def __init__(self, classes: list[str], paths: list[Path], labels: list[int]):
        self.classes = classes
        self._names = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
        self._labels = np.array(labels, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._labels)

    def picture(self, index: int) -> Image.Image:
        return open_image(self.name(index))

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def name(self, index: int) -> str:
        return os.fsdecode(self._names[index])

    @property
    def paths(self) -> list[Path]:
        """Where the pictures lie."""
        return [Path(self.name(index)) for index in range(len(self))]

    @property
    def labels(self) -> list[int]:
        """The class of each picture, an index into ``classes``."""
        return self._labels.tolist()

    def subset(self, indices: list[int]) -> "PictureFiles":
        return PictureFiles(self.classes, [Path(self.name(i)) for i in indices], self._labels[indices].tolist())


def image_folder(name: str) -> tuple[PictureFiles, PictureFiles | None]:
    """Pictures of ``train/`` and ``val/`` in a folder, or all of it and None.

    Classes are in the order of their names; numbers, as of ImageNet-V2, in that of their values. A folder without class
    folders gives its pictures without labels.

    Raises:
        UserError: no such folder, no pictures, an empty class, classes that differ between the two parts.
    """
    root = Path(name)
    if not root.is_dir():
        raise UserError(f"no such folder: {root}")
    names = {path.name for path in root.iterdir() if path.is_dir() and not _is_left_over(path.name)}
    if names and not {"train", "val"} <= names and {name.casefold() for name in names} <= PARTS:
        first = next((name for name in sorted(names) if name.casefold().startswith("train")), sorted(names)[0])
        advice = f"name it: --data {root}/{first}"
        if len(names) > 1:
            advice = f"name one, or two to train: --data {root}/{first} --val-data {root}/PART"
        raise UserError(f"{root} has the parts {', '.join(sorted(names))} and no classes; {advice}")
    if not ((root / "train").is_dir() and (root / "val").is_dir()):
        return _scan(root), None
    train, val = _scan(root / "train"), _scan(root / "val")
    if train.classes and val.classes and train.classes != val.classes:
        odd = ", ".join(class_order({*train.classes} ^ {*val.classes}))
        raise UserError(f"{root}/train and {root}/val differ in their classes: {odd}")
    return train, val


def _scan(root: Path) -> PictureFiles:
    """Pictures by class, in the order of their names."""
    classes = class_order(path.name for path in root.iterdir() if path.is_dir() and not _is_left_over(path.name))
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = picture_files(_inside(root / name))
        if not found:
            raise UserError(f"class folder {root / name} has no pictures ({', '.join(SUFFIXES)})")
        paths += found
        labels += [label] * len(found)
    if not classes:
        paths = picture_files(root.iterdir())
        labels = [UNLABELLED] * len(paths)
    return PictureFiles(classes, paths, labels)


def _inside(folder: Path) -> Iterator[Path]:
    """Files in a folder and below it, through links too, each folder once."""
    seen: set[Path] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        if (real := Path(place).resolve()) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _is_left_over(name)]
        yield from (Path(place, name) for name in files if not _is_left_over(name))


def _is_left_over(name: str) -> bool:
    """Whether a file or folder is what macOS or Jupyter leaves between pictures."""
    return name.startswith(".") or name == "__MACOSX"
