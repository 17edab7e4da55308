"""Pictures in which objects are marked: the contract of every format for detection."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import mul
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .._errors import UserError
from ._decode import BadImage, open_image, picture_size
from ._pictures import Pictures
from ._shapes import tight
from ._skeleton import Joints

EDGE = 1.0  # px by which a box may stick out of its picture: tools round differently; it is cut, and listed as mended
MAX_SIDE = 10**6  # px of a picture


@dataclass
class Objects:
    """The objects of one picture.

    Attributes:
        boxes: [n, 4], (x1, y1, x2, y2) in pixels.
        labels: [n], indices into the classes.
        crowd: [n], whether a box holds many objects: not trained on, and no miss nor false alarm in evaluation.
        area: [n] in square pixels; of the mask where there is one.
        segmentations: per object polygons [[x, y, x, y, ...], ...] or a run-length code {"size", "counts"}, as COCO has
            them, or None if it has no mask; None where no object of the picture has one.
        keypoints: of data for keypoints [n, K, 3]: x, y, and 0 where a joint is not marked, 1 where it is hidden, 2
            where it is seen; else None.
        image_id: how the data numbers the picture.
        size: (height, width) in pixels, as the data states it.
        places: in a COCO file, the place of the picture in its list and those of the objects in theirs.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    segmentations: list[Any] | None = None
    keypoints: np.ndarray | None = None
    image_id: int | str = 0
    size: tuple[int, int] | None = None
    places: tuple[int, list[int]] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def target(self) -> dict[str, Any]:
        """As a detector takes them; see ``Marked.annotation``."""
        return {
            "boxes": self.boxes.astype(np.float32).reshape(-1, 4),
            "labels": self.labels.astype(np.int64),
            "crowd": self.crowd.astype(bool),
            "area": self.area.astype(np.float32),
            "segmentations": self.segmentations,
            "image_id": self.image_id,
        }


@dataclass(frozen=True)
class Problem:
    """What is wrong with an annotation.

    Attributes:
        file: that holds it.
        where: line, key or id in it.
        reason: what is wrong, and what would be right.
    """

    file: Path
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.where}: {self.reason}"


class Unreadable(UserError):
    """A file of annotations of which nothing can be used, even if what is wrong may be skipped.

    Args:
        file, where, reason: as those of Problem.
        before: problems that were found before.
    """

    def __init__(self, file: Path, where: str, reason: str, before: Sequence[Problem] = ()):
        self.problem = Problem(file, where, reason)
        self.problems = [*before, self.problem]
        super().__init__(str(self.problem))


class Wrong(Exception):
    """Why an entry is left out; a reader makes it a Problem."""


class Mark(NamedTuple):
    """An object as a reader finds it; see ``Objects``."""

    box: Sequence[float]
    label: int
    crowd: bool = False
    area: float | None = None  # None for that of the box
    segmentation: Any = None
    keypoints: Sequence[float] | None = None  # x, y and visibility of each joint
    place: int = 0


@dataclass
class Marked(Pictures):
    """A list of pictures with their objects.

    Attributes:
        classes: names.
        paths: of the pictures.
        objects: of each picture.
        category_ids: how the data numbers its classes; results are written with these numbers.
        problems: what is wrong in the data. It was left out in reading, unless the reason says otherwise.
        mended: what was put right in reading: boxes cut at the picture's edge.
        file: the COCO file that it was read from, if it was one.
        joints: of data for keypoints.
    """

    classes: list[str]
    paths: Sequence[Path]
    objects: Sequence[Objects]
    category_ids: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    mended: list[Problem] = field(default_factory=list)
    file: Path | None = None
    joints: Joints | None = None

    def __post_init__(self):
        self.category_ids = self.category_ids or list(range(1, len(self.classes) + 1))

    def __len__(self) -> int:
        return len(self.objects)

    def picture(self, index: int) -> Image.Image:
        picture, size = open_image(self.paths[index]), self.objects[index].size
        if size not in (None, (picture.height, picture.width)):
            raise BadImage(
                self.paths[index], f"it is {picture.width}x{picture.height}, its annotation for {size[1]}x{size[0]}"
            )
        return picture

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def annotation(self, index: int) -> dict[str, Any]:
        """{"target": ``boxes`` [n, 4], ``labels``, ``crowd``, ``area`` [n], ``segmentations``, ``image_id``}."""
        return {"target": self.objects[index].target()}

    @property
    def has_masks(self) -> bool:
        """Whether there are objects, and each that is no crowd has a mask."""
        return any(len(objects) for objects in self.objects) and not self.without_mask()

    def without_mask(self) -> list[int]:
        """Pictures with an object, no crowd, that has no mask."""
        found = []
        for index, objects in enumerate(self.objects):
            masks = objects.segmentations or [None] * len(objects)
            if any(mask is None and not crowd for mask, crowd in zip(masks, objects.crowd)):
                found.append(index)
        return found

    def subset(self, indices: Sequence[int]) -> "Marked":
        """Some of the pictures, in the given order."""
        paths, objects = [self.paths[i] for i in indices], [self.objects[i] for i in indices]
        return replace(self, paths=paths, objects=objects)


def stop_at(problems: list[Problem], source: str) -> None:
    """Raise UserError for the first of some problems, and say how to see all of them."""
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise UserError(
            f"{problems[0]}{more}; foveal data check {source} lists them and can write a cleaned copy, "
            "--on-bad-image skip leaves them out"
        )


