"""ImageNet-ReaL (Beyer et al., Are we done with ImageNet?, 2020): several right classes for a picture, or none."""

from typing import Any

import numpy as np

from ._array import array, best
from .accuracy import Accuracy
from .calibration import Calibration


class RealLabels:
    """Top-1 and top-5 accuracy and calibration where a picture has a set of right classes.

    Args:
        label_sets: right classes of each picture of the data set. Pictures without one are left out.
        num_classes: of the scores.
    """

    def __init__(self, label_sets: list[list[int]], num_classes: int):
        self.label_sets = label_sets
        self.accuracy = Accuracy((1, 5) if num_classes > 5 else (1,))
        self.calibration = Calibration()
        self.reset()

    def reset(self) -> None:
        self.accuracy.reset()
        self.calibration.reset()
        self.left_out = 0

    def update(self, predictions: Any, batch: dict) -> None:
        """Add probabilities [B, classes] of a batch {"label": [B]} whose labels are positions in ``label_sets``."""
        scores, sets = array(predictions), [self.label_sets[i] for i in array(batch["label"]).tolist()]
        kept = np.array([bool(labels) for labels in sets])
        self.left_out += int((~kept).sum())
        right = np.zeros(scores.shape, bool)
        for row, labels in zip(right, sets):
            row[labels] = True
        ranked = best(scores[kept], max(self.accuracy.top))
        hits = np.take_along_axis(right[kept], ranked, 1)
        self.accuracy.add(hits)
        self.calibration.add(np.take_along_axis(scores[kept], ranked[:, :1], 1)[:, 0], hits[:, 0])

    def compute(self) -> dict[str, float]:
        """Percentages ``top1``, ``top5`` (of more than five classes) and ``ece``; ``pictures`` counted and left out."""
        counts = {"pictures": self.accuracy.total, "left_out": self.left_out}
        return self.accuracy.compute() | self.calibration.compute() | counts

    def state(self) -> Any:
        """What another process needs for ``merge``."""
        return self.accuracy.state(), self.calibration.state(), self.left_out

    def merge(self, state: Any) -> None:
        """Add what another process has seen."""
        self.accuracy.merge(state[0])
        self.calibration.merge(state[1])
        self.left_out += state[2]
