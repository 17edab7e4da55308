"""A model to export, of any task, with what is known of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import nn

from .._errors import UserError, first_line, unknown
from .._models import LOCAL, create_model, kind_of, weights_folder
from ..data.joints import PADDING
from ..keypoints import STRIDE
from ..tasks import (
    AS_TRAINED,
    LOADERS,
    Classification,
    Classifier,
    Detection,
    Keypoints,
    Segmentation,
    load_classifier,
)

BEST = {
    "classification": Classification,
    "detection": Detection,
    "segmentation": Segmentation,
    "keypoints": Keypoints,
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A trained model in evaluation mode.

    Attributes:
        name: what it was loaded from.
        task: classification, detection, segmentation or keypoints.
        model: a timm model, ``Detector``, ``Segmenter`` or ``Estimator``.
        transform: from a sample of data to one with such an image; of a classifier from a picture to the image.
        architecture: timm's name of the model or the backbone.
        head: name of detector, segmenter or estimator.
        classes: their names, of an estimator those of its joints; None if they have none.
        titles: what to call a class before people, if not its name.
        size: height and width in pixels of the images that it was made for.
        preprocessing: from a picture to such an image, as ``metadata`` stores it.
        decoding: what else predictions need, as ``metadata`` stores it.
        license: of the weights, as far as it is known.
        epoch: of the run that the weights are from, counted from 1; None if it is not known.
    """

    name: str
    task: str
    model: nn.Module
    transform: Callable
    architecture: str
    head: str | None
    classes: list[str] | None
    titles: dict[str, str]
    size: tuple[int, int]
    preprocessing: dict[str, Any]
    decoding: dict[str, Any]
    license: str
    epoch: int | None

    @property
    def stem(self) -> str:
        """What its files are called."""
        return "_".join(part for part in (self.head, self.architecture) if part)


def load_source(name: str, *, random_weights: bool = False) -> Source:
    """A model of any task.

    Args:
        name: a run's folder; for a classifier also a timm name, hf-hub:REPO or local-dir:FOLDER.
        random_weights: build a timm model without its weights.

    Raises:
        UserError: no such model, no weights, another setting than the model has.
    """
    kind = kind_of(name)
    if random_weights and (kind != "classification" or not timm.is_model(name)):
        raise UserError(f"--random-weights is for a timm name, and {name} is none")
    if kind == "classification":
        return _classifier(name, random_weights)
    if kind not in LOADERS:
        raise unknown("task", kind, LOADERS)
    model, decoding = LOADERS[kind](name), {}
    if kind == "keypoints":
        joints = model.joints
        decoding = dict(method=model.model.decoding, sigma=model.model.sigma, stride=STRIDE, sigmas=joints.sigmas)
        decoding |= dict(skeleton=joints.skeleton, mirror=joints.mirrored, flip_test=model.config["flip_test"])
        decoding["categories"] = model.categories
    return _transfer(model, kind, decoding)


def _classifier(name: str, random_weights: bool) -> Source:
    if random_weights:
        classifier = Classifier(name, create_model(name), AS_TRAINED, "cpu", "fp32")
    else:
        classifier = load_classifier(name)
    cfg, names = classifier.model.pretrained_cfg, classifier.classes
    titles = {n: title for n, title in zip(names or [], classifier.titles) if n != title}
    seen = {key: classifier.config[key] for key in ("input_size", "crop_pct", "crop_mode", "interpolation")}
    seen |= {key: list(map(float, classifier.config[key])) for key in ("mean", "std")}
    seen["input_size"] = list(seen["input_size"])
    return Source(
        name=_plain(name),
        task="classification",
        model=classifier.model,
        transform=classifier.transform(),
        architecture=cfg["architecture"],
        head=None,
        classes=names,
        titles=titles,
        size=(seen["input_size"][1], seen["input_size"][2]),
        preprocessing=seen,
        decoding={},
        license="unknown" if _folder(name) else cfg.get("license") or "unknown",
        epoch=_epoch(name),
    )


def _transfer(trained: Any, kind: str, decoding: dict[str, Any]) -> Source:
    """The source of a model over a backbone."""
    config, model = trained.config, trained.model
    image_size, max_size = config["image_size"], config["max_size"]
    cfg = config["pretrained_cfg"]
    seen: dict[str, Any] = {key: list(map(float, cfg[key])) for key in ("mean", "std")}
    if kind == "keypoints":
        size = max_size, image_size
        seen |= dict(input_size=[3, *size], padding=PADDING)
    else:
        square = bool(getattr(model, "square", False))
        size = image_size, image_size
        # A picture alone fills its batch: the graph pads it to whole strides by itself.
        seen |= dict(image_size=image_size, max_size=max_size, square=square, pad=1)
    if kind == "segmentation":  # how masks are read that a file is measured by
        seen |= {name: config[name] for name in ("ignore_index", "reduce_zero_label")}
    return Source(
        name=_plain(trained.name),
        task=kind,
        model=model,
        transform=trained.transform(),
        architecture=config["architecture"],
        head=config[{"detection": "detector", "segmentation": "segmenter", "keypoints": "estimator"}[kind]],
        classes=trained.classes,
        titles={},
        size=size,
        preprocessing=seen,
        decoding=decoding,
        license="unknown",
        epoch=_epoch(trained.name),
    )


def _plain(name: str) -> str:
    """The last part of a folder's path: where it lay on a machine is nobody's business."""
    folder = _folder(name)
    return folder.resolve().name if folder else name


def _folder(name: str) -> Path | None:
    """The folder that a name is of, with timm's prefix or without; None if it is of none."""
    folder = Path(name.removeprefix(LOCAL))
    return folder if folder.is_dir() else None


def _epoch(name: str) -> int | None:
    """The epoch of a run's best weights, as its log says."""
    if (given := _folder(name)) is None:
        return None
    folder = weights_folder(given)
    log = folder.parent / "metrics.jsonl"
    if folder.name != "best" or not log.is_file():
        return None
    best = BEST[kind_of(name)].best
    try:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return int(max((line for line in lines if line[best] is not None), key=lambda line: line[best])["epoch"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"cannot read {log}: {first_line(error)}") from None
