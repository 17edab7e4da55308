"""Multi-order interaction strength (thesis eq. 3.13, 3.14; Fig. 3.7; Deng et al. 2022, arXiv:2111.06236).

A picture is cut into n patches. ``v(S)`` is the log odds of the picture's class when the patches outside ``S`` have
the picture's mean colour. The interaction of order m of two patches i and j is

    I(m)(i, j) = mean over sets S of m other patches of  v(S + i + j) - v(S + i) - v(S + j) + v(S),

and ``J(m)`` is the mean of ``|I(m)|`` over pairs and pictures, divided by its mean over the orders. As in Deng et al.
the patches of a pair are at most two rows and two columns apart.

With few sets S the mean of ``|I|`` is too large by their noise, the more the larger the noise, so curves compare only
at the same setting; 50 pictures, 200 pairs and 100 sets are the setting of the paper.
"""

import copy
import hashlib
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .._errors import UserError
from ._capture import call
from ._result import MARKERS, STYLES, Result, new_figure, slug, spread
from ._subject import (
    DEFAULT,
    Progress,
    Setting,
    Subject,
    choose_classes,
    load_pictures,
    load_subjects,
    silent,
    true_classes,
)

NUM_IMAGES = 6
REACH = 2  # rows and columns between the patches of a pair, at most (Deng et al., their code)
COARSE = 0.1  # of the interactions; more rounding than that is noted
SAVE_EVERY = 10  # seconds between two savings of what is done


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What is drawn: a pure function of the seed, the picture's place, the pair and the order.

    Attributes:
        grid: patches along a side; n is its square.
        orders: how many orders, evenly spaced from m = 0 to m = n - 2.
        pairs: pairs of patches a picture.
        contexts: sets S a pair and order; all sets where there are no more of that size.
        seed: of the draws.
    """

    grid: int = 16
    orders: int = 21
    pairs: int = 4
    contexts: int = 3
    seed: int = 0

    def __post_init__(self):
        if self.grid < 2:
            raise UserError(f"grid must be at least 2, got {self.grid}")
        if not 2 <= self.orders <= self.grid**2 - 1:
            raise UserError(f"orders must be from 2 to {self.grid**2 - 1} at a grid of {self.grid}, got {self.orders}")
        most = len(neighbours(self.grid))
        if not 1 <= self.pairs <= most:
            raise UserError(f"pairs must be from 1 to {most} at a grid of {self.grid}, got {self.pairs}")
        for name, value, least in (("contexts", self.contexts, 1), ("seed", self.seed, 0)):
            if value < least:
                raise UserError(f"{name} must be at least {least}, got {value}")

    def sizes(self) -> list[int]:
        """The orders m."""
        return [round(k * (self.grid**2 - 2) / (self.orders - 1)) for k in range(self.orders)]

    def pair(self, image: int, pair: int) -> tuple[int, int]:
        """Patches i and j, by their places row by row; the pairs of a picture are distinct."""
        return neighbours(self.grid)[shuffled(len(neighbours(self.grid)), self.seed, image)[pair]]

    def num_sets(self, m: int) -> int:
        """How many sets of m patches a pair gets."""
        return min(math.comb(self.grid**2 - 2, m), self.contexts)

    def sets(self, image: int, pair: int, m: int) -> np.ndarray:
        """Sets S for one pair of a picture: which patches are in them, bool [sets, n]."""
        n = self.grid**2
        others = np.delete(np.arange(n), self.pair(image, pair))
        if math.comb(n - 2, m) <= self.contexts:
            members = np.array([*combinations(others, m)], dtype=np.int64)
        else:
            draw = np.random.default_rng([self.seed, image, pair, m]).random((self.contexts, n - 2))
            members = others[np.argpartition(draw, m, axis=1)[:, :m]]
        sets = np.zeros((len(members), n), dtype=bool)
        np.put_along_axis(sets, members, True, axis=1)
        return sets


@lru_cache
def shuffled(count: int, *seed: int) -> np.ndarray:
    """The numbers below ``count``."""
    return np.random.default_rng(seed).permutation(count)


@lru_cache
def neighbours(grid: int) -> list[tuple[int, int]]:
    """Pairs of patches of a grid, by their places row by row, that may interact."""
    near = [(y, x) for y in range(REACH + 1) for x in range(-REACH, REACH + 1) if (y, x) > (0, 0)]
    return [
        (y * grid + x, (y + dy) * grid + x + dx)
        for y in range(grid)
        for x in range(grid)
        for dy, dx in near
        if y + dy < grid and 0 <= x + dx < grid
    ]


@dataclass(frozen=True)
class Interactions:
    """What was measured.

    Attributes:
        values: I [pictures, pairs, orders].
        orders: m [orders].
        forwards: images that went through the model in this call.
        model_s: seconds of them.
        wall_s: seconds of the whole call.
    """

    values: np.ndarray
    orders: np.ndarray
    forwards: int
    model_s: float
    wall_s: float

    def strength(self) -> np.ndarray:
        """J [orders]; 0 where nothing interacts."""
        return relative(np.abs(self.values).mean(axis=(0, 1)))

    def error(self) -> np.ndarray:
        """The standard error of J over pictures, by leaving out one at a time [orders]."""
        count = len(self.values)
        each = np.abs(self.values).mean(axis=1)  # [pictures, orders]
        without = relative((each.sum(axis=0) - each) / (count - 1))
        return np.sqrt((count - 1) / count * ((without - without.mean(axis=0)) ** 2).sum(axis=0))


@dataclass(frozen=True, kw_only=True)
class Interaction(Result):
    """Interaction strength of models.

    Attributes:
        measured: of each model.
        classes: of each model, those whose log odds count [pictures].
        whose: of each model, whether they are those of the folders, those that it predicts, or a given one.
        sampling: what was drawn.
        double: whether in float64.
        rounding: of each model in float32, the mean error of an interaction by rounding.
    """

    measured: dict[str, Interactions]
    classes: dict[str, np.ndarray]
    whose: dict[str, str]
    sampling: Sampling
    double: bool
    rounding: dict[str, float]

    def data(self) -> dict[str, np.ndarray]:
        found = {}
        for model, m in self.measured.items():
            found[f"{model}/order"] = m.orders
            found[f"{model}/strength"] = m.strength()
            found[f"{model}/error"] = m.error()
            found[f"{model}/interaction"] = m.values
            found[f"{model}/class"] = self.classes[model]
        return found

    def settings(self) -> dict[str, Any]:
        return {
            "sampling": asdict(self.sampling),
            "classes": self.whose,
            "double": self.double,
            "rounding": self.rounding,
        }

    def rows(self) -> list[dict[str, str | float]]:
        shown = (0, self.sampling.orders // 2, self.sampling.orders - 1)
        return [
            {
                "model": model,
                **{f"J({m.orders[k]})": m.strength()[k] for k in shown},
                "±": m.error().mean(),
                "|I|": f"{np.abs(m.values).mean():.0e}",
                "passes": str(m.forwards),
                "s": m.wall_s,
                "model %": 100 * m.model_s / m.wall_s,
            }
            for model, m in self.measured.items()
        ]

    def notes(self) -> list[str]:
        return [
            f"{model}: rounding in float32 is {rounding / size:.0%} of its interactions; --double is exact"
            for model, rounding in self.rounding.items()
            if rounding > COARSE * (size := np.abs(self.measured[model].values).mean())
        ]

    def captions(self) -> dict[str, str]:
        return {
            "": "Interaction strength J(m) by how many of the n patches are there besides the two that interact; bands "
            "are two standard errors over pictures to both sides."
        }

    def figures(self) -> dict[str, Any]:
        """J by order, a line a model, within twice its standard error."""
        figure = new_figure(6, 4.2)
        axes = figure.subplots()
        for k, (model, m) in enumerate(self.measured.items()):
            orders, strength, error = m.orders / m.orders[-1], m.strength(), m.error()
            style = dict(linestyle=STYLES[k % 4], marker=MARKERS[k % 8], markersize=4, color=f"C{k}")
            axes.plot(orders, strength, label=model, **style)
            axes.fill_between(orders, strength - 2 * error, strength + 2 * error, color=f"C{k}", alpha=0.15, lw=0)
        drawn = f"pictures: {self.num_images}, pairs: {self.sampling.pairs}, sets: {self.sampling.contexts}"
        axes.set(xlabel="order m / (n - 2)", ylabel="interaction strength J(m)", xlim=(0, 1))
        axes.set_ylim(bottom=0)
        axes.set_title(f"{drawn}; bands: 2 standard errors", fontsize="small")
        axes.legend()
        axes.grid(alpha=0.3)
        return {"": figure}


def part_file(folder: Path, name: str) -> Path:
    """Where the measurement of a model is kept until it is whole."""
    return folder / f"interaction_{slug(name)}.part"


def interaction(
    models: Sequence[str | nn.Module | Subject],
    *,
    grid: int = Sampling.grid,
    orders: int = Sampling.orders,
    pairs: int = Sampling.pairs,
    contexts: int = Sampling.contexts,
    class_index: int | None = None,
    double: bool = False,
    setting: Setting = DEFAULT,
    parts: Path | None = None,
    progress: Progress = silent,
) -> Interaction:
    """Multi-order interaction strength: how many other patches it takes for two patches to act together.

    The paper's setting is 50 pictures, 200 pairs and 100 contexts: 76 million forward passes.

    Args:
        models: names of timm models, folders of runs, or modules.
        grid: patches along a side of the picture.
        orders: how many orders, evenly spaced from no other patch to all.
        pairs: pairs of patches a picture.
        contexts: sets of other patches for each pair and order.
        class_index: the class whose log odds count, from 0 on; by default of each picture the one that its folder is
            called, or the one that the model predicts where not all folders are called as classes of the model.
        double: calculate in float64. Interactions of random weights may be too small for float32, which is noted.
        setting: what the models see; its seed decides what is drawn, too.
        parts: a folder for what is done so far; a second call goes on from there to the same numbers.
        progress: called with the images done and their number.

    Raises:
        UserError: an unknown model or class, a model without classes, fewer than two pictures, a grid finer than the
            pixels, a part file of other models, pictures or settings.
    """
    sampling = Sampling(grid=grid, orders=orders, pairs=pairs, contexts=contexts, seed=setting.seed)
    subjects = load_subjects(models, setting)
    pictures = load_pictures(setting, NUM_IMAGES)
    measured, classes, whose, rounding = {}, {}, {}, {}
    for k, subject in enumerate(subjects):
        images = torch.cat([*subject.images(pictures, setting.batch)])
        with torch.inference_mode():
            logits = (call(subject.model, part, subject.name) for part in images.split(setting.batch))
            labels = torch.cat([choose_classes(subject, part, class_index) for part in logits]).cpu()
        true = true_classes(subject, setting, NUM_IMAGES) if class_index is None else None
        if true is not None:
            labels = torch.tensor(true)
        whose[subject.name] = "given" if class_index is not None else "predicted" if true is None else "true"
        model = subject.model
        if double:
            model, images = copy.deepcopy(model).double(), images.double()
        past = sum(m.forwards for m in measured.values())
        measured[subject.name] = interactions(
            model,
            images,
            labels,
            sampling,
            batch=setting.batch,
            part=None if parts is None else part_file(parts, subject.name),
            identity=fingerprint(model, images),
            progress=among(progress, past, len(subjects) - k),
        )
        classes[subject.name] = labels.numpy()
        if not double:
            rounding[subject.name] = rounding_error(model, images[:1], labels[0], sampling, setting.batch)
    return Interaction(
        what="interaction",
        subjects=subjects,
        setting=setting,
        num_images=len(pictures),
        measured=measured,
        classes=classes,
        whose=whose,
        sampling=sampling,
        double=double,
        rounding=rounding,
    )


def rounding_error(model: nn.Module, image: torch.Tensor, label: torch.Tensor, sampling: Sampling, batch: int) -> float:
    """The mean difference of interactions in float32 from those in float64, of at most three pairs and five orders."""
    once = replace(sampling, contexts=1)
    units = [(0, pair, m) for m in spread(once.sizes(), 5) for pair in range(min(3, once.pairs))]
    single, double = (
        measure(Timed(function), Masked(x, once.grid), label, once, units, batch)
        for function, x in [(model, image), (copy.deepcopy(model).cpu().double(), image.cpu().double())]
    )
    return float(np.abs(np.subtract(single, double)).mean())


def among(progress: Progress, past: int, left: int) -> Progress:
    """The progress of one of several models, ``left`` of which are not done; ``past`` images are."""
    return lambda done, total: progress(past + done, past + left * total)


def fingerprint(model: nn.Module, images: torch.Tensor) -> str:
    """Of weights and images, to the bit."""
    digest = hashlib.sha256()
    for tensor in (*model.state_dict().values(), images):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def relative(strength: np.ndarray) -> np.ndarray:
    """Mean |I| [..., orders], divided by its mean over the orders."""
    mean = strength.mean(axis=-1, keepdims=True)
    return np.divide(strength, mean, out=np.zeros_like(strength), where=mean > 0)


def log_odds(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) of classes [B] under logits [B, classes]: [B]."""
    own = logits.gather(1, labels[:, None])
    return own[:, 0] - logits.scatter(1, labels[:, None], -math.inf).logsumexp(dim=1)


