"""Folders of pictures: ``class/picture`` or ``train/class/picture`` beside ``val/class/picture``."""

import random
from pathlib import Path

from PIL import Image

from .._errors import UserError
from ._pictures import SUFFIXES, Pictures, open_image

VAL_SHARE = 0.1  # held out of every class when there is no val folder


class ImageFolder(Pictures):
    """Pictures on disk, decoded when asked for."""

    def __init__(self, classes: list[str], paths: list[Path], labels: list[int]):
        self.classes, self.paths, self.labels = classes, paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, index: int) -> Image.Image:
        return open_image(self.paths[index])

    def label(self, index: int) -> int:
        return self.labels[index]


def image_folder(root: Path) -> tuple[ImageFolder, ImageFolder]:
    """Training and validation pictures of a folder.

    Without ``train/`` and ``val/`` a tenth of every class, at least one picture, is held out: always the same ones.

    Raises:
        UserError: no such folder, no class folders, an empty class, classes that differ between the two parts.
    """
    if not root.is_dir():
        raise UserError(f"no such folder: {root}")
    if (root / "train").is_dir() and (root / "val").is_dir():
        train, val = _scan(root / "train"), _scan(root / "val")
        if train.keys() != val.keys():
            odd = ", ".join(sorted(train.keys() ^ val.keys()))
            raise UserError(f"{root}/train and {root}/val differ in their classes: {odd}")
    else:
        train, val = {}, {}
        for name, paths in _scan(root).items():
            if len(paths) < 2:
                raise UserError(f"class folder {root / name} needs two pictures, one to train and one to validate")
            held_out = set(random.Random(name).sample(paths, max(1, round(len(paths) * VAL_SHARE))))
            train[name] = [path for path in paths if path not in held_out]
            val[name] = [path for path in paths if path in held_out]
    return _pictures(train), _pictures(val)


def _scan(root: Path) -> dict[str, list[Path]]:
    """Pictures by class, both in alphabetical order."""
    classes = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not classes:
        raise UserError(f"{root} has no class folders; expected {root}/CLASS/PICTURE")
    found = {}
    for folder in classes:
        found[folder.name] = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found[folder.name]:
            raise UserError(f"class folder {folder} has no pictures ({', '.join(SUFFIXES)})")
    return found


def _pictures(by_class: dict[str, list[Path]]) -> ImageFolder:
    classes = list(by_class)
    labelled = [(path, label) for label, name in enumerate(classes) for path in by_class[name]]
    return ImageFolder(classes, [path for path, _ in labelled], [label for _, label in labelled])
