"""Effective receptive fields: which pixels a position of a map depends on (Luo et al. 2016, arXiv:1701.04128).

The gradient is that of a combination of the map's channels with random weights. Their sum would not do: behind a
LayerNorm whose weights are alike it is constant.

Chapter 4 of the thesis says that one MAT block reaches the whole map; this shows it. It has no figure there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .._errors import UserError
from ._capture import capture_maps, find_levels
from ._result import Result, broken, new_figure, spread
from ._subject import DEFAULT, Progress, Setting, Subject, load_pictures, load_subjects, silent, watched

NUM_IMAGES = 16
STAGES = 5  # levels that are looked at, at most
SHARES = (0.5, 0.95)  # of the gradient that a square holds
FLOOR = -5  # of the figure: log10 of the smallest gradient that is told from none


@dataclass(frozen=True, kw_only=True)
class Receptive(Result):
    """Receptive fields of layers.

    Attributes:
        fields: for each model and layer the gradient at each pixel [H, W], with the sum 1.
        maps: for each model and layer the height and width of its map.
    """

    fields: dict[str, dict[str, np.ndarray]]
    maps: dict[str, dict[str, tuple[int, int]]]

    def data(self) -> dict[str, np.ndarray]:
        return {f"{m}/{layer}/gradient": field for m, fields in self.fields.items() for layer, field in fields.items()}

    def settings(self) -> dict[str, Any]:
        return {"maps": self.maps}

    def rows(self) -> list[dict[str, str | float]]:
        return [
            {
                "model": model,
                "layer": layer,
                "map": "{}x{}".format(*self.maps[model][layer]),
                **{f"{share:.0%} within (px)": square(field, share) for share in SHARES},
                "pixels reached (%)": float((field > 0).mean() * 100),
            }
            for model, fields in self.fields.items()
            for layer, field in fields.items()
        ]

    def captions(self) -> dict[str, str]:
        return {
            "": "How strongly the middle of a map depends on each pixel, as a logarithm; squares hold 50 % (solid) and "
            "95 % (dashed) of the gradient."
        }

    def figures(self) -> dict[str, Any]:
        """A line a model, a panel a layer; squares hold 50 % and 95 % of the gradient."""
        columns = max(map(len, self.fields.values()))
        figure = new_figure(2.1 * columns + 1, 2.3 * len(self.fields) + 0.3)
        grid = figure.subplots(len(self.fields), columns, squeeze=False)
        image = None
        for line, (model, fields) in zip(grid, self.fields.items()):
            for axes in line:
                axes.axis("off")
            for axes, (layer, field) in zip(line, fields.items()):
                H, W = field.shape
                axes.axis("on")
                with np.errstate(divide="ignore"):
                    shown = np.log10(field / field.max()).clip(FLOOR, 0)
                image = axes.imshow(shown, cmap="magma", vmin=FLOOR, vmax=0, extent=(0, W, H, 0))
                y, x = centre(field)
                for share, style in zip(SHARES, ("-", "--")):
                    side = square(field, share)
                    xs, ys = ((side / 2 * np.array(s)) for s in ([-1, 1, 1, -1, -1], [-1, -1, 1, 1, -1]))
                    axes.plot((x + xs).clip(0, W), (y + ys).clip(0, H), "w" + style, linewidth=1)
                axes.set_title(broken(layer), fontsize="x-small")
                axes.set_xticks([0, W], ["0", str(W)], fontsize="x-small")
                axes.set_yticks([0, H], ["0", str(H)], fontsize="x-small")
            line[0].set_ylabel(model, fontsize="small")
        figure.colorbar(image, ax=grid, label="log10(gradient / largest)", shrink=0.5)
        figure.supxlabel("position in the image (px); solid: 50 %, dashed: 95 % of the gradient", fontsize="x-small")
        return {"": figure}


def receptive(
    models: Sequence[str | nn.Module | Subject],
    *,
    layers: tuple[str, ...] = (),
    setting: Setting = DEFAULT,
    progress: Progress = silent,
) -> Receptive:
    """Effective receptive fields: how strongly the middle of each stage's map depends on each pixel.

    Args:
        models: names of timm models, folders of runs, or modules.
        layers: names of modules; the stages of each model without any.
        setting: what the models see.
        progress: called with the pictures done and their number.

    Raises:
        UserError: an unknown model or layer, an output that is no map or does not depend on the image.
    """
    subjects = load_subjects(models, setting, layers)
    pictures = load_pictures(setting, NUM_IMAGES)
    fields: dict[str, dict[str, np.ndarray]] = {}
    maps: dict[str, dict[str, tuple[int, int]]] = {}
    for subject, batches in watched(subjects, pictures, setting, progress):
        names = [*layers] or spread(find_levels(subject.model, subject.name), STAGES)
        sums: dict[str, torch.Tensor] = {}
        draws = {name: np.random.default_rng(setting.seed) for name in names}
        for images in batches:
            images = images.requires_grad_()
            found = capture_maps(subject.model, names, images, subject.name, graph=True)
            for layer, x in found.items():
                if not x.requires_grad:
                    raise UserError(f"layer {layer} of {subject.name} does not depend on the image")
                weights = torch.from_numpy(draws[layer].standard_normal(x.shape[:2])).to(x)
                gradient = centre_gradient(x, images, weights)
                sums[layer] = sums.get(layer, 0) + gradient.sum(dim=0).double().cpu()
            maps[subject.name] = {layer: (x.shape[2], x.shape[3]) for layer, x in found.items()}
        for layer, total in sums.items():
            if not 0 < total.sum() < float("inf"):
                what = f"the gradient of layer {layer} of {subject.name} adds up to {float(total.sum())}"
                raise UserError(f"{what}, which is no field; its weights may be zero or not finite")
        fields[subject.name] = {layer: (total / total.sum()).numpy() for layer, total in sums.items()}
    return Receptive(
        what="receptive", subjects=subjects, setting=setting, num_images=len(pictures), fields=fields, maps=maps
    )


def centre_gradient(x: torch.Tensor, images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """How strongly the middle of a map [B, C', h, w] depends on the images [B, C, H, W] that it was computed from.

    Args:
        weights: of the channels of the map [B, C'].

    Returns:
        The absolute gradient of the combined channels, summed over those of the image: [B, H, W].
    """
    middle = x[:, :, x.shape[2] // 2, x.shape[3] // 2]
    (gradient,) = torch.autograd.grad(middle, images, weights, retain_graph=True)
    return gradient.abs().sum(dim=1)


def centre(field: np.ndarray) -> tuple[float, float]:
    """The centre of gravity of a field [H, W], in pixels from its upper left corner, y first.

    It is not that of the image: a map's middle position reads pixels around another one, by the paddings on the way.
    """
    y, x = (
        float(((np.arange(side) + 0.5) * field.sum(axis=other)).sum() / field.sum())
        for side, other in zip(field.shape, (1, 0))
    )
    return y, x


def square(field: np.ndarray, share: float) -> float:
    """The side in pixels of the smallest square around the centre that holds a share of a field [H, W]."""
    rows, cols = (np.abs(np.arange(side) + 0.5 - at) for side, at in zip(field.shape, centre(field)))
    distance = np.maximum(rows[:, None], cols).ravel()  # of the pixel's middle, along the farther axis
    order = distance.argsort()
    held = field.ravel()[order].cumsum()
    return round(float(2 * distance[order][np.searchsorted(held, share * held[-1])] + 1), 1)
