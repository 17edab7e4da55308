"""A trained classifier from wherever it lies: a run, timm, the Hugging Face Hub, an ONNX file."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_data_config
from timm.data.model_config import resolve_input_data_config
from timm.models import get_pretrained_cfg, resolve_model_input_args

from .._errors import UserError, does_not_run, first_line, some, unknown
from .._models import weights_folder
from ._classes import match_classes
from ._weights import DAMAGED, kind_of

SOURCES = ("hf-hub:", "local-dir:")


class Classifier(ABC):
    """A classifier ready to use.

    Attributes:
        name: what it was loaded from.
        config: timm's preprocessing: input_size, interpolation, mean, std, crop_pct, crop_mode.
        classes: names of the classes, where it knows them.
        titles: what to call the classes before people.
        num_classes: their number.
    """

    def __init__(self, name: str, config: dict[str, Any], classes: list[str] | None, titles: dict[str, str]):
        self.name, self.config, self.classes = name, config, classes
        try:
            with torch.inference_mode():
                probe = self.logits(torch.zeros(2, *config["input_size"]))
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise does_not_run(name, error) from None
        if probe.ndim != 2 or probe.shape[1] < 1:
            raise UserError(f"{name} is no classifier: it gives {list(probe.shape)} for two pictures")
        self.num_classes = probe.shape[1]
        if classes is not None and len(classes) != self.num_classes:
            raise UserError(f"{name} names {len(classes)} classes but gives {self.num_classes} scores")
        names = classes or [str(i) for i in range(self.num_classes)]
        self.titles = [titles.get(name, name) for name in names]

    @abstractmethod
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] -> [B, classes] on the CPU."""

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
        """The model's class for each class of a data set.

        Names that agree are matched whatever their order. Folders 0, 1, 2, ... are taken for the model's indices.
        Where the model has no names, or other names than WordNet's for folders that are synsets, the order counts.

        Raises:
            UserError: the names differ, or the numbers.
        """
        own = self.classes
        if own is not None and sorted(own) == sorted(classes):
            return match_classes(self.name, own, classes)
        if len(classes) == self.num_classes:
            if {*classes} == {str(i) for i in range(self.num_classes)}:
                return [int(name) for name in classes]
            if own is None or (_synsets(classes) and not _synsets(own)):
                place = {name: i for i, name in enumerate(sorted(classes))}
                return [place[name] for name in classes]
        if own is None or len(classes) != self.num_classes:
            raise UserError(f"{self.name} has {self.num_classes} classes, the data {len(classes)}: {some(classes, 4)}")
        return match_classes(self.name, own, classes)


class TimmClassifier(Classifier):
    """A timm model on a device, in float32 or under bfloat16 autocast."""

    def __init__(self, name: str, model: Any, preprocessing: Preprocessing, device: str, precision: str):
        cfg = model.pretrained_cfg
        try:
            config = resolve_input_data_config(model, preprocessing.args(), use_test_size=True)
        except ValueError as error:
            raise does_not_run(name, error) from None
        if config["input_size"][0] != 3:
            raise UserError(f"{name} takes {config['input_size'][0]} channels, and pictures have 3")
        self.model, self.device = model.eval().to(device), torch.device(device)
        self.bfloat16 = precision == "bf16"
        classes = list(cfg["label_names"]) if cfg.get("label_names") else None
        super().__init__(name, config, classes, cfg.get("label_descriptions") or {})

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.model(images.to(self.device)).float().cpu()


class OnnxClassifier(Classifier):
    """An ONNX file with one input [B, 3, H, W] and logits [B, classes] as its first output, on the CPU."""

    def __init__(self, name: str, preprocessing: Preprocessing):
        try:
            import onnxruntime
        except ImportError:
            raise UserError("an ONNX file needs onnxruntime: pip install 'foveal[onnx]'") from None
        try:
            self.session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise UserError(f"cannot load {name}: {first_line(error)}") from None
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise UserError(f"{name} is no classifier: expected one input [B, 3, H, W]")
        self.input = inputs[0]
        batch, *size = self.input.shape
        self.batch = batch if isinstance(batch, int) else None
        notes = self.session.get_modelmeta().custom_metadata_map
        try:
            cfg = json.loads(notes.get("preprocessing", "{}"))
            classes = [str(c) for c in json.loads(notes["classes"])] if "classes" in notes else None
            given = preprocessing.args()
            if all(isinstance(side, int) for side in size):
                given.setdefault("input_size", tuple(size))
            needed = {"input_size": "image-size", "crop_pct": "", "interpolation": "", "mean": "", "std": ""}
            if absent := [
                f"--{flag or name.replace('_', '-')}" for name, flag in needed.items() if name not in cfg | given
            ]:
                raise UserError(f"{name} does not say how it was trained to see; give {' '.join(absent)}")
            config = resolve_data_config(given, pretrained_cfg=cfg, use_test_size=True)
        except (AssertionError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{name} has malformed metadata: {first_line(error)}") from None
        super().__init__(name, config, classes, {})

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        size = self.batch or len(images)
        parts = []
        for part in images.split(size):
            full = torch.cat([part, part.new_zeros(size - len(part), *part.shape[1:])])  # where the batch is fixed
            try:
                (logits, *_) = self.session.run(None, {self.input.name: full.numpy()})
            except Exception as error:  # as above
                raise UserError(f"{self.name} does not run at this setting: {first_line(error)}") from None
            parts.append(torch.from_numpy(logits)[: len(part)])
        return torch.cat(parts)


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
            ``local-dir:FOLDER``; an ``.onnx`` file, whose metadata may hold ``classes`` and ``preprocessing`` as JSON.
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
        if not path.is_file():
            raise UserError(f"no such file: {name}")
        if (device, precision) != ("cpu", "fp32"):
            raise UserError(f"{name} runs as it was exported, on the CPU: --device and --precision have no effect")
        return OnnxClassifier(name, preprocessing)
    model = create_model(name, preprocessing)
    return TimmClassifier(name, model, preprocessing, device, precision)


def create_model(name: str, preprocessing: Preprocessing) -> Any:
    """The timm model with the weights of a name that is no file; see ``load_classifier``."""
    path = Path(name)
    if path.is_dir():
        if (kind := kind_of(name)) != "classification":
            raise UserError(f"{name} holds no classifier, but a model for {kind}")
        source = f"local-dir:{weights_folder(path)}"
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
        where = source.removeprefix("local-dir:")
        doubt = ", written by another version or damaged" if where != source else ""
        raise UserError(f"cannot load {where}{doubt}: {_one_line(error)}") from None
    subset = infer_imagenet_subset(model)
    if (
        source == name and not name.startswith(SOURCES) and subset is not None
    ):  # timm's own weights, which name no class
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


def _synsets(names: list[str]) -> bool:
    return all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in names)


def _one_line(error: BaseException) -> str:
    """What an error says; of load_state_dict's lists of keys, the beginning of each."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(line if len(line) <= 160 else f"{line[:160]} ..." for line in lines[:4]) or type(error).__name__
