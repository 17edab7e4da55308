"""Multi-order interaction strength (thesis eq. 3.13, 3.14; Fig. 3.7; Deng et al. 2022, arXiv:2111.06236).

A picture is cut into n patches. ``v(S)`` is the log odds of the picture's class when the patches outside ``S`` have
the picture's mean colour. The interaction of order m of two patches i and j is

    I(m)(i, j) = mean over sets S of m other patches of  v(S + i + j) - v(S + i) - v(S + j) + v(S),

and ``J(m)`` is the mean of ``|I(m)|`` over pairs and pictures, divided by its mean over the orders. As in Deng et al.
the patches of a pair are at most two rows and two columns apart.

With few sets S the mean of ``|I|`` is too large by their noise, the more the larger the noise, so curves compare only
at the same setting; 50 pictures, 200 pairs and 100 sets are the setting of the paper.
"""

import math
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from .._errors import UserError

REACH = 2  # rows and columns between the patches of a pair, at most (Deng et al., their code)
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
    contexts: int = 4
    seed: int = 0

    def __post_init__(self):
        if self.grid < 2:
            raise UserError(f"grid must be at least 2, got {self.grid}")
        if not 2 <= self.orders <= self.grid**2 - 1:
            raise UserError(f"orders must be from 2 to {self.grid**2 - 1} at a grid of {self.grid}, got {self.orders}")
        most = len(neighbours(self.grid))
        if not 1 <= self.pairs <= most:
            raise UserError(f"pairs must be from 1 to {most} at a grid of {self.grid}, got {self.pairs}")
        for name in ("contexts", "seed"):
            if getattr(self, name) < (least := 1 if name == "contexts" else 0):
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def sizes(self) -> list[int]:
        """The orders m."""
        return [round(k * (self.grid**2 - 2) / (self.orders - 1)) for k in range(self.orders)]

    def pair(self, image: int, pair: int) -> tuple[int, int]:
        """Patches i and j, by their places row by row; the pairs of a picture are distinct."""
        known = neighbours(self.grid)
        return known[np.random.default_rng([self.seed, image]).permutation(len(known))[pair]]

    def num_sets(self, m: int) -> int:
        """How many sets of m patches a pair gets."""
        return min(math.comb(self.grid**2 - 2, m), self.contexts)

    def sets(self, image: int, pair: int, m: int) -> np.ndarray:
        """Sets S for one pair of a picture: which patches are in them, bool [sets, n]."""
        n = self.grid**2
        others = np.setdiff1d(np.arange(n), self.pair(image, pair))
        if self.num_sets(m) < self.contexts:
            members = np.array([*combinations(others, m)], dtype=np.int64)
        else:
            draw = np.random.default_rng([self.seed, image, pair, m]).random((self.contexts, n - 2))
            members = others[np.argpartition(draw, m, axis=1)[:, :m]]
        sets = np.zeros((len(members), n), dtype=bool)
        np.put_along_axis(sets, members, True, axis=1)
        return sets


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


def relative(strength: np.ndarray) -> np.ndarray:
    """Mean |I| [..., orders], divided by its mean over the orders."""
    mean = strength.mean(axis=-1, keepdims=True)
    return np.divide(strength, mean, out=np.zeros_like(strength), where=mean > 0)


