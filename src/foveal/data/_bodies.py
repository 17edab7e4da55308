"""Bodies whose joints are marked, one in each sample: the contract of every format for keypoints."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ._objects import Marked, Objects, Problem
from ._pictures import Pictures
from ._skeleton import Joints


@dataclass(frozen=True)
class Crop:
    """Where a sample looks.

    Attributes:
        picture: place of its picture.
        body: place of its body among the objects of the picture; None for a box that a detector found.
        box: (x1, y1, x2, y2) in pixels of what a detector found; None for that of the body.
        label: kind of the body that a detector found.
        score: of the box.
    """

    picture: int
    body: int | None
    box: tuple[float, ...] | None = None
    label: int = 0
    score: float = 1.0


class Bodies(Pictures):
    """Bodies in pictures.

    Attributes:
        classes: names of the joints.
        joints: what is marked on each.
        categories: names of the kinds of bodies.
        category_ids: how the data numbers them; results are written with these numbers.
        crops: where each sample looks.
        problems: as those of ``Marked``.
    """

    joints: Joints
    categories: list[str]
    category_ids: list[int]
    crops: Sequence[Crop]
    problems: Sequence[Problem] = ()

    @property
    @abstractmethod
    def pictures(self) -> Pictures:
        """The pictures with all of their objects, as data for detection."""

    @abstractmethod
    def objects(self, picture: int) -> Objects:
        """All bodies of a picture, with ``keypoints``."""

    def truth(self, picture: int) -> dict[str, Any]:
        """What evaluation needs of a picture: ``image_id``, and of all of its bodies ``boxes`` [n, 4], ``labels``,
        ``crowd``, ``area`` [n], ``keypoints`` [n, K, 3]."""
        objects = self.objects(picture)
        names = ("image_id", "boxes", "labels", "crowd", "area", "keypoints")
        return {name: getattr(objects, name) for name in names}

    def __len__(self) -> int:
        return len(self.crops)

    def picture(self, index: int) -> Image.Image:
        return self.pictures.picture(self.crops[index].picture)

    def name(self, index: int) -> str:
        crop = self.crops[index]
        return f"{self.pictures.name(crop.picture)}, {f'box {index}' if crop.body is None else f'body {crop.body}'}"

    def at(self, crops: Sequence[Crop]) -> "Bodies":
        """The same pictures, looked at elsewhere."""
        other = copy(self)
        other.crops = crops
        return other

    def annotation(self, index: int) -> dict[str, Any]:
        """{"target": what is known of a body and its picture}.

        Returns:
            "box" [4] (x1, y1, x2, y2) in pixels; "keypoints" [K, 3]: x and y in pixels, 0 being the middle of the first
            one, and 0 where a joint is not marked, 1 where it is hidden, 2 where it is seen; without them for a box
            that a detector found; "body" and "score" of the crop; "label", place of its kind in ``categories``;
            "index"; and "truth", see ``truth``.
        """
        crop, truth = self.crops[index], self.truth(self.crops[index].picture)
        target: dict[str, Any] = {"index": index, "body": crop.body, "score": crop.score, "truth": truth}
        if crop.body is None:
            return {"target": target | {"box": np.array(crop.box, dtype=np.float32), "label": crop.label}}
        box, label, keypoints = (truth[name][crop.body] for name in ("boxes", "labels", "keypoints"))
        target |= {"box": box.astype(np.float32), "label": int(label), "keypoints": keypoints.astype(np.float32)}
        return {"target": target}


class MarkedBodies(Bodies):
    """Bodies in pictures that lie in files.

    Args:
        marked: the pictures and their objects, with joints. Samples look at every body of which a joint is marked,
            crowds excepted.
    """

    def __init__(self, marked: Marked):
        assert marked.joints is not None
        self.marked, self.joints, self.categories = marked, marked.joints, marked.classes
        self.category_ids, self.problems, self.mended = marked.category_ids, marked.problems, marked.mended
        self.classes, self.crops = list(self.joints.names), list(_visible(marked.objects))

    @property
    def pictures(self) -> Marked:
        return self.marked

    def objects(self, picture: int) -> Objects:
        return self.marked.objects[picture]


def _visible(pictures: Iterable[Objects]) -> Iterable[Crop]:
    for picture, objects in enumerate(pictures):
        if objects.keypoints is not None:
            there = (objects.keypoints[:, :, 2] > 0).any(1) & ~objects.crowd
            yield from (Crop(picture, int(body)) for body in np.flatnonzero(there))
