"""Folders of pictures: ``class/picture`` or ``train/class/picture`` beside ``val/class/picture``."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from .._errors import UserError
from ._decode import open_image
from ._pictures import SUFFIXES, UNLABELLED, Divisible, class_order


class PictureFiles(Divisible):
    """Pictures on disk, decoded when asked for."""

    def __init__(self, classes: list[str], paths: list[Path], labels: list[int]):
        self.classes, self.paths, self.labels = classes, paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, index: int) -> Image.Image:
        return open_image(self.paths[index])

    def label(self, index: int) -> int:
        return self.labels[index]

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def subset(self, indices: list[int]) -> "PictureFiles":
        return PictureFiles(self.classes, [self.paths[i] for i in indices], [self.labels[i] for i in indices])


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
    if not ((root / "train").is_dir() and (root / "val").is_dir()):
        return _scan(root), None
    train, val = _scan(root / "train"), _scan(root / "val")
    if train.classes and val.classes and train.classes != val.classes:
        odd = ", ".join(class_order({*train.classes} ^ {*val.classes}))
        raise UserError(f"{root}/train and {root}/val differ in their classes: {odd}")
    return train, val


def _scan(root: Path) -> PictureFiles:
    """Pictures by class, in the order of their names."""
    classes = class_order(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = _pictures((root / name).rglob("*"))
        if not found:
            raise UserError(f"class folder {root / name} has no pictures ({', '.join(SUFFIXES)})")
        paths += found
        labels += [label] * len(found)
    if not classes:
        paths = _pictures(root.iterdir())
        labels = [UNLABELLED] * len(paths)
    return PictureFiles(classes, paths, labels)


def _pictures(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES)
