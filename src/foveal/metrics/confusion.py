"""A picture of a confusion matrix."""

from pathlib import Path
from typing import Any

import numpy as np

from .._errors import UserError
from ._array import array

NAMED = 40  # classes whose names still find room on the axes
NUMBERED = 20  # classes whose cells still find room for a number
LISTED = 50  # confusions named beside more classes than that
LENGTH = 28  # letters of a name
TICKS = [0, 1, 5, 20, 50, 100]


def draw_confusion(counts: Any, names: list[str], title: str, path: Path) -> None:
    """Draw counts [C, C] by label and prediction, each row divided by its sum, into a PNG, SVG or PDF file.

    Up to 40 classes make a matrix with names. More make a plane of points, the larger and darker the more pictures,
    beside a list of the most frequent confusions.

    Raises:
        UserError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.colors import PowerNorm
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("a picture of the confusion matrix needs matplotlib: pip install 'foveal[plot]'") from None
    counts = array(counts)
    shares = 100 * counts / counts.sum(1, keepdims=True).clip(min=1)
    # class names are no formulas, whatever dollars they hold
    short = [(name if len(name) <= LENGTH else name[: LENGTH - 1] + "…").replace("$", r"\$") for name in names]
    few = len(names) <= NAMED
    # a root lifts rare confusions; single points of many classes also need a colour that leaves the paper
    style: dict[str, Any] = dict(cmap="YlGnBu" if few else "plasma_r", norm=PowerNorm(0.5 if few else 0.3, 0, 100))
    side = min(0.34 * len(names) + 3.5, 13.0) if few else 9.0
    figure = Figure(figsize=(side + 1 if few else side + 3.5, side), dpi=150, layout="constrained")
    if few:
        axes = figure.add_subplot()
        shown = axes.imshow(shares, **style)
        axes.set_xticks(range(len(names)), short, rotation=90)
        axes.set_yticks(range(len(names)), short)
        if len(names) <= NUMBERED:
            for row, column in np.argwhere(counts).tolist():
                share = float(shares[row, column])
                text = f"{share:.0f}" if share >= 0.5 else "<1"
                colour = "white" if share > 40 else "black"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
    else:
        axes, text = figure.subplots(1, 2, width_ratios=(2.2, 1))
        rows, columns = counts.nonzero()
        points = shares[rows, columns]
        order = points.argsort(kind="stable")  # the rarest at the bottom
        x, y, share = columns[order], rows[order], points[order]
        size = (4 + share / 5) * min((1000 / len(names)) ** 0.5, 3)
        shown = axes.scatter(x, y, s=size, c=share, linewidths=0, **style)
        axes.set(xlim=(-1, len(names)), ylim=(len(names), -1), aspect="equal")
        text.axis("off")
        text.set_title("most frequent confusions", loc="left")
        text.text(0, 1, _confusions(counts, shares, short), va="top", fontsize="small", transform=text.transAxes)
    bar: dict[str, Any] = (
        dict(orientation="vertical", shrink=0.8) if few else dict(orientation="horizontal", shrink=0.6, aspect=40)
    )
    figure.colorbar(shown, ax=axes, label="% of the pictures of a class", ticks=TICKS, **bar)
    axes.set(title=title.replace("$", r"\$"), xlabel="predicted class", ylabel="class")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path}: {error}") from None


def _confusions(counts: np.ndarray, shares: np.ndarray, names: list[str]) -> str:
    """The cells off the diagonal of the largest shares, a line each."""
    off = np.where(np.eye(len(names), dtype=bool), 0, shares).flatten()
    lines = []
    for cell in (-off).argsort(kind="stable")[:LISTED].tolist():
        row, column = divmod(cell, len(names))
        if counts[row, column]:
            lines.append(f"{shares[row, column]:4.0f} %  {names[row]} → {names[column]}")
    return "\n".join(lines)
