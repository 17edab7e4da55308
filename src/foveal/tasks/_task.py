"""The contract between the engine and what it trains."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn


class Metric(Protocol):
    """A figure of merit over many batches."""

    def update(self, scores: torch.Tensor, labels: torch.Tensor) -> None: ...

    def compute(self) -> dict[str, float]: ...

    def reset(self) -> None: ...


class Task(nn.Module, ABC):
    """A model with its loss, predictions and metric."""

    model: nn.Module

    @abstractmethod
    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        """A batch -> {"loss": scalar, and its parts}."""

    @abstractmethod
    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] -> predictions."""

    @abstractmethod
    def metric(self) -> Metric:
        """A fresh metric."""

    @abstractmethod
    def transform(self, train: bool) -> Callable:
        """From an RGB picture to what a batch stacks."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What timm's config.json says beside the weights."""
