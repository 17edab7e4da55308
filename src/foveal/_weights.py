"""Weights that foveal ships: which there are, and their files, which lie beside the package and not in it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from ._errors import UserError, first_line

VARIABLE = "FOVEAL_WEIGHTS"
SOURCE = f"it is in weights/ of foveal's repository and among the files of a release; {VARIABLE} names its folder"


class Weights(NamedTuple):
    """Trained weights.

    Attributes:
        sha256: of the file, in hexadecimal digits.
        bytes: of the file.
        top1: accuracy in % that these weights were measured to have, on the validation pictures of their run.
        pictures: number of those.
        cfg: fields of timm's ``PretrainedCfg``: classes and preprocessing.
    """

    sha256: str
    bytes: int
    top1: float
    pictures: int
    cfg: dict[str, Any]


INDEX = Path(__file__).with_suffix(".json")  # scripts/ship_weights.py writes it
WEIGHTS: dict[str, Weights] = {name: Weights(**entry) for name, entry in json.loads(INDEX.read_text()).items()}


def file_name(name: str) -> str:
    """The file of weights by their timm name, MODEL.TAG."""
    return f"{name}.safetensors"


def folder() -> Path | None:
    """Where the files are: what FOVEAL_WEIGHTS says, or weights/ of the checkout that foveal runs from."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    root = Path(__file__).parents[2]
    return root / "weights" if (root / "pyproject.toml").is_file() else None


def find(name: str) -> Path:
    """The file of weights that are in the index; raises UserError if it is missing or another one."""
    place = folder()
    if place is None:
        raise UserError(f"{name} needs {file_name(name)}: {SOURCE}")
    path = place / file_name(name)
    if not path.is_file():
        raise UserError(f"no {path}: {SOURCE}")
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from None
    if digest != WEIGHTS[name].sha256:
        raise UserError(f"{path} is not the file of {name}: its SHA-256 is not that of foveal's index; get it again")
    return path
