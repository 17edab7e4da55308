"""All that a classifier's probabilities say about labelled pictures."""

from typing import Any

import torch

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
        self.confusion = torch.zeros(self.num_classes, self.num_classes, dtype=torch.long)
        self.nll = 0.0

    def update(self, predictions: torch.Tensor, batch: dict) -> None:
        """Add probabilities [B, num_classes] of a batch {"label": [B]}."""
        labels = batch["label"]
        scores, ranked = predictions.topk(max(self.accuracy.top), dim=1)
        hits = ranked == labels[:, None]
        self.accuracy.add(hits)
        self.calibration.add(scores[:, 0], hits[:, 0])
        self.confusion.index_put_((labels, ranked[:, 0]), torch.tensor(1), accumulate=True)
        self.nll -= float(predictions.gather(1, labels[:, None]).double().log().sum())

    def class_pictures(self) -> torch.Tensor:
        """Pictures of each class [num_classes]."""
        return self.confusion.sum(dim=1)

    def class_accuracies(self) -> torch.Tensor:
        """Share of the pictures of each class [num_classes] that are predicted as it, in percent; nan without one."""
        return 100 * self.confusion.diagonal().double() / self.class_pictures()

    def compute(self) -> dict[str, float]:
        """Percentages ``top1``, ``top5`` (of more than five classes), ``mean_class_accuracy`` over the classes that
        have pictures, ``ece``; mean negative log-likelihood ``nll`` in nats; number of ``pictures``.
        """
        pictures = self.accuracy.total
        return {
            **self.accuracy.compute(),
            "mean_class_accuracy": float(self.class_accuracies().nanmean()),
            **self.calibration.compute(),
            "nll": self.nll / pictures if pictures else float("nan"),
            "pictures": pictures,
        }

    def state(self) -> Any:
        """What another process needs for ``merge``."""
        return self.accuracy.state(), self.calibration.state(), self.confusion.clone(), self.nll

    def merge(self, state: Any) -> None:
        """Add what another process has seen."""
        accuracy, calibration, confusion, nll = state
        self.accuracy.merge(accuracy)
        self.calibration.merge(calibration)
        self.confusion += confusion
        self.nll += nll
