"""The contract between the engine and what it trains."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import nn
from torch.utils.data import default_collate


class Metric(Protocol):
    """A figure of merit over many batches, and over several processes."""

    def update(self, predictions: Any, batch: dict) -> None: ...

    def compute(self) -> dict[str, float]: ...

    def state(self) -> Any:
        """What another process needs for ``merge``."""

    def merge(self, state: Any) -> None:
        """Add what another process has seen."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model card says of the kind of a model.

    Attributes:
        pipeline: what the Hugging Face Hub calls what it does.
        library: that loads it.
        what: it is.
        metrics: what the Hub calls those that it is measured by.
        python: lines that load it from FOLDER and use it.
        short: the same in one line, with {folder} for the folder of a run.
    """

    pipeline: str
    library: str = "foveal"
    what: str
    metrics: tuple[str, ...] = ()
    python: str
    short: str


class Task(nn.Module, ABC):
    """A model with its loss, predictions and metric.

    Attributes:
        model: a timm model, or one that holds a timm backbone.
        best: the metric's figure that decides which weights are the best; higher is better.
    """

    model: Any
    best: str

    @abstractmethod
    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        """A batch -> {"loss": scalar, and its parts}."""

    @abstractmethod
    def predict(self, batch: dict) -> Any:
        """A batch -> predictions, as the metric takes them."""

    @abstractmethod
    def metric(self) -> Metric:
        """A fresh metric."""

    def check(self, data: Any, train: bool) -> None:
        """Raise UserError if the data, to train on or to evaluate on, lacks what the task needs."""

    @abstractmethod
    def transform(self, train: bool) -> Callable[[dict, Callable[[], dict]], dict]:
        """From a sample of the data, and a function that draws another one, to what ``stack`` takes."""

    @staticmethod
    def stack(samples: list[dict]) -> dict:
        """From samples to a batch."""
        return default_collate(samples)

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What a model card says of the model: ``label_names``, and ``pretrained_cfg``, the preprocessing."""

    @abstractmethod
    def card(self) -> Card:
        """What a model card says of the model, beside ``config``."""

    @abstractmethod
    def write_config(self, path: Path) -> None:
        """Write config.json: what is needed, beside the weights, to use the model."""

    @abstractmethod
    def example(self) -> dict:
        """A batch of one blank picture."""

    def compile_model(self) -> None:
        """Compile, in place, what a training step calls."""
        self.compile(dynamic=False)


@dataclass(kw_only=True)
class TaskArgs(ABC):
    """The part of a run that a task reads; goes to JSON and back with it.

    Attributes:
        model: name of any timm model, hf-hub:REPO, or the folder of a run or of weights with timm's config.json.
        model_args: further arguments of the model, as JSON.
        pretrained: start from timm's weights of that name; a folder always brings its own.
        weights: start from this file (safetensors, or a checkpoint of tensors); the classifier may differ.
        image_size: side of the square pictures in pixels.
        data: the kind of data, as ``load_data`` names it.
    """

    data: ClassVar[str]

    model: str
    model_args: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    weights: Path | None = None
    image_size: int = 224

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width in pixels of the largest pictures."""
        return self.image_size, self.image_size

    def without(self, recipe: "TaskArgs", named: bool = False) -> "TaskArgs":
        """These without the recipe's arguments of its model, if the model is another or was ``named`` without any."""
        stale = (named or self.model != recipe.model) and self.model_args == recipe.model_args
        return replace(self, model_args={}) if stale else self

    @abstractmethod
    def build(self, data: Any) -> Task:
        """The task for some data, of which it learns the classes, and not the pictures; raises UserError."""
