"""What metrics take: numpy arrays, and PyTorch's tensors without a need of PyTorch."""

from typing import Any

import numpy as np


def array(values: Any) -> np.ndarray:
    """The values of an array, of a list, or of a tensor on any device."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def best(scores: np.ndarray, number: int) -> np.ndarray:
    """Places [B, number] of the highest of scores [B, classes], high to low; of equal ones the first comes first."""
    if number == 1:
        return scores.argmax(1)[:, None]
    return (-scores).argsort(1, kind="stable")[:, :number]


def mean(values: np.ndarray) -> float:
    """Of the numbers that are not nan; nan without one."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
