"""What an analysis gives: data, figures, a few rows; and how they are written."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F

from .._errors import UserError, first_line
from ._subject import Setting, Subject

STYLES = ["-", "--", "-.", ":"]  # of lines, which colours that print alike do not tell apart
MARKERS = "osv^D*XP"
DPI = 150


@dataclass(frozen=True, kw_only=True)
class Result(ABC):
    """Base of the results.

    Attributes:
        what: the analysis.
        subjects: its models.
        setting: what they saw.
        num_images: number of pictures.
    """

    what: str
    subjects: Sequence[Subject]
    setting: Setting
    num_images: int

    @abstractmethod
    def data(self) -> dict[str, np.ndarray]:
        """The numbers, by names that begin with the model's."""

    @abstractmethod
    def rows(self) -> list[dict[str, str | float]]:
        """A few figures for the terminal, one row a model or a layer; all rows have the same keys."""

    @abstractmethod
    def figures(self) -> dict[str, Any]:
        """matplotlib Figures by name; the main one is called ''."""

    @abstractmethod
    def captions(self) -> dict[str, str]:
        """What each figure shows, by its name, for those who see nothing else."""

    def notes(self) -> list[str]:
        """Lines below the rows."""
        return []

    def settings(self) -> dict[str, Any]:
        """The analysis's own settings, for the metadata."""
        return {}

    def metadata(self) -> dict[str, Any]:
        """Where the numbers come from: JSON's types alone."""
        from .. import __version__

        setting = asdict(self.setting) | {"num_images": self.num_images}
        return {
            "analysis": self.what,
            "models": [{"model": s.name, "weights": s.weights, "size": list(s.size)} for s in self.subjects],
            "images": "built-in scenes" if self.setting.images is None else str(self.setting.images),
            **{name: setting[name] for name in ("num_images", "seed", "batch", "device")},
            **self.settings(),
            "versions": {"foveal": __version__, "torch": torch.__version__, "timm": timm.__version__},
        }

    def write(self, out: Path) -> list[Path]:
        """Write WHAT.npz, whose key ``metadata`` is a JSON text, and each figure as PNG and SVG, into a folder.

        Raises:
            UserError: a file is there already, or cannot be written, or matplotlib is missing.
        """
        check_new(out, self.what)
        figures = {f"{self.what}_{name}" if name else self.what: figure for name, figure in self.figures().items()}
        try:
            out.mkdir(parents=True, exist_ok=True)
            files = [out / f"{self.what}.npz"]
            arrays: dict[str, Any] = {"metadata": np.array(json.dumps(self.metadata())), **self.data()}
            np.savez_compressed(files[0], **arrays)
            for name, figure in figures.items():
                for suffix in ("png", "svg"):
                    files.append(out / f"{name}.{suffix}")
                    figure.savefig(files[-1], dpi=DPI)
        except OSError as error:
            raise UserError(f"cannot write {out}: {first_line(error)}") from None
        return files


def check_new(out: Path, what: str) -> None:
    """Raise UserError unless the files of an analysis can be written into a folder: none of them is there."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is no folder")
    for file in sorted(out.glob(f"{what}*")):
        if file.suffix in (".npz", ".png", ".svg", ".html"):
            raise UserError(f"{file} exists; nothing was overwritten (--out names another folder)")


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib Figure, in inches; raises UserError if matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("figures need matplotlib: pip install 'foveal[plot]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of some items, evenly spread, with the first and the last."""
    if len(items) <= most:
        return [*items]
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def broken(name: str) -> str:
    """The name of a layer in lines of about 18 letters."""
    lines = [""]
    for part in name.split("."):
        if lines[-1] and len(lines[-1]) + len(part) > 18:
            lines.append("")
        lines[-1] += f".{part}" if lines[-1] else part
    return "\n".join(lines)


def slug(name: str) -> str:
    """The name of a model as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_.")


def overlay(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A grey picture [H, W, 3] of values in 0..1 under a map [h, w], enlarged and scaled from its least to its largest.

    The colours of the map grow brighter as its values grow, so that it can be read on grey paper. Places that are NaN
    stay grey. A map that is even up to rounding is shown at one half.
    """
    import matplotlib

    grey = (picture @ np.array([0.299, 0.587, 0.114]))[..., None]
    x = torch.as_tensor(values, dtype=torch.float32)[None, None]
    there = x[x.isfinite()]
    if not len(there):  # such as the background of a map of one position
        return np.repeat(0.7 * grey, 3, axis=2)
    low, extent = there.min(), there.max() - there.min()
    even = bool(extent <= 1e-4 * there.abs().max())
    x = torch.where(x.isfinite(), torch.full_like(x, 0.5), x) if even else (x - low) / extent
    smooth = dict(mode="bilinear", align_corners=False) if len(there) == x.numel() else dict(mode="nearest")
    x = F.interpolate(x, picture.shape[:2], **smooth)[0, 0].numpy()  # pyright: ignore[reportArgumentType]
    colours = matplotlib.colormaps["viridis"](np.nan_to_num(x))[..., :3]
    return np.where(np.isnan(x)[..., None], 0.7 * grey, 0.35 * grey + 0.65 * colours)


def scale() -> Any:
    """What the colour bar of an ``overlay`` needs, from 0 to 1."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(0, 1), "viridis")