def log_odds(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) of classes [B] under logits [B, classes]: [B]."""
    own = logits.gather(1, labels[:, None])
    return own[:, 0] - logits.scatter(1, labels[:, None], -math.inf).logsumexp(dim=1)


class Masked:
    """Pictures [N, C, H, W] of which patches are hidden."""

    def __init__(self, images: torch.Tensor, grid: int):
        H, W = images.shape[2:]
        self.images, self.grid = images, grid
        self.mean = images.mean(dim=(2, 3), keepdim=True)
        self.row = torch.arange(H, device=images.device) * grid // H  # of the patch, for each row of pixels
        self.col = torch.arange(W, device=images.device) * grid // W

    def __call__(self, which: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Pictures by their places [B] with patches bool [B, n] shown: [B, C, H, W]."""
        which, shown = which.to(self.images.device), shown.to(self.images.device)
        pixels = shown.view(-1, 1, self.grid, self.grid)[:, :, self.row][:, :, :, self.col]
        return torch.where(pixels, self.images[which], self.mean[which])


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
    progress: Callable[[int, int], None] | None = None,
) -> Interactions:
    """Measure I(m)(i, j) of every picture, pair and order.

    A call that is interrupted leaves what it has in ``part``, and a second one goes on from there to the same numbers.

    Args:
        model: images [B, C, H, W] -> logits [B, classes], two at least.
        images: [pictures, C, H, W], as the model takes them, on its device.
        labels: the classes [pictures] whose log odds count.
        batch: images a forward pass.
        part: an .npz file for what is done so far.
        identity: of model and pictures; a part file of another one is refused.
        progress: called with the images done and their number in all.

    Raises:
        UserError: fewer than two pictures, smaller pictures than the grid, or a part file of something else.
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
    done, values = read_part(part, setting, len(units)) if part is not None and part.exists() else (0, [])
    timed, masked = Timed(model), Masked(images, sampling.grid)
    before = int(cost[:done].sum())
    try:
        for group in groups(cost, batch):
            if group.stop <= done:
                continue
            values += measure(timed, masked, labels, sampling, units[group], batch)
            done = group.stop
            if progress is not None:
                progress(before + timed.images, int(cost.sum()))
            if part is not None and time.perf_counter() - saved > SAVE_EVERY:
                write_part(part, setting, values)
                saved = time.perf_counter()
    finally:
        if part is not None:
            write_part(part, setting, values)
    shape = (len(images), sampling.pairs, len(sizes))
    wall_s = time.perf_counter() - start
    return Interactions(np.reshape(values, shape), np.array(sizes), timed.images, timed.seconds, wall_s)


def groups(cost: np.ndarray, batch: int) -> Iterator[slice]:
    """Units that are measured together: as many as fit a batch with their ``cost`` in images, at least one."""
    first = 0
    while first < len(cost):
        last = first + max(1, int((cost[first : first + batch].cumsum() <= batch).sum()))
        yield slice(first, last)
        first = last


@torch.inference_mode()
def measure(
    model: Timed,
    masked: Masked,
    labels: torch.Tensor,
    sampling: Sampling,
    units: list[tuple[int, int, int]],
    batch: int,
) -> list[float]:
    """I(m)(i, j) of each unit."""
    shown, counts = [], []
    for image, pair, m in units:
        i, j = sampling.pair(image, pair)
        sets = np.repeat(sampling.sets(image, pair, m), 4, axis=0)
        sets[0::4, [i, j]] = sets[1::4, i] = sets[2::4, j] = True
        shown.append(torch.from_numpy(sets))
        counts.append(len(sets))
    which = torch.tensor([unit[0] for unit in units]).repeat_interleave(torch.tensor(counts))
    parts = math.ceil(len(which) / batch)
    v = torch.cat(
        [
            log_odds(model(masked(at, sets)), labels[at])
            for at, sets in zip(which.tensor_split(parts), torch.cat(shown).tensor_split(parts))
        ]
    )
    if not v.isfinite().all():
        raise UserError("the model gives log odds that are not finite")
    delta = v[0::4] - v[1::4] - v[2::4] + v[3::4]
    return [each.mean().item() for each in delta.split([count // 4 for count in counts])]


def read_part(part: Path, setting: str, most: int) -> tuple[int, list[float]]:
    """How many units a part file holds, and their values; raises UserError."""
    try:
        with np.load(part) as file:
            found, values = str(file["setting"]), file["values"].tolist()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise UserError(f"cannot read {part}, damaged or written by something else; delete it to start anew") from None
    if found != setting or len(values) > most:
        raise UserError(f"{part} holds part of another measurement; delete it to start anew")
    return len(values), values


def write_part(part: Path, setting: str, values: list[float]) -> None:
    """Replace a part file."""
    new = part.with_suffix(".new.npz")
    np.savez(new, setting=setting, values=values)
    new.replace(part)
