"""Labelled pictures, and how they become batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from .._errors import UserError, first_line

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 128_000_000
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class BadImage(UserError):
    """A picture that cannot be used."""

    def __init__(self, path: Path | str, reason: str):
        super().__init__(f"cannot read picture {path}: {reason}")


def open_image(path: Path | str) -> Image.Image:
    """Open a picture as RGB.

    Only the formats of ``FORMATS`` are tried, and no picture of more than ``MAX_PIXELS`` is decoded.

    Raises:
        BadImage: the file is missing, of another format, too large or broken.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(path, f"{image.width}x{image.height} exceeds {MAX_PIXELS // 10**6} megapixels")
            if image.mode.startswith("I;16"):  # which Pillow would clip instead of scale
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            if "transparency" in image.info:  # Pillow warns of palettes with it otherwise
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
    except FileNotFoundError:
        raise BadImage(path, "no such file") from None
    except Image.UnidentifiedImageError:
        raise BadImage(path, f"not a picture in {', '.join(FORMATS)}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadImage(path, first_line(error)) from None


class Pictures(ABC):
    """A list of labelled pictures: the contract of every data format."""

    classes: list[str]

    @abstractmethod
    def __len__(self) -> int:
        """Number of pictures."""

    @abstractmethod
    def picture(self, index: int) -> Image.Image:
        """The picture in RGB; raises BadImage."""

    @abstractmethod
    def label(self, index: int) -> int:
        """Its class, an index into ``classes``."""


class Transformed(Dataset):
    """Samples {"image": [3, H, W], "label": int}, or {"bad": message} of a picture that cannot be read."""

    def __init__(self, pictures: Pictures, transform: Callable):
        self.pictures, self.transform = pictures, transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict:
        try:
            picture = self.pictures.picture(index)
        except BadImage as error:
            return {"bad": str(error)}
        return {"image": self.transform(picture), "label": self.pictures.label(index)}


def collate(samples: list[dict]) -> dict:
    """{"image": [B, 3, H, W], "label": [B], "bad": messages of pictures that could not be read}; B may be 0."""
    good = [sample for sample in samples if "bad" not in sample]
    batch = default_collate(good) if good else {"image": torch.empty(0), "label": torch.empty(0, dtype=torch.long)}
    return batch | {"bad": [sample["bad"] for sample in samples if "bad" in sample]}


class Shuffle(Sampler[int]):
    """A permutation that is a pure function of (seed, epoch)."""

    def __init__(self, length: int, seed: int):
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.length, generator=generator).tolist())


def make_loader(
    pictures: Pictures,
    transform: Callable,
    batch_size: int,
    *,
    workers: int = 0,
    shuffle_seed: int | None = None,
) -> DataLoader:
    """Batches of ``collate``; with a seed shuffled, and without a last partial batch if there are others."""
    return DataLoader(
        Transformed(pictures, transform),
        batch_size=batch_size,
        sampler=Shuffle(len(pictures), shuffle_seed) if shuffle_seed is not None else None,
        num_workers=workers,
        collate_fn=collate,
        drop_last=shuffle_seed is not None and len(pictures) > batch_size,
        persistent_workers=workers > 0,
    )
