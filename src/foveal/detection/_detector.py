"""The contract of every detector, and how one is found by its name."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from ..necks import PyramidModel, Registry


class Detector(PyramidModel, ABC):
    """Boxes, classes and possibly masks of the objects in a picture.

    Boxes are (x1, y1, x2, y2) in pixels of the images that the detector gets, classes 0 to num_classes - 1. Images of
    a batch have one size; a smaller picture lies in the upper left corner, and zeros fill the rest. Images come
    normalised and resized: that belongs to the data.

    Attributes:
        square: whether pictures are resized to squares, whatever their shape.
        masks: whether detections have masks.
    """

    square = False
    masks = False

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


DETECTORS: Registry[Detector] = Registry("detector")
register, build = DETECTORS.register, DETECTORS.build


def as_sizes(sizes: torch.Tensor | None, images: torch.Tensor) -> torch.Tensor:
    """Height and width [B, 2] of the pictures in images [B, 3, H, W], on their device."""
    if sizes is None:
        sizes = torch.tensor([images.shape[2:]]).expand(images.shape[0], 2)
    return sizes.to(images.device)
