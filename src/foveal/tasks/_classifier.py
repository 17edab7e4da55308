"""A trained classifier from wherever it lies: a run, timm, the Hugging Face Hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset
from timm.data.model_config import resolve_input_data_config
from timm.models import get_pretrained_cfg, resolve_model_input_args

from .._classes import check_scores, class_positions
from .._errors import UserError, does_not_run, one_line, unknown
from .._models import DAMAGED, LOCAL, SOURCES, kind_of, weights_folder
from .._views import AS_TRAINED, Preprocessing


class Classifier:
    """A timm model on a device, in float32 or under bfloat16 autocast, ready to use.

    Attributes:
        name: what it was loaded from.
        config: timm's preprocessing: input_size, interpolation, mean, std, crop_pct, crop_mode.
        classes: names of the classes, where it knows them.
        titles: what to call the classes before people.
        num_classes: their number.
    """

    def __init__(self, name: str, model: Any, preprocessing: Preprocessing, device: str, precision: str):
        cfg = model.pretrained_cfg
        self.name, self.model, self.device = name, model.eval().to(device), torch.device(device)
        self.bfloat16 = precision == "bf16"
        self.classes: list[str] | None = list(cfg["label_names"]) if cfg.get("label_names") else None
        try:
            self.config = resolve_input_data_config(model, preprocessing.args(), use_test_size=True)
            if self.config["input_size"][0] != 3:
                raise UserError(f"{name} takes {self.config['input_size'][0]} channels, and pictures have 3")
            with torch.inference_mode():
                probe = self.logits(torch.zeros(2, *self.config["input_size"]))
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise does_not_run(name, error) from None
        titles = cfg.get("label_descriptions") or {}
        self.num_classes, self.titles = check_scores(name, probe.shape, self.classes, titles)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] -> [B, classes] on the CPU."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.model(images.to(self.device)).float().cpu()

    @torch.inference_mode()
    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images [B, 3, H, W] -> probabilities [B, classes].

        They have double precision, so that two classes never tie whose logits differ.

        Raises:
            UserError: a score is not finite.
        """
        scores = self.logits(images).double().softmax(dim=1)
        if not scores.isfinite().all():
            raise UserError(f"{self.name} gives scores that are not finite")
        return scores

    def transform(self) -> Callable:
        """From an RGB picture to a normalised tensor [3, H, W]."""
        transform: Any = create_transform(**self.config)
        return transform

    def positions(self, classes: list[str]) -> list[int]:
        """The model's class for each class of a data set; see ``class_positions``."""
        return class_positions(self.name, self.classes, self.num_classes, classes)


def load_classifier(
    name: str,
    preprocessing: Preprocessing = AS_TRAINED,
    *,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Classifier:
    """Load a classifier, in evaluation mode.

    Args:
        name: folder of a run or of weights with timm's config.json; a timm model that has weights; ``hf-hub:REPO``,
            ``local-dir:FOLDER``.
        preprocessing: what differs from the model's own, which is that of test time.
        device: as torch names it.
        precision: bf16 runs under autocast.

    Raises:
        UserError: nothing of that name, damaged weights, another architecture, no classifier.
    """
    path = Path(name)
    if path.suffix == ".pt2":
        raise UserError(
            f"refused {name}: torch.export.load runs code that such a file may hold; use the run's folder or ONNX"
        )
    if path.suffix == ".onnx":
        raise UserError(f"{name} is an exported file: foveal.runtime.load reads it")
    return Classifier(name, _load_model(name, preprocessing), preprocessing, device, precision)


def _load_model(name: str, preprocessing: Preprocessing) -> Any:
    """The timm model with the weights of a name that is no file; see ``load_classifier``."""
    path = Path(name)
    if path.is_dir():
        if (kind := kind_of(name)) != "classification":
            raise UserError(f"{name} holds no classifier, but a model for {kind}")
        source = f"{LOCAL}{weights_folder(path)}"
    elif name.startswith(SOURCES):
        source = name
    elif path.is_file():
        raise UserError(f"{name} is a file; expected the folder of a run, a timm model's name or an .onnx file")
    elif not timm.is_model(name):
        near = str(unknown("model", name, timm.list_models())).partition("; ")[2]
        raise UserError(f"{name} is no run, no folder and no model of timm; {near}")
    else:
        _check_weights(name)
        source = name
    size = {"input_size": preprocessing.args().get("input_size")}
    try:
        model: Any = timm.create_model(**resolve_model_input_args(source, size, pretrained=True))
    except DAMAGED as error:
        where = source.removeprefix(LOCAL)
        doubt = ", written by another version or damaged" if where != source else ""
        raise UserError(f"cannot load {where}{doubt}: {one_line(error)}") from None
    own = source == name and not name.startswith(SOURCES)  # weights of timm, which name no class
    if own and (subset := infer_imagenet_subset(model)) is not None:
        info: Any = ImageNetInfo(subset)
        titles = info.label_descriptions(as_dict=True)
        model.pretrained_cfg = dict(model.pretrained_cfg, label_names=info.label_names(), label_descriptions=titles)
    return model


def _check_weights(name: str) -> None:
    """Raise UserError unless timm has weights of this name, with a tag or without."""
    try:
        cfg = get_pretrained_cfg(name)
    except RuntimeError:
        arch, _, tag = name.partition(".")
        known = [other.partition(".")[2] for other in timm.list_pretrained(f"{arch}.*")]
        raise unknown(f"weights of {arch}", tag, known) from None
    if cfg is None or not cfg.has_weights:
        raise UserError(f"timm has no weights for {name}; give the folder of a run, or local-dir:FOLDER of weights")
