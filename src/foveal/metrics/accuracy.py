"""Top-k accuracy."""

import torch


class Accuracy:
    """Share of pictures whose class is among the k of highest score, for each k of ``top``, in percent."""

    def __init__(self, top: tuple[int, ...] = (1, 5)):
        self.top = top
        self.reset()

    def reset(self) -> None:
        self.correct = dict.fromkeys(self.top, 0)
        self.total = 0

    def update(self, predictions: torch.Tensor, batch: dict) -> None:
        """Add scores [B, classes] of a batch {"label": [B]}."""
        labels = batch["label"]
        ranked = predictions.topk(min(max(self.top), predictions.shape[1]), dim=1).indices
        self.add(ranked == labels[:, None])

    def add(self, hits: torch.Tensor) -> None:
        """Add [B, k]: whether the class of each rank is a right one."""
        self.total += len(hits)
        for k in self.top:
            self.correct[k] += int(hits[:, :k].any(dim=1).sum())

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
