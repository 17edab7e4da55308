"""Expected calibration error (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 3 and 5)."""

import torch

BINS = 15  # of equal width, as in the paper


class Calibration:
    """Mean distance of confidence and accuracy over bins (0, 1/15], (1/15, 2/15], ..., in percent."""

    def __init__(self):
        self.edges = torch.arange(1, BINS, dtype=torch.float64) / BINS
        self.reset()

    def reset(self) -> None:
        self.sums = torch.zeros(3, BINS, dtype=torch.float64)  # pictures, confidence, correct

    def add(self, confidence: torch.Tensor, correct: torch.Tensor) -> None:
        """Add probabilities [B] of the predicted classes, and whether these are right."""
        confidence = confidence.double()
        rows = torch.stack([torch.ones_like(confidence), confidence, correct.double()])
        self.sums.index_add_(1, torch.bucketize(confidence.contiguous(), self.edges), rows)

    def compute(self) -> dict[str, float]:
        """{"ece": percent}; nan before the first picture."""
        pictures, confidence, correct = self.sums
        return {"ece": float(100 * (correct - confidence).abs().sum() / pictures.sum())}

    def state(self) -> torch.Tensor:
        """What another process needs for ``merge``."""
        return self.sums.clone()

    def merge(self, state: torch.Tensor) -> None:
        """Add what another process has seen."""
        self.sums += state
