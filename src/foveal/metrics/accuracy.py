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

    def update(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """Add scores [B, classes] and labels [B]."""
        self.total += len(labels)
        for k in self.top:
            ranked = scores.topk(min(k, scores.shape[1]), dim=1).indices
            self.correct[k] += int((ranked == labels[:, None]).any(dim=1).sum())

    def compute(self) -> dict[str, float]:
        """{"top1": percent, ...}; nan before the first update."""
        return {f"top{k}": 100 * self.correct[k] / self.total if self.total else float("nan") for k in self.top}
