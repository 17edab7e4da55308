"""Expected calibration error (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 3 and 5)."""

from typing import Any

import numpy as np

from ._array import array

BINS = 15  # of equal width, as in the paper


class Calibration:
    """Mean distance of confidence and accuracy over bins (0, 1/15], (1/15, 2/15], ..., in percent."""

    def __init__(self):
        self.edges = np.arange(1, BINS) / BINS
        self.reset()

    def reset(self) -> None:
        self.sums = np.zeros((3, BINS))  # pictures, confidence, correct

    def add(self, confidence: Any, correct: Any) -> None:
        """Add probabilities [B] of the predicted classes, and whether these are right."""
        confidence = array(confidence).astype(np.float64)
        bins = np.searchsorted(self.edges, confidence)
        for total, weights in zip(self.sums, (None, confidence, array(correct))):
            total += np.bincount(bins, weights, BINS)

    def compute(self) -> dict[str, float]:
        """{"ece": percent}; nan before the first picture."""
        pictures, confidence, correct = self.sums
        total = pictures.sum()
        return {"ece": float(100 * np.abs(correct - confidence).sum() / total) if total else float("nan")}

    def state(self) -> np.ndarray:
        """What another process needs for ``merge``."""
        return self.sums.copy()

    def merge(self, state: np.ndarray) -> None:
        """Add what another process has seen."""
        self.sums += state
