"""Top-k accuracy."""

from typing import Any

import numpy as np

from ._array import array, best


class Accuracy:
    """Share of pictures whose class is among the k of highest score, for each k of ``top``, in percent."""

    def __init__(self, top: tuple[int, ...] = (1, 5)):
        self.top = top
        self.reset()

    def reset(self) -> None:
        self.correct = dict.fromkeys(self.top, 0)
        self.total = 0

    def update(self, predictions: Any, batch: dict) -> None:
        """Add scores [B, classes] of a batch {"label": [B]}."""
        ranked = best(array(predictions), max(self.top))
        self.add(ranked == array(batch["label"])[:, None])

    def add(self, hits: np.ndarray) -> None:
        """Add [B, k]: whether the class of each rank is a right one."""
        self.total += len(hits)
        for k in self.top:
            self.correct[k] += int(hits[:, :k].any(1).sum())

    def compute(self) -> dict[str, float]:
        """{"top1": percent, ...}; nan before the first update."""
        return {f"top{k}": 100 * self.correct[k] / self.total if self.total else float("nan") for k in self.top}

    def state(self) -> tuple[dict[int, int], int]:
        """What another process needs for ``merge``."""
        return dict(self.correct), self.total

    def merge(self, state: tuple[dict[int, int], int]) -> None:
        """Add what another process has seen."""
        correct, total = state
        self.correct = {k: count + correct[k] for k, count in self.correct.items()}
        self.total += total
