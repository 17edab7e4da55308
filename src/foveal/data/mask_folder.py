"""Folders of pictures and of masks that give each pixel's class.

    images/NAME.jpg                   masks/NAME.png                   classes.txt
    images/train/, images/val/        masks/train/, masks/val/         classes.txt
    images/training/, /validation/    annotations/training/, ...       objectInfo150.txt    ADE20K

A mask is a PNG whose values, or indices into its palette, are classes; or a picture in the colours that ``classes.txt``
names. That file has a line for each class in the order of their values: its name, and possibly red, green and blue.
A mask with a palette, or in gray, is one of colours too where it has none but those of the list.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .._errors import UserError
from ._decode import FORMATS, BadImage, open_image, reading
from ._objects import read_text
from ._pictures import Pictures, picture_files

MASKS = "masks", "annotations"
PARTS = {"train": ("train", "training"), "val": ("val", "validation")}
CLASSES, ADE20K = "classes.txt", "objectInfo150.txt"
ADE20K_CLASSES = 150
MOST_CLASSES = 255  # one more value means that a pixel does not count


@dataclass
class Masked(Pictures):
    """A list of pictures with a mask each.

    Attributes:
        classes: names, in the order of the masks' values.
        paths, masks: of pictures and of their masks.
        colours: red, green and blue of each class in masks of colours, uint8 [num_classes, 3].
    """

    classes: list[str]
    paths: Sequence[Path]
    masks: Sequence[Path]
    colours: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, index: int) -> Image.Image:
        return open_image(self.paths[index])

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def annotation(self, index: int) -> dict[str, Any]:
        """{"mask": the value of every pixel [H, W], as the file has it}; raises BadImage."""
        return {"mask": read_mask(self.masks[index], self.colours)}

    def subset(self, indices: Sequence[int]) -> "Masked":
        """Some of the pictures, in the given order."""
        return Masked(self.classes, [self.paths[i] for i in indices], [self.masks[i] for i in indices], self.colours)


def is_mask_folder(name: str) -> bool:
    """Whether a folder has pictures and masks."""
    folder = Path(name)
    return (folder / "images").is_dir() and any((folder / masks).is_dir() for masks in MASKS)


def mask_folder(name: str) -> tuple[Masked | None, Masked | None]:
    """Training and validation part, or all and None.

    Raises:
        UserError: no list of classes, no pictures, a picture without a mask.
    """
    folder = Path(name)
    classes, colours = read_classes(folder)
    masks = next(folder / masks for masks in MASKS if (folder / masks).is_dir())
    parts: dict[str, Masked] = {}
    for part, names in PARTS.items():
        for called in names:
            if (folder / "images" / called).is_dir():
                parts[part] = _part(folder / "images" / called, masks / called, classes, colours)
    if not parts:
        return _part(folder / "images", masks, classes, colours), None
    return parts.get("train"), parts.get("val")


def read_classes(folder: Path) -> tuple[list[str], np.ndarray | None]:
    """Names of the classes, and their colours if the list has any; raises UserError."""
    if (folder / ADE20K).is_file():
        rows = [line.split("\t") for line in read_text(folder / ADE20K).splitlines()[1:] if line.strip()]
        if len(rows) != ADE20K_CLASSES or any(len(row) < 5 for row in rows):
            raise UserError(f"{folder / ADE20K} is not ADE20K's list of 150 classes, with its name in the fifth column")
        return [row[4].split(",")[0].strip() for row in rows], None
    file = folder / CLASSES
    if not file.is_file():
        raise UserError(f"{folder} has no {CLASSES}: a line for each class, in the order of the masks' values")
    lines = [line.strip() for line in read_text(file).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    found = [re.fullmatch(r"(.*?\S)(?:[\s,]+(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3}))?", line) for line in lines]
    for number, match in enumerate(found, start=1):
        if match is None:
            raise UserError(f"{file}: line {number} is empty; each line names a class")
    names = [match[1] for match in found if match]
    if len({*names}) < len(names):
        raise UserError(f"{file}: {next(n for n in names if names.count(n) > 1)!r} stands there twice")
    if not 1 < len(names) <= MOST_CLASSES:
        said = f"{file} names {len(names)} classes, expected 2 to {MOST_CLASSES}"
        raise UserError(f"{said}; the background is one, too, if its pixels count")
    values = [[int(v) for v in match.groups()[1:] if v is not None] for match in found if match]
    if not any(values):
        return names, None
    for number, colour in enumerate(values, start=1):
        if not colour or max(colour) > 255:
            raise UserError(f"{file}: line {number} needs red, green and blue from 0 to 255 as other lines have them")
    if len({*map(tuple, values)}) < len(values):
        raise UserError(f"{file}: two classes have the same colour")
    return names, np.array(values, np.uint8)


def read_mask(path: Path, colours: np.ndarray | None = None) -> np.ndarray:
    """The value of every pixel [H, W].

    Args:
        colours: of each class, for a mask of colours.

    Raises:
        BadImage: no such file, a lossy format, colours that are not in the list.
    """
    with reading(path), Image.open(path, formats=FORMATS) as image:
        if image.format in ("JPEG", "WEBP"):
            raise BadImage(path, f"{image.format} changes values as it saves them; masks are PNG")
        if image.mode in ("RGB", "RGBA"):
            return _by_colour(np.asarray(image.convert("RGB")), path, colours)
        if image.mode not in ("1", "L", "P", "I", "I;16"):
            raise BadImage(path, f"mode {image.mode} has no classes; expected 8 or 16 bits a pixel, or a palette")
        spread = {"L;2": 85, "L;4": 17}  # how far Pillow takes the values of few bits apart
        step = spread.get(str(image.tile[0].args), 1) if image.mode == "L" else 1
        if colours is not None and image.mode in ("1", "L", "P"):
            with suppress(BadImage):  # of values then, or of indices
                return _by_colour(np.asarray(image.convert("RGB")), path, colours)
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8)
        return np.asarray(image) // step


def _by_colour(pixels: np.ndarray, path: Path, colours: np.ndarray | None) -> np.ndarray:
    if colours is None:
        raise BadImage(path, f"the mask has colours; {CLASSES} needs red, green and blue behind each name")
    codes, wanted = (x.astype(np.int32) @ np.array([65536, 256, 1], np.int32) for x in (pixels, colours))
    order = wanted.argsort()
    places = np.minimum(wanted[order].searchsorted(codes), len(order) - 1)
    odd = wanted[order][places] != codes
    if odd.any():
        red, green, blue = pixels[odd][0]
        raise BadImage(path, f"the colour {red} {green} {blue} is not in {CLASSES}")
    return order[places].astype(np.uint8)


def _part(images: Path, masks: Path, classes: list[str], colours: np.ndarray | None) -> Masked:
    paths = picture_files(images.iterdir())
    if not paths:
        raise UserError(f"{images} has no pictures")
    found = [masks / f"{path.stem}.png" for path in paths]
    found = [mask if mask.is_file() else mask.with_suffix(".PNG") for mask in found]
    missing = [mask.with_suffix(".png") for mask in found if not mask.is_file()]
    if missing:
        raise UserError(f"{len(missing)} of {len(found)} masks are missing: {missing[0]}")
    return Masked(classes, paths, found, colours)
