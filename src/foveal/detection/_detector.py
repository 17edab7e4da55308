"""The contract of every detector, and how one is found by its name."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch import nn

from .._errors import UserError, unknown
from ..necks import Pyramid

D = TypeVar("D", bound="Detector")
DETECTORS: dict[str, type["Detector"]] = {}


def register(name: str) -> Callable[[type[D]], type[D]]:
    """Give a detector the name by which ``build`` finds it."""

    def enter(cls: type[D]) -> type[D]:
        DETECTORS[name] = cls
        return cls

    return enter


class Detector(nn.Module, ABC):
    """Boxes, classes and possibly masks of the objects in a picture.

    Boxes are (x1, y1, x2, y2) in pixels of the images that the detector gets, classes 0 to num_classes - 1. Images of
    a batch have one size; a smaller picture lies in the upper left corner, and zeros fill the rest. Images come
    normalised and resized: that belongs to the data.

    Attributes:
        strides: of the backbone's maps that the detector needs.
        square: whether pictures are resized to squares, whatever their shape.
        masks: whether detections have masks.
    """

    strides: tuple[int, ...] = (4, 8, 16, 32)
    square = False
    masks = False

    def __init__(self, backbone: Pyramid, num_classes: int):
        super().__init__()
        if num_classes < 1:
            raise UserError(f"a detector needs a class or more, got {num_classes}")
        self.backbone, self.num_classes = backbone, num_classes

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the backbone's activations again in the backward pass; raises UserError if it cannot."""
        self.backbone.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that the backbone wants without weight decay."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    @abstractmethod
    def forward(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> dict[str, Any]:
        """The raw outputs, the same in training and evaluation.

        Args:
            images: [B, 3, H, W].
            sizes: height and width [B, 2] of each picture within H and W; None where all fill the batch.
        """

    @abstractmethod
    def losses(self, raw: dict[str, Any], targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The parts of the loss, to be summed.

        Args:
            raw: what ``forward`` gave.
            targets: for each picture ``boxes`` [n, 4], ``labels`` [n], and ``masks`` [n, H, W] for detectors with
                masks; n may be 0.
        """

    @abstractmethod
    def detections(self, raw: dict[str, Any], sizes: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """For each picture ``boxes`` [n, 4] inside it, ``scores`` [n] from high to low, ``labels`` [n].

        With masks also ``masks`` [n, m, m]: probabilities over the area of each box.

        Args:
            raw: what ``forward`` gave.
            sizes: height and width [B, 2] of each picture in pixels.
        """


def build(
    name: str,
    backbone: str,
    num_classes: int,
    *,
    pretrained: bool = False,
    frozen_stages: int = 0,
    frozen_bn: bool = False,
    backbone_args: dict[str, Any] | None = None,
    **args: Any,
) -> Detector:
    """A detector over any timm backbone.

    Args:
        name: a key of ``DETECTORS``.
        backbone, pretrained, frozen_stages, frozen_bn: see ``Pyramid``.
        backbone_args: further arguments of the backbone.
        args: of the detector's class.

    Raises:
        UserError: an unknown detector or backbone, arguments that they do not take.
    """
    if name not in DETECTORS:
        raise unknown("detector", name, DETECTORS)
    cls: Any = DETECTORS[name]
    options = dict(pretrained=pretrained, frozen_stages=frozen_stages, frozen_bn=frozen_bn)
    pyramid = Pyramid(backbone, cls.strides, **options, **(backbone_args or {}))
    try:
        return cls(pyramid, num_classes, **args)
    except TypeError as error:
        raise UserError(f"{name}: {str(error).split('__init__() ')[-1]}") from None


def as_sizes(sizes: torch.Tensor | None, images: torch.Tensor) -> torch.Tensor:
    """Height and width [B, 2] of the pictures in images [B, 3, H, W], on their device."""
    if sizes is None:
        sizes = torch.tensor([images.shape[2:]]).expand(len(images), 2)
    return sizes.to(images.device)


def mean_over_processes(count: torch.Tensor) -> torch.Tensor:
    """A count that a loss is divided by: at least one in all, and such that gradients of N processes, which are
    averaged, equal those of one process with all their pictures."""
    count = count.float()
    if dist.is_available() and dist.is_initialized():
        count = count.clone()
        dist.all_reduce(count)
        return count.clamp(min=1) / dist.get_world_size()
    return count.clamp(min=1)
