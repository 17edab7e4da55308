"""All that a classifier's probabilities say about labelled pictures."""

from typing import Any

import numpy as np

from ._array import array, best, mean
from .accuracy import Accuracy
from .calibration import Calibration


class ClassificationReport:
    """Accuracy over pictures and over classes, confusion, calibration and likelihood.

    Attributes:
        confusion: pictures [num_classes, num_classes] by label (row) and by prediction (column).
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.accuracy = Accuracy((1, 5) if num_classes > 5 else (1,))
        self.calibration = Calibration()
        self.reset()

    def reset(self) -> None:
        self.accuracy.reset()
        self.calibration.reset()
        self.confusion = np.zeros((self.num_classes, self.num_classes), np.int64)
        self.nll = 0.0

    def update(self, predictions: Any, batch: dict) -> None:
        """Add probabilities [B, num_classes] of a batch {"label": [B]}."""
        labels, scores = array(batch["label"]), array(predictions)
        ranked = best(scores, max(self.accuracy.top))
        hits = ranked == labels[:, None]
        self.accuracy.add(hits)
        rows = np.arange(len(labels))
        self.calibration.add(scores[rows, ranked[:, 0]], hits[:, 0])
        np.add.at(self.confusion, (labels, ranked[:, 0]), 1)
        with np.errstate(divide="ignore"):  # infinite where a class is given no chance
            self.nll -= float(np.log(scores[rows, labels].astype(np.float64)).sum())

    def class_pictures(self) -> np.ndarray:
        """Pictures of each class [num_classes]."""
        return self.confusion.sum(1)

    def class_accuracies(self) -> np.ndarray:
        """Share of the pictures of each class [num_classes] that are predicted as it, in percent; nan without one."""
        with np.errstate(invalid="ignore"):
            return 100 * self.confusion.diagonal() / self.class_pictures()

    def compute(self) -> dict[str, float]:
        """Percentages ``top1``, ``top5`` (of more than five classes), ``mean_class_accuracy`` over the classes that
        have pictures, ``ece``; mean negative log-likelihood ``nll`` in nats; number of ``pictures``.
        """
        pictures = self.accuracy.total
        return {
            **self.accuracy.compute(),
            "mean_class_accuracy": mean(self.class_accuracies()),
            **self.calibration.compute(),
            "nll": self.nll / pictures if pictures else float("nan"),
            "pictures": pictures,
        }

    def state(self) -> Any:
        """What another process needs for ``merge``."""
        return self.accuracy.state(), self.calibration.state(), self.confusion.copy(), self.nll

    def merge(self, state: Any) -> None:
        """Add what another process has seen."""
        accuracy, calibration, confusion, nll = state
        self.accuracy.merge(accuracy)
        self.calibration.merge(calibration)
        self.confusion += confusion
        self.nll += nll
