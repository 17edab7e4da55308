"""Intersection over union of classes over the pixels of many pictures."""

from typing import Any

import numpy as np

from ..data import IGNORED
from ._array import array, mean


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
        self.confusion = np.zeros((self.num_classes, self.num_classes), np.int64)
        self.pictures = 0

    def update(self, predictions: list[Any], batch: dict) -> None:
        """Add class maps [H, W] of a batch {"mask": for each picture [H, W], 255 where a pixel does not count}."""
        for found, mask in zip(predictions, batch["mask"], strict=True):
            classes, own = array(found), array(mask)
            counts = own != IGNORED
            cells = self.num_classes * own[counts].astype(np.int64) + classes[counts]
            self.confusion += np.bincount(cells, minlength=self.num_classes**2).reshape(self.confusion.shape)
            self.pictures += 1

    def class_pixels(self) -> np.ndarray:
        """Pixels of each class [num_classes]."""
        return self.confusion.sum(1)

    def class_ious(self) -> np.ndarray:
        """Intersection by union of each class [num_classes] in percent; nan where it is neither there nor predicted."""
        both = self.confusion.diagonal()
        with np.errstate(invalid="ignore"):
            return 100 * both / (self.confusion.sum(0) + self.confusion.sum(1) - both)

    def class_accuracies(self) -> np.ndarray:
        """Share of the pixels of each class [num_classes] that are predicted as it in percent; nan without one."""
        with np.errstate(invalid="ignore"):
            return 100 * self.confusion.diagonal() / self.class_pixels()

    def compute(self) -> dict[str, float]:
        """Percentages: ``mIoU``, ``mAcc``, the means over classes, and ``aAcc``, the share of right pixels."""
        pixels = self.confusion.sum()
        return {
            "mIoU": mean(self.class_ious()),
            "mAcc": mean(self.class_accuracies()),
            "aAcc": float(100 * self.confusion.trace() / pixels) if pixels else float("nan"),
            "pictures": self.pictures,
        }

    def state(self) -> Any:
        """What another process needs for ``merge``."""
        return self.confusion.copy(), self.pictures

    def merge(self, state: Any) -> None:
        """Add what another process has seen."""
        confusion, pictures = state
        self.confusion += confusion
        self.pictures += pictures
