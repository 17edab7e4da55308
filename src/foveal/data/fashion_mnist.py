"""Fashion-MNIST (Xiao et al., 2017; MIT licence): 28x28 photographs of ten kinds of garment, in IDX files.

A class-balanced part of it, 10,000 training and 2,000 test pictures, comes with the package in the same format; it is
written by scripts/make_fashion_mnist.py.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from .._errors import UserError
from ._pictures import Labelled

CLASSES = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
BUILT_IN = Path(__file__).parent / "_fashion_mnist"


class FashionMNIST(Labelled):
    """Pictures [N, 28, 28] and labels [N] in memory."""

    classes = CLASSES

    def __init__(self, pictures: np.ndarray, labels: np.ndarray):
        self.pictures, self.labels = pictures, labels

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int) -> Image.Image:
        return Image.fromarray(self.pictures[index]).convert("RGB")

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return f"picture {index} of {len(self)} of Fashion-MNIST"


def fashion_mnist(root: Path) -> tuple[FashionMNIST, FashionMNIST]:
    """Training and test pictures from the four IDX files in ``root``, gzipped or not.

    Raises:
        UserError: a file is missing or broken.
    """
    parts = []
    for part in ("train", "t10k"):
        pictures = read_idx(root / f"{part}-images-idx3-ubyte", ndim=3)
        labels = read_idx(root / f"{part}-labels-idx1-ubyte", ndim=1)
        if len(pictures) != len(labels):
            raise UserError(f"{root}: {len(pictures)} pictures but {len(labels)} labels in {part}")
        if labels.size and labels.max() >= len(CLASSES):
            raise UserError(f"{root}: label {labels.max()} in {part}, expected 0 to {len(CLASSES) - 1}")
        parts.append(FashionMNIST(pictures, labels))
    return parts[0], parts[1]


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, ``path`` or ``path``.gz; raises UserError."""
    zipped = path.with_name(path.name + ".gz")
    try:
        data = gzip.decompress(zipped.read_bytes()) if zipped.exists() else path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"missing {path} (or {zipped.name}); --root names the folder of the four IDX files") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {zipped}: {error}") from None
    shape = tuple(int.from_bytes(data[4 * i + 4 : 4 * i + 8], "big") for i in range(ndim))
    if data[:4] != bytes((0, 0, 8, ndim)) or len(data) != 4 + 4 * ndim + int(np.prod(shape)):
        raise UserError(f"{path} is not an IDX file of bytes in {ndim} dimensions")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(shape)
