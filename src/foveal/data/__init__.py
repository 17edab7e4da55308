"""Data sets: one file per format, each giving labelled pictures as a list or as a stream."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from .._errors import UserError, some, unknown
from ._decode import BadImage, decode_image, decoder, open_image
from ._loader import Batches, OnImage
from ._pictures import SUFFIXES, UNLABELLED, Divisible, Labelled, Pictures, Sample, Stream, class_order, hold_out
from .fashion_mnist import BUILT_IN, fashion_mnist
from .hugging_face import PREFIX, hugging_face
from .image_folder import image_folder
from .listing import listing
from .webdataset import webdataset

__all__ = [
    "DATASETS",
    "SUFFIXES",
    "UNLABELLED",
    "BadImage",
    "Batches",
    "Data",
    "OnImage",
    "Pictures",
    "Sample",
    "Stream",
    "decode_image",
    "decoder",
    "load_data",
    "load_split",
    "open_image",
]

Data: TypeAlias = Pictures | Stream
Parts: TypeAlias = tuple[Data | None, Data | None]  # training and validation; None is what the source does not say


def _fashion(root: Path | None) -> Parts:
    if root is not None:
        raise UserError("--root has no effect on the built-in data 'fashion'; the full set is --data fashion-mnist")
    return fashion_mnist(BUILT_IN)


def _fashion_mnist(root: Path | None) -> Parts:
    if root is None:
        raise UserError("--data fashion-mnist needs --root, the folder of its four IDX files")
    return fashion_mnist(root)


DATASETS: dict[str, Callable[[Path | None], Parts]] = {
    "fashion": _fashion,
    "fashion-mnist": _fashion_mnist,
}

FORMATS: list[tuple[Callable[[str], bool], Callable[[str], Parts]]] = [
    (lambda name: name.startswith(PREFIX), hugging_face),
    (lambda name: name.endswith((".tar", ".json")), webdataset),
    (lambda name: name.endswith((".csv", ".jsonl")), listing),
    (lambda name: Path(name).is_dir() or "/" in name, image_folder),
]


def load_data(name: str, root: Path | None = None, val: str | None = None) -> tuple[Data, Data]:
    """Training and validation pictures.

    Args:
        name: a key of ``DATASETS``, a folder of shape ``class/picture`` or ``train/ val/``, a list (.csv, .jsonl),
            ``hf:`` and a name or path, or shards (a pattern of .tar files, an index .json).
        root: where a named data set lies.
        val: what gives the validation pictures, if it is not ``name``. Without it, and if ``name`` says nothing of
            validation, a tenth of every class is held out.

    Raises:
        UserError: an unknown name, a missing or malformed data set, no training pictures, pictures without labels,
            different classes of the two parts, shards without ``val``.
    """
    train, own = _parts(name, root)
    if train is None:
        raise UserError(f"{name} has no training pictures")
    _check_labels(name, train)
    if val is not None:
        other = load_split(val)
        _check_labels(val, other)
        if train.classes != other.classes:
            raise UserError(f"{name} and {val} differ in their classes: {_difference(train.classes, other.classes)}")
        return train, other
    if own is not None:
        _check_labels(name, own)
        return train, own
    if not isinstance(train, Divisible):
        raise UserError(f"{name} has no validation part; --val-data names one")
    return hold_out(train, f"class folder {Path(name)}/" if Path(name).is_dir() else f"{name}: class ")


def load_split(name: str, root: Path | None = None) -> Data:
    """Pictures to evaluate on: the validation part, or all of them where there is none.

    Those of a folder without class folders are in the order of their names, and have no labels.

    Raises:
        UserError: an unknown name, a missing or malformed data set, no pictures.
    """
    train, val = _parts(name, root)
    data = val if val is not None else train
    if data is None or not len(data):
        raise UserError(f"{name} has no pictures")
    return data


def _parts(name: str, root: Path | None) -> Parts:
    if name in DATASETS:
        return DATASETS[name](root)
    for fits, read in FORMATS:
        if fits(name):
            if root is not None:
                raise UserError(f"--root has no effect on {name}; it is for {', '.join(DATASETS)}")
            return read(name)
    raise unknown("data set or folder", name, DATASETS)


def _check_labels(name: str, data: Data) -> None:
    if not data.classes:
        raise UserError(f"{name} has no class folders; expected {name}/CLASS/PICTURE")
    if not len(data):
        raise UserError(f"{name} has no pictures")
    if isinstance(data, Labelled) and any(data.label(index) == UNLABELLED for index in range(len(data))):
        raise UserError(f"{name} has pictures without a class")


def _difference(ours: list[str], others: list[str]) -> str:
    return some(class_order({*ours} ^ {*others}) or ["their order"], 8)
