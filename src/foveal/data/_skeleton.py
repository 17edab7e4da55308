"""What is marked on a body: joints, which of them change sides in a mirror, and how far annotators scatter."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

COCO_SIGMAS = {  # by joint (Ronchi and Perona, 2017), without its side
    "nose": 0.026,
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}
OTHER_SIGMA = 0.079  # of joints that COCO does not have, as CrowdPose has it for head and neck
LOWER = ("hip", "knee", "ankle")
SIDE = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])")
OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}


@dataclass(frozen=True)
class Joints:
    """The joints of a kind of body, in the order in which they are marked; places in it are counted from 0.

    Attributes:
        names: of the joints.
        skeleton: pairs of places that a drawing connects.
        flip_pairs: pairs of places that change sides in a mirrored picture.
        sigmas: of each joint the standard deviation of object keypoint similarity, in units of the square root of the
            body's area.
    """

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...]
    flip_pairs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def mirrored(self) -> list[int]:
        """For each joint the place of the one that is seen there in a mirrored picture."""
        places = list(range(len(self.names)))
        for a, b in self.flip_pairs:
            places[a], places[b] = b, a
        return places

    @cached_property
    def lower(self) -> list[int]:
        """Places of the joints below the waist, by their names: hips, knees, ankles."""
        return [place for place, name in enumerate(self.names) if any(part in name.lower() for part in LOWER)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Joints":
        """The joints of ``to_dict``."""
        pairs = {name: tuple((a, b) for a, b in values[name]) for name in ("skeleton", "flip_pairs")}
        return cls(tuple(values["names"]), **pairs, sigmas=tuple(values["sigmas"]))


def pairs_of_sides(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Joints whose names differ in their side alone: left_eye and right_eye, LeftEye and RightEye, l_eye and r_eye."""
    places = {name.lower(): place for place, name in enumerate(names)}
    pairs = set()
    for name, place in places.items():
        other = places.get(SIDE.sub(lambda side: OTHER_SIDE[side[0]], name), place)
        if other != place:
            pairs.add((min(place, other), max(place, other)))
    return tuple(sorted(pairs))


def usual_sigmas(names: Sequence[str]) -> tuple[float, ...]:
    """COCO's sigmas of the joints that COCO has, and ``OTHER_SIGMA`` for others."""
    return tuple(COCO_SIGMAS.get(SIDE.sub("", name.lower()).strip("_- "), OTHER_SIGMA) for name in names)
