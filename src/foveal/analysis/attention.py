"""Where a model looks: attention maps over pictures (figures 3.9, 4.5, 4.6, 5.2a)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .._errors import UserError
from ._attention import Attention, read_attention
from ._result import Result, broken, new_figure, overlay, scale, slug, spread
from ._subject import DEFAULT, Progress, Setting, Subject, load_pictures, load_subjects, silent, watched

NUM_IMAGES = 3
SHOWN = 8  # layers of a figure


@dataclass(frozen=True, kw_only=True)
class AttentionMaps(Result):
    """Maps of attention.

    Attributes:
        pictures: for each model what it saw, [n, H, W, 3] in 0..1.
        maps: for each model, kind of attention and layer what each position gets, [n, h, w]; with queries what each
            position gets from that query. The fusion of MAT has the norm of what each position gets. NaN is what takes
            no part.
        unread: for each model the layers whose weights cannot be read, and why.
        queries: the positions asked for, as shares of height and width.
    """

    pictures: dict[str, np.ndarray]
    maps: dict[str, dict[str, dict[str, np.ndarray]]]
    unread: dict[str, dict[str, str]]
    queries: tuple[float, ...]

    def data(self) -> dict[str, np.ndarray]:
        return {
            f"{model}/{layer}/{kind}": maps
            for model, kinds in self.maps.items()
            for kind, layers in kinds.items()
            for layer, maps in layers.items()
        }

    def settings(self) -> dict[str, Any]:
        return {"queries": list(self.queries), "unread": self.unread}

    def rows(self) -> list[dict[str, str | float]]:
        return [
            {
                "model": model,
                "layer": layer,
                "kind": kind,
                "map": "x".join(map(str, m.shape[1:])),
                "spread": spread_of(m),
            }
            for model, kinds in self.maps.items()
            for kind, layers in kinds.items()
            for layer, m in layers.items()
        ]

    def notes(self) -> list[str]:
        lines = [f"{m}: left out {layer}: {why}" for m, layers in self.unread.items() for layer, why in layers.items()]
        return [*lines, "spread: entropy of the map over that of an even one; 1 looks everywhere alike"]

    def figures(self) -> dict[str, Any]:
        names = [*self.maps]
        return {"" if len(names) == 1 else slug(name): self.draw(name) for name in names}

    def captions(self) -> dict[str, str]:
        names = [*self.maps]
        text = "where {} looks: for each picture and kind of attention what each position gets, layer by layer"
        return {"" if len(names) == 1 else slug(name): text.format(name) for name in names}

    def draw(self, model: str) -> Any:
        """Pictures and kinds of attention as rows, layers as columns."""
        kinds = {kind: spread([*layers], SHOWN) for kind, layers in self.maps[model].items()}
        pictures = self.pictures[model]
        columns = 1 + max(map(len, kinds.values()))
        count = len(pictures) * len(kinds)
        figure = new_figure(1.5 * columns, 1.75 * count + 0.4)
        grid = figure.subplots(count, columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for number, picture in enumerate(pictures):
            for place, (kind, layers) in enumerate(kinds.items()):
                line = grid[number * len(kinds) + place]
                line[0].imshow(picture)
                line[0].set_title(kind, fontsize="x-small")
                if kind.startswith("query at"):
                    y, x = (float(share) for share in kind.split()[2:])
                    line[0].plot(x * picture.shape[1], y * picture.shape[0], "w+", markersize=12, markeredgewidth=3)
                    line[0].plot(x * picture.shape[1], y * picture.shape[0], "k+", markersize=10)
                for axes, layer in zip(line[1:], layers):
                    axes.imshow(overlay(picture, self.maps[model][kind][layer][number]))
                    axes.set_title(broken(layer), fontsize="xx-small")
        bar = figure.colorbar(scale(), ax=grid, shrink=min(1.0, 2 / count), aspect=25, pad=0.01)
        bar.set_label("attention, each map from least (0) to most (1)", fontsize="x-small")
        figure.suptitle(model, fontsize="small")
        return figure


def attention(
    models: Sequence[str | nn.Module | Subject],
    *,
    layers: tuple[str, ...] = (),
    queries: tuple[float, ...] = (),
    setting: Setting = DEFAULT,
    progress: Progress = silent,
) -> AttentionMaps:
    """Attention maps of any model that has attention, over its pictures.

    Args:
        models: names of timm models, folders of runs, or modules.
        layers: names of modules, such as blocks, whose attention is shown; all without any.
        queries: positions y x y x ... as shares of height and width; what these attend to, in place of the mean
            over all positions.
        setting: what the models see.
        progress: called with the pictures done and their number.

    Raises:
        UserError: an unknown model or layer, a model without attention, queries outside of the picture or in a model
            without global attention.
    """
    if len(queries) % 2 or not all(0 <= share < 1 for share in queries):
        raise UserError(f"queries are pairs y x of shares in [0, 1), got {' '.join(map(str, queries))}")
    subjects = load_subjects(models, setting, layers)
    images = load_pictures(setting, NUM_IMAGES)
    pictures: dict[str, np.ndarray] = {}
    maps: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    unread: dict[str, dict[str, str]] = {}
    for subject, batches in watched(subjects, images, setting, progress):
        parts: dict[str, dict[str, list[torch.Tensor]]] = {}
        seen = []
        for batch in batches:
            seen += [subject.shown(image).numpy() for image in batch]
            found, unread[subject.name] = read_attention(subject, batch, layers)
            for layer, kinds in found.items():
                for one in kinds:
                    for kind, received in (at_queries(one, queries) if queries else {one.kind: one.received}).items():
                        parts.setdefault(kind, {}).setdefault(layer, []).append(received.cpu())
        if not parts:
            raise UserError(f"{subject.name} has no layer in which every position attends to all; leave out --queries")
        pictures[subject.name] = np.stack(seen)
        maps[subject.name] = {
            kind: {layer: torch.cat(some).numpy() for layer, some in by_layer.items()}
            for kind, by_layer in parts.items()
        }
    return AttentionMaps(
        what="attention",
        subjects=subjects,
        setting=setting,
        num_images=len(images),
        pictures=pictures,
        maps=maps,
        unread=unread,
        queries=queries,
    )


def at_queries(found: Attention, queries: tuple[float, ...]) -> dict[str, torch.Tensor]:
    """What single positions attend to, a mean over heads, [B, h, w] each; nothing where not all attend to all."""
    if found.queries is None or found.keys is None:
        return {}
    rows, cols = found.queries
    maps = {}
    for y, x in zip(queries[::2], queries[1::2]):
        query = found.before + int(y * rows) * cols + int(x * cols)
        one = found.weights[:, 0, :, query, found.prefix :].mean(1)
        maps[f"query at {y:g} {x:g}"] = one.unflatten(1, found.keys)
    return maps


def spread_of(maps: np.ndarray) -> float:
    """Mean entropy of maps [n, h, w] as distributions over the positions that take part, by its largest; in 0..1."""
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    count = np.isfinite(flat[0]).sum()
    if count <= 1:
        return 1.0
    flat = np.nan_to_num(flat)
    shares = flat / flat.sum(1, keepdims=True)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1)
    return float(entropy.mean() / math.log(count))