class Masked:
    """A picture [1, C, H, W] of which patches are hidden."""

    def __init__(self, image: torch.Tensor, grid: int):
        H, W = image.shape[2:]
        self.image, self.mean = image, image.mean(dim=(2, 3), keepdim=True)
        rows, cols = (torch.arange(side, device=image.device) * grid // side for side in (H, W))
        self.patch = (rows[:, None] * grid + cols).flatten()  # of each pixel

    def __call__(self, shown: torch.Tensor) -> torch.Tensor:
        """The picture with patches [B, n] shown: [B, C, H, W]."""
        pixels = shown.to(self.image).index_select(1, self.patch).view(-1, 1, *self.image.shape[2:])
        return torch.lerp(self.mean, self.image, pixels)  # exact for 0 and 1, and many times as fast as torch.where


class Timed:
    """A model [B, C, H, W] -> [B, classes] whose images and seconds are counted."""

    def __init__(self, model: Callable[[torch.Tensor], torch.Tensor]):
        self.model, self.images, self.seconds = model, 0, 0.0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        logits = self.model(images).cpu().double()  # the copy waits for the device
        self.seconds += time.perf_counter() - start
        self.images += len(images)
        return logits


def interactions(
    model: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    sampling: Sampling,
    *,
    batch: int = 64,
    part: Path | None = None,
    identity: str = "",
    progress: Progress = silent,
) -> Interactions:
    """Measure I(m)(i, j) of every picture, pair and order.

    A call that is interrupted leaves what it has in ``part``, and a second one goes on from there to the same numbers.

    Args:
        model: images [B, C, H, W] -> logits [B, classes], two at least.
        images: [pictures, C, H, W], as the model takes them, on its device.
        labels: the classes [pictures] whose log odds count.
        batch: images a forward pass.
        part: a file for what is done so far.
        identity: of model and pictures; a part file of another one is refused.
        progress: called with the images that this call has done, and those that it has to do.

    Raises:
        UserError: fewer than two pictures, smaller pictures than the grid, or log odds that are not finite,
            a part file of something else or that cannot be written.
    """
    start = saved = time.perf_counter()
    if len(images) < 2:
        raise UserError(f"a band needs at least 2 pictures, got {len(images)}")
    if min(images.shape[2:]) < sampling.grid:
        raise UserError(f"pictures of {images.shape[2]}x{images.shape[3]} px have no {sampling.grid} patches a side")
    sizes = sampling.sizes()
    units = [(i, p, m) for i in range(len(images)) for p in range(sampling.pairs) for m in sizes]
    cost = np.array([4 * sampling.num_sets(m) for _, _, m in units])
    setting = f"{asdict(sampling)} {[*images.shape]} {labels.tolist()} batch {batch} {identity}"
    values = read_part(part, setting, len(units)) if part is not None and part.exists() else []
    done = len(values)
    timed = Timed(model)
    masked = [Masked(image[None], sampling.grid) for image in images]
    left = int(cost[done:].sum())
    try:
        for group in groups(cost, sampling.pairs * len(sizes), batch):
            if group.stop <= done:
                continue
            image = units[group.start][0]
            values += measure(timed, masked[image], labels[image], sampling, units[group], batch)
            progress(timed.images, left)
            if part is not None and time.perf_counter() - saved > SAVE_EVERY:
                write_part(part, setting, values)
                saved = time.perf_counter()
    finally:
        if part is not None:
            write_part(part, setting, values)
    shape = (len(images), sampling.pairs, len(sizes))
    wall_s = time.perf_counter() - start
    return Interactions(np.reshape(values, shape), np.array(sizes), timed.images, timed.seconds, wall_s)


def groups(cost: np.ndarray, per_image: int, batch: int) -> Iterator[slice]:
    """Units of one picture that are measured together: as many as fit a batch with their ``cost``, at least one."""
    first = 0
    while first < len(cost):
        end = (first // per_image + 1) * per_image
        last = first + max(1, int((cost[first:end].cumsum() <= batch).sum()))
        yield slice(first, last)
        first = last


@torch.inference_mode()
def measure(
    model: Timed,
    masked: Masked,
    label: torch.Tensor,
    sampling: Sampling,
    units: list[tuple[int, int, int]],
    batch: int,
) -> list[float]:
    """I(m)(i, j) of units of one picture, by its place, the pair's, and m."""
    shown = []
    for image, pair, m in units:
        i, j = sampling.pair(image, pair)
        sets = np.repeat(sampling.sets(image, pair, m), 4, axis=0)
        sets[0::4, [i, j]] = sets[1::4, i] = sets[2::4, j] = True
        shown.append(torch.from_numpy(sets))
    every = torch.cat(shown)
    parts = every.tensor_split(math.ceil(len(every) / batch))
    v = torch.cat([log_odds(model(masked(part)), label.expand(len(part))) for part in parts])
    if not v.isfinite().all():
        raise UserError("the model gives log odds that are not finite")
    delta = v[0::4] - v[1::4] - v[2::4] + v[3::4]
    return [each.mean().item() for each in delta.split([len(sets) // 4 for sets in shown])]


def read_part(part: Path, setting: str, most: int) -> list[float]:
    """The values of the units, ``most`` at most, that a part file holds; raises UserError."""
    try:
        with np.load(part) as file:
            found, values = str(file["setting"]), file["values"].tolist()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise UserError(f"cannot read {part}, damaged or written by something else; delete it to start anew") from None
    if found != setting or len(values) > most:
        raise UserError(f"{part} holds part of another measurement; delete it to start anew")
    return values


def write_part(part: Path, setting: str, values: list[float]) -> None:
    """Replace a part file; raises UserError."""
    new = part.with_name(f"{part.name}.new")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            np.savez(file, setting=setting, values=values)
        new.replace(part)
    except OSError as error:
        raise UserError(f"cannot write {part}: {error.strerror}") from None
