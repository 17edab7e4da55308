"""Whether a file computes what the model does, in the file's own runtime."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from .._errors import first_line
from ..data import load_split
from ._target import Options, Runner, Target
from .prepare import BATCH, Prepared

AGREED = 0.99  # share of predictions that must be the same in float32: some lie at a threshold
NEAR = 0.05  # in other precisions, of scores and of the longer side, of detections that are the same
CERTAIN = 0.3  # score from which a detection counts in other precisions
SHARES = ((1.0, 1.0), (0.75, 1.0), (1.0, 1.25), (0.75, 0.6), (1.3, 0.9))  # of height and width, in unseen shapes
BATCHES = (1, 1, 2, 3, 1)
LEAST = 32  # pixels of a side: below no map of stride 32 is left


@dataclass
class Parity:
    """What came out of a comparison.

    Attributes:
        differences: of each output the largest, as a share of its largest value where that is above 1.
        agreed: the share of predictions that are the same: classes of pictures or pixels, places of joints, detections;
            None where there are none.
        shapes: that were run, [B, 3, H, W].
        failed: what a shape raised, if one did.
        tolerance: of the target; None where the task's own figure has to say.
    """

    tolerance: float | None
    differences: dict[str, float] = field(default_factory=dict)
    agreed: float | None = None
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    failed: str = ""

    @property
    def passed(self) -> bool:
        """Whether all shapes ran, and differ within the tolerance."""
        if self.failed:
            return False
        if self.tolerance is None:
            return all(np.isfinite(value) for value in self.differences.values())
        return max(self.differences.values()) <= self.tolerance and (self.agreed is None or self.agreed >= AGREED)

    def expected(self) -> str:
        """What would have passed, in one line."""
        if self.tolerance is None:
            return "expected finite outputs"
        return f"expected differences of at most {self.tolerance}, and {100 * AGREED:g} % to agree"

    def said(self) -> str:
        """In one line."""
        if self.failed:
            return self.failed
        parts = [f"{name} {value:.1e}" for name, value in self.differences.items()]
        agreed = "nothing was found" if self.agreed is None else f"{100 * self.agreed:.2f} % of predictions agree"
        return f"largest difference {', '.join(parts)}; {agreed}"


def shapes(size: tuple[int, int], free: Sequence[str]) -> list[tuple[int, int, int]]:
    """Batch, height and width: the traced ones, then five that were not, odd and not square, as far as they may."""
    height, width = size
    if "batch" not in free and "height" not in free:
        return [(1, height, width)] * 2
    found = [(BATCH if "batch" in free else 1, height, width)]
    for (h, w), batch in zip(SHARES, BATCHES):
        odd = max(int(h * height), LEAST) | 1, max(int(w * width), LEAST) | 1
        found.append((batch if "batch" in free else 1, *(odd if "height" in free else (height, width))))
    return found


def batches(
    pictures: Sequence[Image.Image], mean: Sequence[float], std: Sequence[float], wanted: Sequence[tuple[int, int, int]]
) -> list[np.ndarray]:
    """Pictures, one after the other, as images of the wanted shapes, normalised."""
    made, place = [], 0
    for batch, height, width in wanted:
        images = []
        for _ in range(batch):
            picture = pictures[place % len(pictures)].resize((width, height), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
            images.append(v2.functional.normalize(pixels, list(mean), list(std)))
            place += 1
        made.append(torch.stack(images).numpy())
    return made


def built_in(count: int) -> list[Image.Image]:
    """Pictures that come with the package."""
    data: Any = load_split(f"scenes:{count}", kind="detection")
    return [data.picture(index) for index in range(len(data))]


def compare(prepared: Prepared, target: Target, run: Runner, options: Options, pictures: list[Image.Image]) -> Parity:
    """Run a file at the traced shape and at five that it has not seen, beside the definition.

    Args:
        run: the file in its runtime.
        pictures: RGB; they are squeezed into each shape.
    """
    seen = prepared.source.preprocessing
    wanted = shapes(prepared.size, () if options.fixed else target.dynamic)
    return examined(
        prepared, run, batches(pictures, seen["mean"], seen["std"], wanted), target.tolerance[options.dtype]
    )


def examined(prepared: Prepared, run: Runner, images: Sequence[np.ndarray], tolerance: float | None) -> Parity:
    """A file beside the definition, on batches of normalised images [B, 3, H, W]."""
    parity, same, all_of_them = Parity(tolerance), 0, 0
    for batch in images:
        parity.shapes.append(batch.shape)
        expected = {name: value.numpy() for name, value in prepared.expected(torch.from_numpy(batch)).items()}
        try:
            got = run(batch)
        except Exception as error:  # runtimes have no base of their errors
            parity.failed = f"does not run at {'x'.join(map(str, batch.shape))}: {first_line(error)}"
            return parity
        if missing := [name for name in expected if name not in got]:
            parity.failed = f"has no output {', '.join(missing)}"
            return parity
        if prepared.counted:
            near, least = (NEAR, CERTAIN) if tolerance is None else (tolerance, 0.0)
            expected, got, both, either = paired(expected, got, near, near * max(batch.shape[2:]), least)
        else:
            both, either = agreement(prepared.source.task, expected, got)
        same, all_of_them = same + both, all_of_them + either
        for name, value in expected.items():
            if got[name].shape != value.shape:
                parity.failed = f"{name} is {list(got[name].shape)} and not {list(value.shape)} at {list(batch.shape)}"
                return parity
            parity.differences[name] = max(parity.differences.get(name, 0.0), difference(value, got[name]))
    parity.agreed = same / all_of_them if all_of_them else None
    return parity


def agreement(task: str, expected: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> tuple[int, int]:
    """How many predictions are the same, and how many there are, by outputs of one shape; raw detections have none."""
    name = {"classification": "logits", "segmentation": "logits", "keypoints": "heatmaps"}.get(task)
    if name is None or expected[name].shape != got[name].shape:
        return 0, 0
    if task == "keypoints":
        width = expected[name].shape[3]
        places = [
            np.stack(np.divmod(maps[name].reshape(*maps[name].shape[:2], -1).argmax(2), width))
            for maps in (expected, got)
        ]
        same = np.abs(places[0] - places[1]).max(0) <= 1  # the peak may lie between two
    else:
        same = expected[name].argmax(1) == got[name].argmax(1)
    return int(same.sum()), same.size


def difference(expected: np.ndarray, got: np.ndarray) -> float:
    """The largest, as a share of the largest expected value where that is above 1; infinite where one is not finite."""
    if not expected.size:
        return 0.0
    if not (np.isfinite(got).all() and np.isfinite(expected).all()):
        return float("inf")
    expected, got = expected.astype(np.float64), got.astype(np.float64)
    return float(np.abs(expected - got).max() / max(1.0, np.abs(expected).max()))


def paired(
    expected: dict[str, np.ndarray], got: dict[str, np.ndarray], scores: float, pixels: float, least: float = 0.0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int, int]:
    """Detections of both lists that are the same object, in one order, how many these are, and how many there are.

    Two are the same whose picture and label agree, whose scores differ by ``scores`` at most and whose corners by
    ``pixels``; the nearest of several. Those of a score of ``least`` and more are counted.
    """
    free, pairs, both = np.ones(len(got["scores"]), bool), [], 0
    for i, score in enumerate(expected["scores"]):
        same = free & (got["labels"] == expected["labels"][i]) & (got["pictures"] == expected["pictures"][i])
        distance, less = np.abs(got["boxes"] - expected["boxes"][i]).max(1, initial=0), np.abs(got["scores"] - score)
        cost = np.where(same & (distance <= pixels) & (less <= scores), distance / pixels + less / scores, np.inf)
        if len(cost) and np.isfinite(cost.min()):
            j = int(cost.argmin())
            free[j] = False
            pairs.append((i, j))
            both += score >= least
    rows, places = (np.array([pair[k] for pair in pairs], int) for k in (0, 1))
    either = max((scores >= least).sum() for scores in (expected["scores"], got["scores"]))
    return {n: v[rows] for n, v in expected.items()}, {n: v[places] for n, v in got.items()}, int(both), int(either)
