"""Grad-CAM: where a class comes from (Fig. 3.11; Selvaraju et al. 2017, arXiv:1610.02391)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .._errors import UserError
from ._capture import as_maps, call, find_levels, severed
from ._result import Result, new_figure, overlay, scale
from ._subject import DEFAULT, Progress, Setting, Subject, choose_classes, load_pictures, load_subjects, silent, watched

NUM_IMAGES = 4


@dataclass(frozen=True, kw_only=True)
class GradCam(Result):
    """Heat maps.

    Attributes:
        layers: of each model, that whose map is weighted.
        classes: of each model, the class whose logit is explained [pictures].
        maps: of each model [pictures, H, W], from 0 to 1.
        images: of each model, what it saw [pictures, H, W, 3], from 0 to 1.
    """

    layers: dict[str, str]
    classes: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]
    images: dict[str, np.ndarray]

    def data(self) -> dict[str, np.ndarray]:
        found = {}
        for model, maps in self.maps.items():
            found |= {f"{model}/map": maps, f"{model}/class": self.classes[model], f"{model}/image": self.images[model]}
        return found

    def settings(self) -> dict[str, Any]:
        return {"layers": self.layers}

    def rows(self) -> list[dict[str, str | float]]:
        return [
            {
                "model": model,
                "layer": self.layers[model],
                "classes": " ".join(map(str, self.classes[model])),
                "area above one half (%)": float((maps > 0.5).mean() * 100),
            }
            for model, maps in self.maps.items()
        ]

    def captions(self) -> dict[str, str]:
        return {"": "Grad-CAM of the class below each picture: bright where the model's map speaks for it."}

    def figures(self) -> dict[str, Any]:
        """Pictures in the first line, a model's maps over them in each other one."""
        first = next(iter(self.images.values()))
        columns = len(first)
        figure = new_figure(2 * columns + 1, 2.1 * (len(self.maps) + 1))
        grid = figure.subplots(len(self.maps) + 1, columns, squeeze=False)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
        for axes, picture in zip(grid[0], first):
            axes.imshow(picture)
        grid[0][0].set_ylabel("image", fontsize="small")
        for line, (model, maps) in zip(grid[1:], self.maps.items()):
            for axes, values, picture, label in zip(line, maps, self.images[model], self.classes[model]):
                axes.imshow(overlay(picture, values))
                axes.set_xlabel(f"class {label}", fontsize="x-small")
            line[0].set_ylabel(f"{model}\n{self.layers[model]}", fontsize="small")
        figure.colorbar(scale(), ax=grid, label="Grad-CAM, scaled to 0..1", shrink=0.5)
        return {"": figure}


def gradcam(
    models: Sequence[str | nn.Module | Subject],
    *,
    layer: str | None = None,
    class_index: int | None = None,
    setting: Setting = DEFAULT,
    progress: Progress = silent,
) -> GradCam:
    """Grad-CAM of a class at a layer, several models side by side.

    Args:
        models: names of timm models, folders of runs, or modules.
        layer: name of a module of all models; by default the last feature map, or what the last block of a model with a
            class token normalizes first, since nothing behind it comes from the other tokens.
        class_index: the class, from 0 on; for each picture the one that the model predicts by default.
        setting: what the models see.
        progress: called with the pictures done and their number.

    Raises:
        UserError: an unknown model, layer or class, a model without classes, a layer that is no map or that the class
            does not depend on.
    """
    subjects = load_subjects(models, setting, [layer] if layer is not None else [])
    pictures = load_pictures(setting, NUM_IMAGES)
    layers, classes, maps, shown = {}, {}, {}, {}
    for subject, batches in watched(subjects, pictures, setting, progress):
        at = layers[subject.name] = layer or default_layer(subject)
        parts = []
        for images in batches:
            labels, heat = cams(subject, at, images, class_index)
            parts.append((labels, heat, torch.stack([subject.shown(image) for image in images])))
        classes[subject.name], maps[subject.name], shown[subject.name] = (torch.cat(x).numpy() for x in zip(*parts))
    return GradCam(
        what="gradcam",
        subjects=subjects,
        setting=setting,
        num_images=len(pictures),
        layers=layers,
        classes=classes,
        maps=maps,
        images=shown,
    )


def default_layer(subject: Subject) -> str:
    """The layer to look at where none is named."""
    last = find_levels(subject.model, subject.name)[-1]
    if getattr(subject.model, "num_prefix_tokens", 0) and subject.model.global_pool == "token":
        return f"{last}.norm1"
    return last


def cams(
    subject: Subject, layer: str, images: torch.Tensor, class_index: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Grad-CAM of images [B, 3, H, W].

    The channels of the layer's map are weighted by the mean gradient of the class's logit, summed, cut off below 0,
    resized to the image and scaled from 0 to 1.

    Returns:
        Classes [B], and maps [B, H, W]; 0 everywhere where nothing speaks for the class.
    """
    with severed(subject.model, layer) as seen:
        logits = call(subject.model, images, subject.name)
    labels = choose_classes(subject, logits, class_index)
    score = logits.gather(1, labels[:, None]).sum()
    gradient = None
    if layer in seen and score.requires_grad:
        (gradient,) = torch.autograd.grad(score, seen[layer], allow_unused=True)
    if gradient is None:
        raise UserError(f"the classes of {subject.name} do not depend on layer {layer}")
    readings = [as_maps({layer: x}, subject.model, images.shape[-2:]) for x in (seen[layer].detach(), gradient)]
    if layer not in readings[0]:
        raise UserError(f"layer {layer} of {subject.name} gives {[*seen[layer].shape]}, which is no map")
    x, gradient = (reading[layer].float() for reading in readings)  # [B, C, h, w]
    if not gradient.any():
        raise UserError(f"the classes of {subject.name} do not depend on the map of layer {layer}; name an earlier one")
    heat = (gradient.mean(dim=(2, 3), keepdim=True) * x).sum(dim=1, keepdim=True).relu()
    heat = F.interpolate(heat, images.shape[-2:], mode="bilinear")[:, 0]
    low, high = heat.amin(dim=(1, 2), keepdim=True), heat.amax(dim=(1, 2), keepdim=True)
    return labels.cpu(), ((heat - low) / (high - low).clamp_min(torch.finfo(heat.dtype).tiny)).cpu()
