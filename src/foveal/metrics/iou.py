"""Intersection over union of classes over the pixels of many pictures."""

from typing import Any

import torch

from ..data import IGNORED


class MeanIoU:
    """Mean over classes of intersection by union, both counted over all pixels of all pictures.

    Args:
        num_classes: number of classes.

    Attributes:
        confusion: pixels [num_classes, num_classes] by class (row) and by prediction (column).
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        self.confusion = torch.zeros(self.num_classes, self.num_classes, dtype=torch.long)
        self.pictures = 0

    def update(self, predictions: list[torch.Tensor], batch: dict) -> None:
        """Add class maps [H, W] of a batch {"mask": for each picture [H, W], 255 where a pixel does not count}."""
        for found, mask in zip(predictions, batch["mask"], strict=True):
            counts = mask != IGNORED
            cells = self.num_classes * mask[counts].long() + found[counts]
            self.confusion += torch.bincount(cells, minlength=self.num_classes**2).view_as(self.confusion).cpu()
            self.pictures += 1

    def class_pixels(self) -> torch.Tensor:
        """Pixels of each class [num_classes]."""
        return self.confusion.sum(1)

    def class_ious(self) -> torch.Tensor:
        """Intersection by union of each class [num_classes] in percent; nan where it is neither there nor predicted."""
        both = self.confusion.diagonal().double()
        return 100 * both / (self.confusion.sum(0) + self.confusion.sum(1) - both)

    def class_accuracies(self) -> torch.Tensor:
        """Share of the pixels of each class [num_classes] that are predicted as it in percent; nan without one."""
        return 100 * self.confusion.diagonal().double() / self.class_pixels()

    def compute(self) -> dict[str, float]:
        """Percentages: ``mIoU``, ``mAcc``, the means over classes, and ``aAcc``, the share of right pixels."""
        right = self.confusion.diagonal().sum().double()
        return {
            "mIoU": float(self.class_ious().nanmean()),
            "mAcc": float(self.class_accuracies().nanmean()),
            "aAcc": float(100 * right / self.confusion.sum()),
            "pictures": self.pictures,
        }

    def state(self) -> Any:
        """What another process needs for ``merge``."""
        return self.confusion.clone(), self.pictures

    def merge(self, state: Any) -> None:
        """Add what another process has seen."""
        confusion, pictures = state
        self.confusion += confusion
        self.pictures += pictures
