"""Classifiers."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .._classes import check_scores, class_positions
from .._errors import UserError
from .._views import AS_TRAINED, Preprocessing
from ._file import File
from ._pictures import INTERPOLATIONS, classified

CROP_MODES = ("center", "squash", "border")


class Classifier:
    """A classifier of an ONNX file, whose first output are logits [B, classes].

    Attributes:
        name: what it was loaded from.
        config: timm's preprocessing: input_size, interpolation, mean, std, crop_pct, crop_mode.
        classes: names of the classes, where the file knows them.
        titles: what to call the classes before people.
        num_classes: their number.

    Raises:
        UserError: the file does not say how the model was trained to see, malformed metadata, no classifier.
    """

    def __init__(self, file: File, preprocessing: Preprocessing = AS_TRAINED):
        self.file, self.name = file, file.name
        try:
            own, self.classes, titles = _notes(file)
            self.config = _config(file, own, preprocessing)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise file.malformed(error) from None
        probe = self.logits(np.zeros((2, *self.config["input_size"]), np.float32))
        self.num_classes, self.titles = check_scores(self.name, probe.shape, self.classes, titles)

    def transform(self) -> Callable:
        """From an RGB picture to an image float32 [3, H, W]."""
        return partial(classified, config=self.config)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Images [B, 3, H, W] -> [B, classes]; raises UserError for a size that the file does not take."""
        return self.file.run(np.asarray(images, np.float32))[self.file.outputs[0]]

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Images [B, 3, H, W] -> probabilities float64 [B, classes]; raises UserError where one is not finite."""
        logits = self.logits(images).astype(np.float64)
        if not np.isfinite(logits).all():
            raise UserError(f"{self.name} gives scores that are not finite")
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def positions(self, classes: list[str]) -> list[int]:
        """The model's class for each class of a data set; see ``class_positions``."""
        return class_positions(self.name, self.classes, self.num_classes, classes)


def _notes(file: File) -> tuple[dict[str, Any], list[str] | None, dict[str, str]]:
    """Preprocessing, classes and titles as the file has them, which may be another library's."""
    if file.about is not None:
        classes, titles = file.about["classes"], dict(file.about.get("titles") or {})
        return dict(file.about["preprocessing"]), None if classes is None else [str(c) for c in classes], titles
    classes = [str(c) for c in json.loads(file.notes["classes"])] if "classes" in file.notes else None
    return dict(json.loads(file.notes.get("preprocessing", "{}"))), classes, {}


def _config(file: File, own: dict[str, Any], preprocessing: Preprocessing) -> dict[str, Any]:
    """What the file says, with what differs from it; raises UserError where something is unknown."""
    given = preprocessing.args()
    if file.size is not None:
        given.setdefault("input_size", (3, *file.size))
    config = {"crop_mode": "center"} | {name: value for name, value in own.items() if value is not None} | given
    needed = {"input_size": "image-size", "crop_pct": "", "interpolation": "", "mean": "", "std": ""}
    if absent := [f"--{flag or name.replace('_', '-')}" for name, flag in needed.items() if name not in config]:
        raise UserError(f"{file.name} does not say how it was trained to see; give {' '.join(absent)}")
    config["input_size"] = tuple(int(side) for side in config["input_size"])
    config["crop_pct"] = float(config["crop_pct"])
    for name in ("mean", "std"):
        config[name] = tuple(float(value) for value in config[name])
    channels, *sides = config["input_size"]
    if channels != 3 or len(sides) != 2 or min(sides) < 1 or len(config["mean"]) != 3 or len(config["std"]) != 3:
        raise ValueError(f"expected images of 3 channels, got {config['input_size']}")
    for name, known in (("crop_mode", CROP_MODES), ("interpolation", INTERPOLATIONS)):
        if config[name] not in known:
            raise ValueError(f"{name} is {config[name]!r}, expected one of {', '.join(known)}")
    return {name: config[name] for name in (*needed, "crop_mode")}
