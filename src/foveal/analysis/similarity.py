"""How alike the rows of attention are: cosine similarity between queries and between heads (figure 5.2b)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .._errors import UserError
from ._attention import Attention, read_attention
from ._result import MARKERS, STYLES, Result, new_figure
from ._subject import DEFAULT, Progress, Setting, Subject, load_pictures, load_subjects, silent, watched

NUM_IMAGES = 64
COLUMNS = ("queries", "queries of all tokens", "queries of the mean head", "heads")


@dataclass(frozen=True, kw_only=True)
class Similarity(Result):
    """Cosine similarities.

    Attributes:
        values: for each model and layer, means over pictures (and windows): between ``queries`` of a head, the mean
            over heads; between ``queries of all tokens``, which PartialFormer's background shares one of; between
            ``queries of the mean head``; and between ``heads``. NaN where there is one alone.
        unread: for each model the layers whose weights cannot be read, and why.
    """

    values: dict[str, dict[str, dict[str, float]]]
    unread: dict[str, dict[str, str]]

    def data(self) -> dict[str, np.ndarray]:
        found = {}
        for model, layers in self.values.items():
            found[f"{model}/layers"] = np.array([*layers])
            for column in COLUMNS:
                found[f"{model}/{column}"] = np.array([values[column] for values in layers.values()])
        return found

    def settings(self) -> dict[str, Any]:
        return {"unread": self.unread}

    def rows(self) -> list[dict[str, str | float]]:
        return [
            {"model": model, "layer": layer, **values}
            for model, layers in self.values.items()
            for layer, values in layers.items()
        ]

    def notes(self) -> list[str]:
        return [f"{m}: left out {layer}: {why}" for m, layers in self.unread.items() for layer, why in layers.items()]

    def captions(self) -> dict[str, str]:
        return {"": "how alike the rows of attention are, and its heads, layer by layer up to the last"}

    def figures(self) -> dict[str, Any]:
        figure = new_figure(9, 3.8)
        panels = figure.subplots(1, 2)
        for axes, column in zip(panels, ("queries", "heads")):
            for i, (model, layers) in enumerate(self.values.items()):
                values = [row[column] for row in layers.values()]
                style = dict(linestyle=STYLES[i % len(STYLES)], marker=MARKERS[i % len(MARKERS)], markersize=4)
                axes.plot(np.arange(1, len(values) + 1) - len(values), values, label=model, **style)
            axes.set(xlabel="layer, counted from the last", ylabel="mean cosine similarity", title=f"between {column}")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend(fontsize="x-small")
            axes.grid(alpha=0.3)
        return {"": figure}


def similarity(
    models: Sequence[str | nn.Module | Subject],
    *,
    layers: tuple[str, ...] = (),
    setting: Setting = DEFAULT,
    progress: Progress = silent,
) -> Similarity:
    """Cosine similarity between attention's queries and between its heads, averaged over pictures.

    Of PartialFormer these are the rows of the foreground tokens without the abstract one (eq. 5.5); of MAT the rows
    of its windows.

    Args:
        models: names of timm models, folders of runs, or modules.
        layers: names of modules, such as blocks, whose attention counts; all without any.
        setting: what the models see.
        progress: called with the pictures done and their number.

    Raises:
        UserError: an unknown model or layer, a model without attention of two or more queries.
    """
    subjects = load_subjects(models, setting, layers)
    pictures = load_pictures(setting, NUM_IMAGES)
    means: dict[str, dict[str, dict[str, float]]] = {}
    unread: dict[str, dict[str, str]] = {}
    for subject, batches in watched(subjects, pictures, setting, progress):
        sums: dict[str, torch.Tensor] = {}
        for images in batches:
            found, unread[subject.name] = read_attention(subject, images, layers)
            for layer, kinds in found.items():
                if kinds[0].weights.shape[-2] > 1:
                    sums[layer] = sums.get(layer, 0) + len(images) * similarities(kinds)
        if not sums:
            raise UserError(f"{subject.name} has no attention of two or more queries on images of this size")
        means[subject.name] = {layer: dict(zip(COLUMNS, (x / len(pictures)).tolist())) for layer, x in sums.items()}
    return Similarity(
        what="similarity", subjects=subjects, setting=setting, num_images=len(pictures), values=means, unread=unread
    )


def similarities(kinds: list[Attention]) -> torch.Tensor:
    """The figures of ``COLUMNS`` of one layer, means over pictures and windows, [4]."""
    weights = kinds[0].weights.double()  # [B, windows, heads, M, keys]
    queries = pairwise(weights).mean()
    every = queries
    if kinds[0].kind == "foreground" and len(kinds) > 1:
        # All rows of the background are the single query's; they and the foreground's rows share no key.
        count, chosen = kinds[1].weights.shape[-1], weights.shape[-2]
        others = count - chosen
        every = (chosen * (chosen - 1) * queries + others * (others - 1)) / (count * (count - 1))
    mean_head = pairwise(weights.mean(2)).mean()
    heads = pairwise(weights.flatten(3)).mean()
    return torch.stack((queries, every, mean_head, heads)).cpu()


def pairwise(rows: torch.Tensor) -> torch.Tensor:
    """Mean cosine similarity of all pairs of M rows, [.., M, K] -> [..]; NaN for one row.

    The inner products of unit rows add up to the squared norm of their sum, so no pair is visited.
    """
    count = rows.shape[-2]
    total = torch.nn.functional.normalize(rows, dim=-1).sum(-2).square().sum(-1)
    return (total - count) / (count * (count - 1)) if count > 1 else torch.full_like(total, torch.nan)
