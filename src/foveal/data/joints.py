"""What happens to pictures of bodies: one is cut out, turned, resized, and its joints with it.

Joints (x, y) are 0 in the middle of the first pixel, as COCO has them, and boxes are 0 at its edge. Maps go between
edges, so that a mirrored picture has its joints at width - 1 - x, and nothing has to be shifted afterwards.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .._errors import UserError
from ._geometry import normalized, pixels
from ._shapes import PADDING, inverse, look, warped
from ._skeleton import Joints

HALF_PADDING = 1.5  # of the box around half of a body (Sun et al., 2019, their code)
HALF_JOINTS = 8  # marked joints above which half of a body may be shown
TURNED = 0.6  # share of pictures that are turned


@dataclass(kw_only=True)
class JointAugment:
    """What training does to bodies (Xiao et al., 2018, section 3.1, and their code).

    Attributes:
        hflip: probability of a mirrored picture.
        scale: standard deviation of the factor of a body's size, which stays within 1 - scale and 1 + scale.
        rotation: standard deviation in degrees, for 60 % of the pictures, of an angle up to twice as large.
        half_body: probability that only the upper or the lower half is shown, of a body with more than eight marked
            joints (Sun et al., 2019, HRNet, their code); needs joints named hip, knee or ankle.
    """

    hflip: float = 0.5
    scale: float = 0.3
    rotation: float = 40.0
    half_body: float = 0.3

    def __post_init__(self):
        for name in ("hflip", "half_body"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name.replace('_', '-')} must be in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.scale < 1:
            raise UserError(f"scale must be in [0, 1), got {self.scale}")
        if not 0 <= self.rotation <= 180:
            raise UserError(f"rotation must be in [0, 180] degrees, got {self.rotation}")


class JointTransform:
    """From a sample with an RGB picture and a box to one that ``stack_bodies`` takes.

    Args:
        size: height and width in pixels.
        mean, std: of each channel, of values from 0 to 1.
        joints: what is marked on a body.
        augment: what training does; None for evaluation.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        joints: Joints,
        augment: JointAugment | None,
    ):
        self.size, self.mean, self.std, self.joints, self.augment = size, mean, std, joints, augment
        self.fill = tuple(round(255 * value) for value in mean)  # about 0 when normalised

    def __call__(self, sample: dict, draw: Callable[[], dict]) -> dict:
        """{"image": RGB picture, "name", "target": as of ``Bodies``} -> what ``stack_bodies`` takes.

        Returns:
            "image" float32 [3, H, W], "matrix" [2, 3] from places in it to those in the picture, both in pixels from
            the edge, "name"; in training "positions" [K, 2] of the joints in the image, and "weights" [K], 1 for those
            that are marked and inside; in evaluation "target" as it was.
        """
        target = sample["target"]
        if self.augment is None:
            matrix, moved = look(target["box"].tolist(), self.size), {"target": target}
        else:
            matrix, mirrored = self._drawn(self.augment, target)
            moved = self._moved(np.asarray(target["keypoints"]), matrix, mirrored)
        seen = warped(sample["image"], matrix, self.size, self.fill)
        return {
            "image": normalized(pixels(seen), self.mean, self.std),
            "matrix": torch.from_numpy(matrix).float(),
            "name": sample["name"],
            **moved,
        }

    def _drawn(self, augment: JointAugment, target: dict[str, Any]) -> tuple[np.ndarray, bool]:
        """A random look, and whether the image is mirrored."""
        box, padding = target["box"].tolist(), PADDING
        if random.random() < augment.half_body:
            half = self._half(np.asarray(target["keypoints"]))
            if half is not None:
                box, padding = half, HALF_PADDING
        padding *= _clipped(1 + random.gauss(0, augment.scale), 1 - augment.scale, 1 + augment.scale)
        angle = _clipped(random.gauss(0, augment.rotation), -2 * augment.rotation, 2 * augment.rotation)
        matrix = look(box, self.size, padding, angle if random.random() < TURNED else 0.0)
        mirrored = random.random() < augment.hflip
        if mirrored:  # x becomes W - x before all else
            matrix[:, 2] += self.size[1] * matrix[:, 0]
            matrix[:, 0] *= -1
        return matrix, mirrored

    def _half(self, keypoints: np.ndarray) -> list[float] | None:
        """A box around the middle of the marked joints of the upper or the lower half; None if they are too few."""
        marked = keypoints[:, 2] > 0
        if marked.sum() <= HALF_JOINTS:
            return None
        below = np.zeros(len(keypoints), dtype=bool)
        below[self.joints.lower] = True
        upper, lower = keypoints[marked & ~below, :2], keypoints[marked & below, :2]
        chosen = upper if (random.random() < 0.5 and len(upper) > 2) or len(lower) <= 2 else lower
        reach = (chosen.max(0) - chosen.min(0)) / 2
        if reach.max() < 1:
            return None
        middle = chosen.mean(0) + 0.5
        return [*(middle - reach).tolist(), *(middle + reach).tolist()]

    def _moved(self, keypoints: np.ndarray, matrix: np.ndarray, mirrored: bool) -> dict[str, torch.Tensor]:
        """Positions and weights of joints in the image."""
        positions = inverse(matrix, keypoints[:, :2].astype(np.float64) + 0.5) - 0.5
        marked = keypoints[:, 2] > 0
        if mirrored:
            positions, marked = positions[self.joints.mirrored], marked[self.joints.mirrored]
        inside = (positions >= -0.5).all(1) & (positions < np.array(self.size[::-1]) - 0.5).all(1)
        return {
            "positions": torch.from_numpy(np.where((marked & inside)[:, None], positions, 0)).float(),
            "weights": torch.from_numpy(marked & inside).float(),
        }


def stack_bodies(samples: list[dict]) -> dict:
    """Samples of ``JointTransform`` -> a batch.

    Returns:
        "image" [B, 3, H, W], "matrix" [B, 2, 3], list "name", in training "positions" [B, K, 2] and "weights" [B, K],
        in evaluation list "target".
    """
    batch = {name: [sample[name] for sample in samples] for name in samples[0]}
    return {name: values if name in ("target", "name") else torch.stack(values) for name, values in batch.items()}


def _clipped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