def read_text(file: Path) -> str:
    """The text of a file of annotations; raises UserError, or Unreadable if it is no text."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"no such file: {file}") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Unreadable(file, f"byte {error.start}", f"no text in UTF-8: {error.reason}") from None


def objects_of(marks: Sequence[Mark], image_id: int | str, size: tuple[int, int], place: int | None = None) -> Objects:
    """The objects of a picture, whose place is that in a COCO file."""
    boxes = np.array([mark.box for mark in marks], np.float64).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    area = [side[0] * side[1] if mark.area is None else mark.area for mark, side in zip(marks, sides)]
    masks = [mark.segmentation for mark in marks]
    keypoints = [mark.keypoints for mark in marks if mark.keypoints is not None]  # of all, or of none
    return Objects(
        boxes,
        np.array([mark.label for mark in marks], np.int64),
        np.array([mark.crowd for mark in marks], bool),
        np.array(area, np.float64),
        masks if any(mask is not None for mask in masks) else None,
        np.array(keypoints, np.float64).reshape(len(marks), -1, 3) if keypoints else None,
        image_id,
        size,
        None if place is None else (place, [mark.place for mark in marks]),
    )


def objects_seen(masks: list[np.ndarray], labels: Sequence[int], image_id: int, size: tuple[int, int]) -> Objects:
    """The objects of a picture that was drawn: boxes and areas are of the masks, bool [H, W], of what is seen."""
    area = np.array([np.count_nonzero(mask) for mask in masks], np.float64)
    boxes, crowd = tight(np.stack(masks)).astype(np.float64), np.zeros(len(masks), bool)
    return Objects(boxes, np.array(labels, np.int64), crowd, area, masks, image_id=image_id, size=size)


def fit_box(box: Sequence[float], size: tuple[int, int]) -> list[float]:
    """A box (x1, y1, x2, y2) within a picture of ``size`` (height, width), cut if it sticks out by ``EDGE`` at most.

    Raises:
        Wrong: it has no size, or sticks out by more.
    """
    (x1, y1, x2, y2), (H, W) = box, size
    if not np.float32(x2) > np.float32(x1) or not np.float32(y2) > np.float32(y1):  # as a detector sees them
        raise Wrong(f"the box is {x2 - x1:g} wide and {y2 - y1:g} high; both must be above 0")
    cut = [max(0, x1), max(0, y1), min(W, x2), min(H, y2)]
    inside = cut[2] > cut[0] and cut[3] > cut[1]
    if not inside or max(abs(a - b) for a, b in zip(box, cut)) > EDGE:
        raise Wrong(f"the box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) sticks out of the picture, which is {W}x{H}")
    return cut


def are_finite(values: Iterable[Any]) -> bool:
    """Whether all are numbers, and finite."""
    values = list(values)
    try:
        return {*map(type, values)} <= {int, float} and all(map(math.isfinite, values))
    except OverflowError:  # a whole number that no float can hold
        return False


def polygon_area(polygon: Sequence[float]) -> float:
    """In square pixels, of [x, y, x, y, ...] (the shoelace formula)."""
    x, y = polygon[::2], polygon[1::2]
    return abs(sum(map(mul, x, [*y[1:], y[0]])) - sum(map(mul, y, [*x[1:], x[0]]))) / 2


def size_problems(data: Marked) -> dict[int, Problem]:
    """By their place in ``data``, the pictures that cannot be opened, or whose size is not the stated one.

    Boxes are in pixels of the picture as it is stored: an orientation in EXIF is ignored.
    """
    found = {}
    for index, (path, objects) in enumerate(zip(data.paths, data.objects)):
        try:
            H, W = picture_size(path)
        except BadImage as error:
            reason = str(error).removeprefix(f"cannot read picture {path}: ")
            found[index] = Problem(path, f"image id {objects.image_id}", reason)
            continue
        if objects.size not in (None, (H, W)):
            h, w = objects.size
            turned = "; it may have been annotated as its EXIF orientation turns it" if (h, w) == (W, H) else ""
            reason = f"the picture is {W}x{H}, the annotation is for {w}x{h}{turned}"
            found[index] = Problem(path, f"image id {objects.image_id}", reason)
    return found


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """A mask, bool [H, W], from what ``Objects.segmentations`` holds for an object.

    Args:
        segmentation: bool [H, W], polygons, or a run-length code whose counts are a list or compressed.
        size: (H, W) in pixels.

    Raises:
        UserError: faster-coco-eval is not installed.
    """
    if isinstance(segmentation, np.ndarray):
        return segmentation
    return _codes().decode(run_length_code(segmentation, size)).astype(bool)


def run_length_code(segmentation: Any, size: Sequence[int]) -> dict[str, Any]:
    """COCO's compressed run-length code {"size", "counts"}; arguments and errors are those of ``decode_mask``."""
    if isinstance(segmentation, np.ndarray):
        return _codes().encode(np.asfortranarray(segmentation, dtype=np.uint8))
    if isinstance(segmentation, list):
        return _codes().merge(_codes().frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return _codes().frPyObjects(segmentation, *size)
    return segmentation


def _codes() -> Any:
    try:
        from faster_coco_eval.core import mask
    except ImportError:
        raise UserError("masks need faster-coco-eval: pip install 'foveal[coco]'") from None
    return mask
