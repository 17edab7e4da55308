"""Which tokens PartialFormer calls foreground (eq. 5.4), and how much of them the next block agrees with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .._errors import UserError
from ._attention import Recorder, Unreadable, find_grid
from ._capture import call
from ._result import Result, broken, new_figure, slug
from ._subject import DEFAULT, Progress, Setting, Subject, load_pictures, load_subjects, silent, watched

NUM_IMAGES = 4


@dataclass(frozen=True, kw_only=True)
class Tokens(Result):
    """Chosen tokens.

    Attributes:
        pictures: for each model what it saw, [n, H, W, 3] in 0..1.
        chosen: for each model and block whether a token is foreground, [n, h, w].
    """

    pictures: dict[str, np.ndarray]
    chosen: dict[str, dict[str, np.ndarray]]

    def jaccard(self, model: str) -> dict[str, float]:
        """For each block tokens that it and the one before both chose, divided by those that either chose.

        A mean over pictures; NaN for the first block on maps of a size.
        """
        found, before = {}, None
        for layer, chosen in self.chosen[model].items():
            found[layer] = float("nan")
            if before is not None and before.shape == chosen.shape:
                both, either = ((f(before, chosen)).sum((1, 2)) for f in (np.logical_and, np.logical_or))
                found[layer] = float((both / either).mean())
            before = chosen
        return found

    def data(self) -> dict[str, np.ndarray]:
        found = {}
        for model, layers in self.chosen.items():
            found |= {f"{model}/{layer}/foreground": chosen for layer, chosen in layers.items()}
            found[f"{model}/layers"] = np.array([*layers])
            found[f"{model}/jaccard"] = np.array([*self.jaccard(model).values()])
        return found

    def rows(self) -> list[dict[str, str | float]]:
        return [
            {
                "model": model,
                "layer": layer,
                "foreground tokens": f"{int(chosen[0].sum())} of {chosen[0].size}",
                "Jaccard with the block before": self.jaccard(model)[layer],
            }
            for model, layers in self.chosen.items()
            for layer, chosen in layers.items()
        ]

    def figures(self) -> dict[str, Any]:
        names = [*self.chosen]
        return {"" if len(names) == 1 else slug(name): self.draw(name) for name in names}

    def captions(self) -> dict[str, str]:
        names = [*self.chosen]
        text = "which tokens {} calls foreground in the last block of each stage; the others are dark"
        return {"" if len(names) == 1 else slug(name): text.format(name) for name in names}

    def draw(self, model: str) -> Any:
        """Pictures as rows; of each stage its last block as columns: background tokens are dark."""
        stages = {chosen.shape[1:]: layer for layer, chosen in self.chosen[model].items()}
        pictures = self.pictures[model]
        figure = new_figure(1.8 * (1 + len(stages)), 1.8 * len(pictures) + 0.5)
        grid = figure.subplots(len(pictures), 1 + len(stages), squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for number, (line, picture) in enumerate(zip(grid, pictures)):
            line[0].imshow(picture)
            for axes, layer in zip(line[1:], stages.values()):
                axes.imshow(lit(picture, self.chosen[model][layer][number]))
                if number == 0:
                    axes.set_title(broken(layer), fontsize="x-small")
        figure.suptitle(f"{model}: foreground bright, last block of each stage", fontsize="small")
        return figure


def tokens(
    models: Sequence[str | nn.Module | Subject], *, setting: Setting = DEFAULT, progress: Progress = silent
) -> Tokens:
    """Which tokens PartialFormer calls foreground, stage by stage, and the Jaccard index of consecutive blocks.

    Args:
        models: names of PartialFormers, or of other models whose layers choose tokens by top-k, folders of runs,
            or modules.
        setting: what the models see.
        progress: called with the pictures done and their number.

    Raises:
        UserError: an unknown model, one that chooses no tokens.
    """
    subjects = load_subjects(models, setting)
    images = load_pictures(setting, NUM_IMAGES)
    pictures: dict[str, np.ndarray] = {}
    chosen: dict[str, dict[str, np.ndarray]] = {}
    for subject, batches in watched(subjects, images, setting, progress):
        parts: dict[str, list[torch.Tensor]] = {}
        seen = []
        for batch in batches:
            seen += [subject.shown(image).numpy() for image in batch]
            with Recorder(subject.model) as recorder:
                call(subject.model, batch, subject.name)
            for layer, record in recorder.records.items():
                for index, count in record.chosen[:1]:
                    try:
                        grid, _ = find_grid(count, record, subject.model, batch)
                    except Unreadable as error:
                        raise UserError(f"{subject.name} chooses among what is no map in {layer}: {error}") from None
                    mask = torch.zeros(len(batch), count, dtype=torch.bool, device=index.device)
                    parts.setdefault(layer, []).append(mask.scatter(1, index, True).unflatten(1, grid).cpu())
        if not parts:
            raise UserError(f"{subject.name} chooses no tokens; partialformer_b0 to b4 do")
        pictures[subject.name] = np.stack(seen)
        chosen[subject.name] = {layer: torch.cat(masks).numpy() for layer, masks in parts.items()}
    return Tokens(
        what="tokens",
        subjects=subjects,
        setting=setting,
        num_images=len(images),
        pictures=pictures,
        chosen=chosen,
    )


def lit(picture: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] of values in 0..1 with the tokens that are not chosen [h, w] at a quarter of their light."""
    rows, cols = (np.arange(n) * m // n for n, m in zip(picture.shape, chosen.shape))
    light = chosen[rows][:, cols, None]
    return np.where(light, 0.25 + 0.75 * picture, 0.25 * picture)  # also a black token is brighter when chosen
