"""Which frequencies a model keeps: Fourier spectra of its feature maps (figures 3.5, 3.6, 3.8, 3.10).

After Park and Kim, "How do vision transformers work?" (ICLR 2022), as section 3.5 of the thesis uses it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .._errors import UserError
from ._capture import capture_maps, find_blocks
from ._result import MARKERS, STYLES, Result, broken, new_figure, spread
from ._subject import DEFAULT, Progress, Setting, Subject, load_pictures, load_subjects, silent, watched

EPS = 1e-6  # below any amplitude that counts; the logarithm of 0 would not be finite
NUM_IMAGES = 64
SHOWN = 8  # spectra of a model side by side


@dataclass(frozen=True, kw_only=True)
class Fourier(Result):
    """Spectra of layers.

    Attributes:
        curves: for each model and layer the relative log amplitude at ``frequencies``, from the first, 0, on.
        spectra: for each model and layer the mean of log(1 + amplitude), [H, W] with frequency 0 at [H // 2, W // 2].
        named: whether the layers were named.
    """

    curves: dict[str, dict[str, np.ndarray]]
    spectra: dict[str, dict[str, np.ndarray]]
    named: bool

    def frequencies(self, model: str, layer: str) -> np.ndarray:
        """Of a curve's points, in units of pi radians a position: 1 is a change from each position to the next."""
        H, W = self.spectra[model][layer].shape
        return diagonal(H, W)[2]

    def data(self) -> dict[str, np.ndarray]:
        found = {}
        for model, curves in self.curves.items():
            for layer, curve in curves.items():
                found[f"{model}/{layer}/frequency"] = self.frequencies(model, layer)
                found[f"{model}/{layer}/log_amplitude"] = curve
                found[f"{model}/{layer}/spectrum"] = self.spectra[model][layer]
        return found

    def settings(self) -> dict[str, Any]:
        return {"layers": {model: [*curves] for model, curves in self.curves.items()}, "eps": EPS}

    def rows(self) -> list[dict[str, str | float]]:
        return [
            {"model": model, "layer": layer, "frequency (pi)": f, "delta log amplitude": float(curve[-1])}
            for model, curves in self.curves.items()
            for layer, curve in curves.items()
            for f in self.frequencies(model, layer)[-1:].tolist()
        ]

    def figures(self) -> dict[str, Any]:
        return {"": self.draw_curves(), "spectrum": self.draw_spectra()}

    def captions(self) -> dict[str, str]:
        return {
            "": "Relative log amplitude of each block's map by frequency, from early blocks, pale, to late ones, dark; "
            "on the right that of the highest frequency by depth.",
            "spectrum": "Mean of log(1 + amplitude) of each block's map; frequency 0 in the middle.",
        }

    def draw_curves(self) -> Any:
        """Relative log amplitudes by frequency, one panel a model, and at the highest by depth (figure 3.5)."""
        count = len(self.curves)
        figure = new_figure(4.2 * (count + 1), 3.8)
        *panels, last = figure.subplots(1, count + 1, squeeze=False)[0]
        for axes, (model, curves) in zip(panels, self.curves.items()):
            for i, (layer, curve) in enumerate(curves.items()):
                frequencies = self.frequencies(model, layer)
                if self.named:
                    style = dict(linestyle=STYLES[i % 4], marker=MARKERS[i % 8], markevery=max(1, len(curve) // 8))
                    axes.plot(frequencies, curve, label=layer, color=f"C{i}", markersize=4, **style)
                else:  # early blocks are pale, late ones dark
                    share = i / max(1, len(curves) - 1)
                    label = layer if i in (0, len(curves) - 1) else None
                    axes.plot(frequencies, curve, label=label, color=shade(share), linewidth=1 + share)
            axes.set(title=model, xlabel=r"frequency ($\times\pi$)", ylabel=r"$\Delta$ log amplitude", xlim=(0, 1))
            axes.legend(fontsize="x-small")
            axes.grid(alpha=0.3)
        low = min(axes.get_ylim()[0] for axes in panels)
        high = max(axes.get_ylim()[1] for axes in panels)
        for axes in panels:
            axes.set_ylim(low, high)
        for i, (model, curves) in enumerate(self.curves.items()):
            depth = np.linspace(0, 1, len(curves))
            ends = [float(curve[-1]) for curve in curves.values()]
            last.plot(depth, ends, label=model, linestyle=STYLES[i % 4], marker=MARKERS[i % 8], markersize=4)
        last.set(xlabel="normalized depth", ylabel=r"$\Delta$ log amplitude at $1.0\pi$", title="highest frequency")
        last.legend(fontsize="x-small")
        last.grid(alpha=0.3)
        return figure

    def draw_spectra(self) -> Any:
        """Two-dimensional spectra, one row a model (figures 3.6, 3.8, 3.10).

        Blocks have one scale. Branches that are named differ by orders of magnitude, so each of them has its own.
        """
        most = max(map(len, self.spectra.values())) if self.named else SHOWN
        shown = {model: spread([*spectra.items()], most) for model, spectra in self.spectra.items()}
        columns = max(map(len, shown.values()))
        figure = new_figure(1.7 * columns + 1, 1.9 * len(shown) + 0.5)
        grid = figure.subplots(len(shown), columns, squeeze=False)
        look: dict[str, Any] = dict(cmap="viridis", extent=(-1, 1, -1, 1))
        if not self.named:
            values = [spectrum for row in shown.values() for _, spectrum in row]
            look |= dict(vmin=min(v.min() for v in values), vmax=max(v.max() for v in values))
        image = None
        for line, (model, row) in zip(grid, shown.items()):
            for axes in line:
                axes.axis("off")
            for axes, (layer, spectrum) in zip(line, row):
                axes.axis("on")
                image = axes.imshow(contrast(spectrum) if self.named else spectrum, **look)
                axes.set_xticks([-1, 0, 1], [r"$-\pi$", "0", r"$\pi$"], fontsize="x-small")
                axes.set_yticks([-1, 0, 1], [r"$-\pi$", "0", r"$\pi$"], fontsize="x-small")
                axes.set_title(broken(layer), fontsize="x-small")
            line[0].set_ylabel(model, fontsize="small")
        label = "log amplitude, each\nfrom least to most" if self.named else "log(1 + amplitude)"
        figure.colorbar(image, ax=grid, label=label, shrink=0.9, aspect=25, pad=0.01)
        return figure


def fourier(
    models: Sequence[str | nn.Module | Subject],
    *,
    layers: tuple[str, ...] = (),
    setting: Setting = DEFAULT,
    progress: Progress = silent,
) -> Fourier:
    """Fourier spectra of a model's blocks or named layers, averaged over channels and pictures.

    Args:
        models: names of timm models, folders of runs, or modules.
        layers: names of modules, NAME:input for what one gets; the blocks of each model without any.
        setting: what the models see.
        progress: called with the pictures done and their number.

    Raises:
        UserError: an unknown model or layer, an output that is no map, a map of one position.
    """
    subjects = load_subjects(models, setting, layers)
    pictures = load_pictures(setting, NUM_IMAGES)
    curves: dict[str, dict[str, np.ndarray]] = {}
    spectra: dict[str, dict[str, np.ndarray]] = {}
    for subject, batches in watched(subjects, pictures, setting, progress):
        names = list(layers)
        logs: dict[str, torch.Tensor] = {}
        amplitudes: dict[str, torch.Tensor] = {}
        for images in batches:
            names = names or find_blocks(subject.model, images, subject.name)
            maps = capture_maps(subject.model, names, images, subject.name)
            for layer, x in maps.items():
                if min(x.shape[2:]) < 2:
                    what = f"the map of {layer} of {subject.name} is {x.shape[2]}x{x.shape[3]}"
                    raise UserError(f"{what}, which has no frequencies; try a larger --size")
                amplitude = torch.fft.fft2(x.float()).abs()  # [B, C, H, W]
                logs[layer] = logs.get(layer, 0) + log_amplitude(amplitude)
                amplitudes[layer] = amplitudes.get(layer, 0) + amplitude.log1p().mean(1).sum(0).cpu().double()
        curves[subject.name] = {name: (total / len(pictures)).numpy() for name, total in logs.items()}
        spectra[subject.name] = {
            name: torch.fft.fftshift(total / len(pictures)).numpy() for name, total in amplitudes.items()
        }
    return Fourier(
        what="fourier",
        subjects=subjects,
        setting=setting,
        num_images=len(pictures),
        curves=curves,
        spectra=spectra,
        named=bool(layers),
    )


def log_amplitude(amplitude: torch.Tensor) -> torch.Tensor:
    """Amplitudes [B, C, H, W], unshifted -> their relative log on the half diagonal [n], summed over B, mean over C."""
    rows, cols, _ = diagonal(amplitude.shape[2], amplitude.shape[3])
    curve = (amplitude[:, :, rows, cols] + EPS).log().mean(1).sum(0).cpu().double()
    return curve - curve[0]


def diagonal(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half diagonal of a transformed map, from frequency 0 to the corner.

    Returns:
        Rows and columns in the unshifted transform, and frequencies in units of pi. An odd map ends just below 1.
    """
    count = min(height, width) // 2 + 1
    steps = np.linspace(0, 1, count)
    rows, cols = (np.round(steps * (side // 2)).astype(int) for side in (height, width))
    short = rows if height <= width else cols
    return rows, cols, 2 * short / min(height, width)


def shade(share: float) -> Any:
    """A colour that is darker the larger the share in 0..1 is, also on grey paper."""
    import matplotlib

    return matplotlib.colormaps["viridis_r"](0.1 + 0.9 * share)


def contrast(spectrum: np.ndarray) -> np.ndarray:
    """A spectrum of any magnitude as log amplitude scaled to 0..1; the lowest hundredth, as a removed mean, is cut."""
    x = np.log(np.expm1(spectrum) + 1e-12)
    low, high = np.percentile(x, 1), x.max()
    return np.clip((x - low) / max(high - low, 1e-12), 0, 1)
