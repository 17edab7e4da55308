"""What tasks share whose model stands on the maps of any timm backbone."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from timm.data import resolve_model_data_config

from .._classes import match_classes
from .._errors import UserError, one_line, unknown
from .._models import DAMAGED, read_config, weights_folder
from ..necks import PyramidModel, Registry
from ._task import Task, TaskArgs
from ._weights import load_weights, read_weights

M = TypeVar("M", bound=PyramidModel)


@dataclass(kw_only=True)
class TransferArgs(TaskArgs, ABC):
    """What a run says of a model over a backbone, beside what it says of any task; ``model`` is the backbone.

    Attributes:
        image_size: shorter side of the pictures in pixels.
        max_size: longest side of the pictures in pixels.
        frozen_stages: 1 to 4 for layers that are not trained: those of the backbone's map of stride 4, 8, 16 or 32.
        frozen_bn: BatchNorm of the backbone keeps its statistics and is not trained.
    """

    max_size: int = 1333
    frozen_stages: int = 0
    frozen_bn: bool = False

    @property
    @abstractmethod
    def head(self) -> tuple[Registry, str, dict[str, Any]]:
        """Where the model is found, under which name, and its further arguments."""

    @property
    def largest(self) -> tuple[int, int]:
        return self.image_size, self.max_size

    def without(self, recipe: TaskArgs, named: bool = False) -> TaskArgs:
        """Also of a model over the backbone."""
        args: Any = super().without(recipe, named)
        registry, name, further = self.head
        before: Any = recipe
        if before.head[1] != name and before.head[2] == further:
            args = replace(args, **{f"{registry.kind}_args": {}})
        return args

    def __post_init__(self):
        registry, name, args = self.head
        if name not in registry:
            raise unknown(registry.kind, name, registry)
        if self.image_size < 1:
            raise UserError(f"image-size must be above 0, got {self.image_size}")
        if self.max_size < self.image_size:
            raise UserError(f"max-size must not be below image-size {self.image_size}, got {self.max_size}")
        if "num_classes" in args | self.model_args:
            raise UserError("the number of classes is that of the data; leave num_classes out")
        if self.pretrained and self.weights:
            raise UserError("pretrained and the weights of a file exclude each other")


class Transfer(Task, ABC):
    """A model over a backbone.

    Args:
        args: model, backbone, preprocessing, augmentation.
        classes: names of the classes; they travel with the weights.

    Raises:
        UserError: an unknown backbone, arguments that it or the model does not take, weights of another model.
    """

    model: Any  # a PyramidModel

    def __init__(self, args: TransferArgs, classes: list[str]):
        super().__init__()
        self.args, self.classes = args, classes
        self.model = self._build(len(classes), args.pretrained)
        if args.weights is not None:
            load_weights(self.model, args.weights, lambda: self._build(len(classes) + 1, False))

    def _build(self, num_classes: int, pretrained: bool) -> Any:
        args = self.args
        registry, name, further = args.head
        options: Any = dict(frozen_stages=args.frozen_stages, frozen_bn=args.frozen_bn, backbone_args=args.model_args)
        return registry.build(name, args.model, num_classes, pretrained=pretrained, **options, **further)

    def example(self) -> dict:
        """A batch of one blank picture of the largest size."""
        sizes = torch.tensor([self.args.largest])
        return {"image": torch.zeros(1, 3, *self.args.largest), "size": sizes, "original": sizes}

    def compile_model(self) -> None:
        """Compile the model's forward pass; sizes differ from batch to batch, so shapes become dynamic."""
        self.model.compile()

    def config(self) -> dict[str, Any]:
        """Classes, preprocessing, and all that is needed to build the model again."""
        args, body = self.args, self.model.backbone
        registry, name, further = args.head
        seen = resolve_model_data_config(body.body)
        return {
            "task": args.data,
            registry.kind: name,
            f"{registry.kind}_args": further,
            "architecture": body.architecture,
            "model_args": body.model_args,
            "label_names": self.classes,
            "pretrained_cfg": dict(input_size=(3, *self.args.largest), mean=seen["mean"], std=seen["std"]),
            "image_size": args.image_size,
            "max_size": args.max_size,
        }

    def write_config(self, path: Path) -> None:
        """Write what ``load_model`` reads."""
        path.write_text(json.dumps(self.config(), indent=2))


def summed(parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """{"loss": the sum of the parts, and the parts without a graph}."""
    return {"loss": torch.stack(list(parts.values())).sum()} | {k: v.detach() for k, v in parts.items()}


class Trained:
    """A trained model over a backbone with its classes and preprocessing, in evaluation mode.

    Attributes:
        name: what it was loaded from.
        config: its config.json.
        classes: their names.
        stack: from samples, as ``transform`` makes them, to a batch.
    """

    stack: Callable[[list[dict]], dict]

    def __init__(self, name: str, model: PyramidModel, config: dict[str, Any], device: str, precision: str):
        self.name, self.config = name, config
        self.model: Any = model.eval().to(device)
        self.device, self.bfloat16 = torch.device(device), precision == "bf16"
        self.classes: list[str] = list(config["label_names"])

    def positions(self, classes: list[str]) -> list[int]:
        """The model's class for each class of data, by name; raises UserError if the names differ."""
        return match_classes(self.name, self.classes, classes)

    def autocast(self) -> torch.autocast:
        """The precision in which it runs."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


T = TypeVar("T", bound=Trained)


def load_model(
    trained: type[T],
    task: str,
    registry: Registry[M],
    name: str,
    *,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    image_size: int | None = None,
    max_size: int | None = None,
) -> T:
    """Load the model of a run.

    Args:
        trained: what it becomes.
        task: what config.json must say.
        registry: where the model is found.
        name: the run's folder, or one of weights and config.json.
        device: as torch names it.
        precision: bf16 runs under autocast.
        image_size: shorter side of the pictures in pixels, if not that of training.
        max_size: longest side in pixels, if not that of training.

    Raises:
        UserError: no such folder, damaged weights, a model of another task.
    """
    kind = registry.kind
    if not Path(name).is_dir():
        raise UserError(f"no such folder: {name}; expected the folder of a run of a {kind}")
    folder = weights_folder(Path(name))
    config = read_config(folder)
    found = config.get("task", "classification")
    if found != task:
        raise UserError(f"{name} holds no {kind}, but a model for {found}")
    config |= {k: v for k, v in dict(image_size=image_size, max_size=max_size).items() if v is not None}
    try:
        if not 0 < config["image_size"] <= config["max_size"]:
            raise UserError(f"image-size must be above 0 and at most max-size, got {config['image_size']}")
        args: dict[str, Any] = dict(backbone_args=config["model_args"], **config[f"{kind}_args"])
        model = registry.build(config[kind], config["architecture"], len(config["label_names"]), **args)
        model.load_state_dict(read_weights(folder / "model.safetensors"))
    except DAMAGED as error:
        raise UserError(f"cannot load {folder}, written by another version or damaged: {one_line(error)}") from None
    return trained(name, model, config, device, precision)
