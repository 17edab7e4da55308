"""COCO's JSON: pictures with boxes, crowds, masks and keypoints (Lin et al., 2014).

=============================================== ======================================================================
an annotation file ``NAME.json``                pictures beside it, in ``images/`` beside it, or in ``root``
``annotations/instances_train*.json``, ``val*`` pictures in ``train*/`` and ``val*/``, which may be in ``images/``
``train/_annotations.coco.json``, ``valid/``    pictures beside them, as Roboflow exports them
=============================================== ======================================================================

A box that sticks out of its picture by one pixel at most is cut. A mask must be for a picture of the stated size and
lie within it, and its box must have an IoU of ``AGREE`` with the stated one.

Data for keypoints are read from ``person_keypoints_*.json`` in place of ``instances_*.json``. Classes are the
categories with a list of ``keypoints``, which all of them must have in common; objects of others are passed over. A
category may have, beside COCO's ``skeleton``, ``flip_pairs``, pairs of joints counted from 1, and ``sigmas``, a number
for each joint. Without them pairs are those whose names differ in left and right alone, and sigmas are those of COCO
for COCO's joints, and 0.079 for others.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import numpy as np

from .._errors import UserError, first_line, some
from ._bodies import Bodies, Crop, MarkedBodies
from ._objects import (
    EDGE,
    MAX_SIDE,
    Mark,
    Marked,
    Problem,
    Unreadable,
    Wrong,
    are_finite,
    fit_box,
    objects_of,
    polygon_area,
    read_text,
    stop_at,
)
from ._skeleton import Joints, pairs_of_sides, usual_sigmas

AGREE = 0.25  # IoU of bbox and the box of the mask, both a pixel wider on each side: less is another object's mask
LISTS = ("images", "annotations", "categories")
PREFIXES = ("instances_", "person_keypoints_")  # of annotation files, without and with keypoints


def is_coco(name: str) -> bool:
    """Whether a name is that of an annotation file, or of a folder with some."""
    return name.endswith(".json") or bool(Path(name).is_dir() and _files(Path(name)))


def is_coco_keypoints(name: str) -> bool:
    """``is_coco`` of data for keypoints."""
    return name.endswith(".json") or bool(Path(name).is_dir() and _files(Path(name), keypoints=True))


def coco(name: str, root: Path | None, skip: bool, keypoints: bool = False) -> tuple[Marked | None, Marked | None]:
    """Training and validation part; a single file is a training part.

    Args:
        name: an annotation file or a folder.
        root: the folder of a file's pictures.
        skip: leave out what is wrong, and list it as ``problems``; else the first of it raises.
        keypoints: read data for keypoints.

    Raises:
        UserError: no such file or folder, JSON that cannot be read, wrong annotations, no classes, no pictures.
    """
    path = Path(name)
    if not path.is_dir():
        return _checked(path, root, name, skip, keypoints), None
    if root is not None:
        raise UserError(f"--root has no effect on the folder {name}; it is for an annotation file")
    files = _files(path, keypoints)
    train, val = (
        _checked(files[part], None, name, skip, keypoints) if part in files else None for part in ("train", "val")
    )
    if train is not None and val is not None and train.classes != val.classes:
        odd = sorted({*train.classes} ^ {*val.classes}) or ["their order"]
        raise Unreadable(files["val"], "categories", f"they differ from those of {files['train']}: {', '.join(odd)}")
    if train is not None and val is not None and train.joints != val.joints:
        raise Unreadable(files["val"], "categories", f"their joints are not those of {files['train']}")
    return train, val


def coco_keypoints(name: str, root: Path | None, skip: bool) -> tuple[MarkedBodies | None, MarkedBodies | None]:
    """``coco`` of data for keypoints, with a body in each sample; arguments and errors are the same."""
    train, val = (None if part is None else MarkedBodies(part) for part in coco(name, root, skip, keypoints=True))
    return train, val


def _files(folder: Path, keypoints: bool = False) -> dict[str, Path]:
    """The annotation files of train and val in a folder."""
    found, prefix = {}, PREFIXES[keypoints]
    for part, roboflow in (("train", "train"), ("val", "valid")):
        files = sorted((folder / "annotations").glob(f"{prefix}{part}*.json"))
        files += (folder / roboflow).glob("_annotations.coco.json")
        if len(files) > 1:
            raise UserError(f"{folder} has several annotation files, name one: {', '.join(map(str, files))}")
        if files:
            found[part] = files[0]
    return found


def _checked(file: Path, root: Path | None, source: str, skip: bool, keypoints: bool) -> Marked:
    data = read_coco(file, root, keypoints)
    if not skip:
        stop_at(data.problems, source if root is None else f"{source} --root {root}")
    return data


def read_coco(file: Path, root: Path | None = None, keypoints: bool = False) -> Marked:
    """All that is right in an annotation file, and the problems of the rest.

    Classes are in the order of their ids.

    Args:
        file: COCO's JSON.
        root: the folder of its pictures, if they are not where the format has them.
        keypoints: read data for keypoints.

    Raises:
        UserError: it cannot be read, is no COCO JSON, has no classes, or none of its pictures is there; of data for
            keypoints also a malformed list of joints.
    """
    return _Reader(file, [root] if root is not None else _roots(file), keypoints).read(_load(file))


def write_coco(data: Marked, file: Path) -> None:
    """Write the pictures and objects of some data as an annotation file.

    What a COCO file has besides (licences, keypoints, ...) is copied from it. Pictures are named relative to the folder
    of ``file``. Annotation ids that come twice, and all ids of other formats, are numbered anew.

    Raises:
        UserError: it exists, or cannot be written.
    """
    source: dict[str, Any] = _load(data.file) if data.file is not None else {key: [] for key in LISTS}
    known = {_key(entry, "id"): entry for entry in reversed(source["categories"])}  # the first of an id
    categories = [{"id": i, "name": name} | known.get(i, {}) for i, name in zip(data.category_ids, data.classes)]
    images, annotations = [], []
    for number, (path, objects) in enumerate(zip(data.paths, data.objects), start=1):
        place, places = objects.places or (None, [])
        raw = {"id": number} if place is None else source["images"][place]
        H, W = objects.size or (None, None)
        images.append(raw | {"file_name": _relative(path, file.parent), "height": H, "width": W})
        for i, (x1, y1, x2, y2) in enumerate(objects.boxes.tolist()):
            entry: dict[str, Any] = dict(image_id=raw["id"], category_id=data.category_ids[objects.labels[i]])
            entry |= dict(bbox=[x1, y1, x2 - x1, y2 - y1], area=float(objects.area[i]), iscrowd=int(objects.crowd[i]))
            if place is not None:
                its = source["annotations"][places[i]]
                x, y, w, h = its["bbox"]
                entry |= its if [x, y, x + w, y + h] == [x1, y1, x2, y2] else its | {"bbox": entry["bbox"]}
            elif objects.segmentations is not None and objects.segmentations[i] is not None:
                entry["segmentation"] = objects.segmentations[i]
            annotations.append(entry)
    used = {entry["id"] for entry in annotations if "id" in entry}
    free, seen = (number for number in count(1) if number not in used), set()
    for entry in annotations:
        if "id" not in entry or entry["id"] in seen:
            entry["id"] = next(free)
        seen.add(entry["id"])
    content = source | {"images": images, "annotations": annotations, "categories": categories}
    if file.exists():
        raise UserError(f"{file} exists; nothing was overwritten")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "x", encoding="utf-8") as out:
            json.dump(content, out)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from None


class _Reader:
    """What is right and wrong in one file."""

    def __init__(self, file: Path, roots: Sequence[Path], keypoints: bool):
        self.file, self.roots, self.keypoints = file, roots, keypoints
        self.joints: Joints | None = None
        self.others: set[int] = set()  # ids of categories without joints, where these are read
        self.problems: list[Problem] = []
        self.mended: list[Problem] = []
        self.labels: dict[int, int] = {}  # by category id
        self.lost: dict[int | str, int] = {}  # by the id of an image that was left out, the place of its problem
        self.pictures: dict[int | str, dict[str, Any]] = {}  # by id
        self.paths: dict[int | str, Path] = {}
        self.places: dict[int | str, int] = {}

    def read(self, content: dict[str, list]) -> Marked:
        """The data of an object with the three lists."""
        names = self._categories(content["categories"], content["annotations"])
        if self.keypoints:
            names = self._bodies(names, content["categories"])
        self._images(content["images"])
        marks = self._annotations(content["annotations"])
        objects = []
        for image_id, picture in self.pictures.items():
            size = picture["height"], picture["width"]
            objects.append(objects_of(marks[image_id], image_id, size, self.places[image_id]))
        paths = [self.paths[image_id] for image_id in self.pictures]
        return Marked(names, paths, objects, list(self.labels), self.problems, self.mended, self.file, self.joints)

    def _wrong(self, where: str, reason: str) -> None:
        self.problems.append(Problem(self.file, where, reason))

    def _categories(self, entries: list, annotations: list) -> list[str]:
        """The names of the classes; of two with the same name the one that has objects is taken."""
        used = Counter(_key(entry, "category_id") for entry in annotations)
        found: dict[int, str] = {}
        for place, entry in enumerate(entries, start=1):
            where = f"category number {place}"
            number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
            if type(number) is not int or not isinstance(name, str) or not name.strip():
                self._wrong(where, f"expected an object with a whole number as id and a name, got {brief(entry)}")
            elif number in found:
                self._wrong(where, f"the id {number} is that of {found[number]} too; expected one of its own")
            else:
                found[number] = name
        taken: dict[str, int] = {}
        for number in sorted(found, key=lambda number: (not used[number], number)):
            if found[number] in taken:
                same = f"category id {taken[found[number]]} has the same name, {found[number]}"
                self._wrong(f"category id {number}", f"{same}; expected one of its own")
            else:
                taken[found[number]] = number
        if not taken:
            raise Unreadable(self.file, "categories", "there is none; expected one at least", self.problems)
        self.labels = {number: label for label, number in enumerate(sorted(taken.values()))}
        return [found[number] for number in self.labels]

    def _bodies(self, names: list[str], entries: list) -> list[str]:
        """The names of the classes that have joints, which all must have in common."""
        found: dict[int, Any] = {}
        for entry in entries:
            number = _key(entry, "id")
            if number in self.labels and number not in found and entry.get("keypoints", []) != []:
                found[number] = entry
        if not found:
            reason = "none has a list of keypoints, the names of its joints"
            raise Unreadable(self.file, "categories", reason, self.problems)
        for number, entry in found.items():
            try:
                joints = read_joints(entry)
                if self.joints not in (None, joints):
                    raise Wrong("its joints are not those of the other categories; expected one kind of body")
            except Wrong as error:
                raise Unreadable(self.file, f"category id {number}", str(error), self.problems) from None
            self.joints = joints
        self.others = self.labels.keys() - found.keys()
        kept = [number for number in self.labels if number in found]
        names = [names[self.labels[number]] for number in kept]
        self.labels = {number: label for label, number in enumerate(kept)}
        return names

    def _images(self, entries: list) -> None:
        files: dict[Any, int | str] = {}
        num_missing = 0
        for place, entry in enumerate(entries):
            image_id = _key(entry, "id")
            if image_id is None:
                self._wrong(f"image number {place + 1}", f"it has no id; expected a number, got {brief(entry)}")
                continue
            name = entry.get("file_name")
            where = f"image id {image_id}" + (f" (file {name})" if isinstance(name, str) else "")
            if image_id in self.pictures and self.pictures[image_id].get("file_name") == name:
                self._wrong(where, "this picture was there before")
                continue
            if image_id in self.pictures or image_id in self.lost:
                files.pop(self.pictures.pop(image_id, {}).get("file_name"), None)
                self._lose(image_id, where, "another picture has this id too; both are left out")
                continue
            try:
                self.paths[image_id] = self._path(name)
                sides = entry.get("height"), entry.get("width")
                if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
                    shown = " and ".join(map(brief, sides))
                    raise Wrong(f"height and width must be whole numbers from 1 to {MAX_SIDE}, got {shown}")
                if name in files:
                    raise Wrong(f"this file is also that of image id {files[name]}")
            except Wrong as error:
                self._lose(image_id, where, str(error))
            except FileNotFoundError:
                num_missing += 1
                self._lose(image_id, where, f"no such picture in {' or '.join(map(str, self.roots))}")
            else:
                self.pictures[image_id], self.places[image_id], files[name] = entry, place, image_id
        if num_missing and num_missing == len(entries):
            where = " or ".join(map(str, self.roots))
            raise UserError(f"{self.file}: none of its {num_missing} pictures is in {where}; --root names their folder")

    def _lose(self, image_id: int | str, where: str, reason: str) -> None:
        self._wrong(where, reason)
        self.lost.setdefault(image_id, len(self.problems) - 1)

    def _path(self, name: Any) -> Path:
        if not isinstance(name, str) or not name or "\0" in name:
            raise Wrong(f"file_name must be text, got {brief(name)}")
        for root in self.roots:
            if (root / name).is_file():
                return root / name
        raise FileNotFoundError

    def _annotations(self, entries: list) -> dict[int | str, list[Mark]]:
        """Objects by the id of their image."""
        marks: dict[int | str, list[Mark]] = {image_id: [] for image_id in self.pictures}
        before: dict[Any, dict] = {}
        lost = Counter()
        for place, entry in enumerate(entries):
            number, image_id = _key(entry, "id"), _key(entry, "image_id")
            if image_id in self.lost:
                lost[image_id] += 1
                continue
            if _key(entry, "category_id") in self.others:
                continue
            where = f"annotation number {place + 1}" if number is None else f"annotation id {number}"
            if image_id in self.pictures:
                where += f" (image id {image_id}, file {self.pictures[image_id]['file_name']})"
            try:
                mark = self._mark(entry, place, where)
            except Wrong as error:
                self._wrong(where, str(error))
                continue
            if number in before:
                if before[number] == entry:
                    self._wrong(where, "the same annotation was there before")
                    continue
                self._wrong(where, "another annotation has this id too; both are kept, for ids are not used")
            before[number] = entry
            marks[image_id].append(mark)
        for image_id, number in lost.items():
            problem = self.problems[self.lost[image_id]]
            reason = f"{problem.reason}; its objects are left out with it: {number}"
            self.problems[self.lost[image_id]] = replace(problem, reason=reason)
        return marks

    def _mark(self, entry: Any, place: int, where: str) -> Mark:
        """An annotation as an object; raises Wrong."""
        if not isinstance(entry, dict):
            raise Wrong(f"expected an object with id, image_id, category_id and bbox, got {brief(entry)}")
        for name in ("id", "image_id"):
            if _key(entry, name) is None:
                raise Wrong(f"{name} must be a whole number, got {brief(entry.get(name))}")
        if entry["image_id"] not in self.pictures:
            raise Wrong(f"no image has the id {brief(entry['image_id'])}")
        category = entry.get("category_id")
        if type(category) is not int:
            raise Wrong(f"category_id must be a whole number, got {brief(category)}")
        if category not in self.labels:
            raise Wrong(f"no category has the id {category}, or it is wrong; expected one of {brief([*self.labels])}")
        crowd = entry.get("iscrowd", 0)
        if type(crowd) is not int or crowd not in (0, 1):
            raise Wrong(f"iscrowd must be 0 or 1, got {brief(crowd)}")
        if "area" in entry and not (are_finite([entry["area"]]) and entry["area"] >= 0):
            raise Wrong(f"area must be a number of square pixels, got {brief(entry['area'])}")
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not are_finite(box):
            raise Wrong(f"bbox must be four finite numbers, x, y, width and height, got {brief(box)}")
        picture = self.pictures[entry["image_id"]]
        size = picture["height"], picture["width"]
        x, y, w, h = box
        fitted = fit_box((x, y, x + w, y + h), size)
        mask = entry.get("segmentation") or None
        area = None if mask is None else check_mask(mask, size, fitted)
        keypoints = None if self.joints is None else check_keypoints(entry, self.joints, size)
        if fitted != [x, y, x + w, y + h]:
            self.mended.append(
                Problem(self.file, where, f"bbox {box} is cut at the edge of the picture, {size[1]}x{size[0]}")
            )
        return Mark(fitted, self.labels[category], crowd == 1, entry.get("area", area), mask, keypoints, place)


def read_joints(category: dict[str, Any]) -> Joints:
    """The joints of a category; raises Wrong."""
    names = category["keypoints"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise Wrong(f"keypoints must be a list of names, got {brief(names)}")
    if len({*names}) < len(names):
        raise Wrong(f"two of its keypoints are called {next(n for n in names if names.count(n) > 1)}")
    skeleton = _pairs("skeleton", category.get("skeleton", []), len(names))
    flip_pairs = pairs_of_sides(names)
    if "flip_pairs" in category:
        flip_pairs = _pairs("flip_pairs", category["flip_pairs"], len(names))
        if len({*chain(*flip_pairs)}) < 2 * len(flip_pairs):
            raise Wrong("a joint is in two of its flip_pairs, or with itself in one")
    sigmas = category.get("sigmas", [*usual_sigmas(names)])
    if not isinstance(sigmas, list) or len(sigmas) != len(names) or not are_finite(sigmas) or min(sigmas) <= 0:
        raise Wrong(f"sigmas must be {len(names)} numbers above 0, got {brief(sigmas)}")
    return Joints(tuple(names), skeleton, flip_pairs, tuple(map(float, sigmas)))


def _pairs(name: str, given: Any, num_joints: int) -> tuple[tuple[int, int], ...]:
    """Pairs of joints, which a file counts from 1; raises Wrong."""
    numbers = range(1, num_joints + 1)
    pairs = given if isinstance(given, list) else [given]
    for pair in pairs:
        fits = isinstance(pair, list) and len(pair) == 2 and {*map(type, pair)} == {int}
        if not fits or not all(number in numbers for number in pair):
            raise Wrong(f"{name} must be pairs of joints, with numbers from 1 to {num_joints}, got {brief(pair)}")
    return tuple((a - 1, b - 1) for a, b in pairs)


def check_keypoints(entry: dict[str, Any], joints: Joints, size: tuple[int, int]) -> list[float]:
    """x, y and visibility of each joint of an annotation, in one list; raises Wrong."""
    (H, W) = size
    values: Any = entry.get("keypoints")
    if values is None and entry.get("iscrowd") == 1:
        values = [0] * 3 * len(joints)
    if not isinstance(values, list) or not are_finite(values):
        raise Wrong(f"keypoints must be a list of finite numbers, got {brief(values)}")
    if len(values) != 3 * len(joints):
        raise Wrong(f"keypoints has {len(values)} numbers; expected x, y and visibility of {len(joints)} joints")
    for name, x, y, seen in zip(joints.names, values[::3], values[1::3], values[2::3]):
        if seen not in (0, 1, 2):
            raise Wrong(f"the visibility of {name} is {seen:g}; expected 0 (not marked), 1 (hidden) or 2 (seen)")
        if seen and not (-EDGE <= x <= W + EDGE and -EDGE <= y <= H + EDGE):
            raise Wrong(f"{name} at ({x:g}, {y:g}) is out of the picture, which is {W}x{H}")
    return values


def check_mask(mask: Any, size: tuple[int, int], box: Sequence[float]) -> float:
    """The area in square pixels of polygons or of a run-length code.

    Args:
        mask: as COCO's segmentation has it.
        size: height and width of the picture.
        box: (x1, y1, x2, y2) of the object.

    Raises:
        Wrong: it is malformed, for a picture of another size, outside of it, empty, or elsewhere than the box.
    """
    if isinstance(mask, list):
        own, area = _of_polygons(mask, size)
    elif isinstance(mask, dict):
        own, area = _of_runs(mask, size)
    else:
        raise Wrong(f"segmentation must be polygons or a run-length code, got {brief(mask)}")
    if _iou(own, box) < AGREE:
        places = " and ".join("(" + ", ".join(f"{v:g}" for v in corners) + ")" for corners in (own, box))
        raise Wrong(f"the mask is elsewhere than bbox: their corners are {places}")
    return area


def _of_polygons(polygons: list, size: tuple[int, int]) -> tuple[list[float], float]:
    """Box and area."""
    (H, W), area = size, 0.0
    x1 = y1 = math.inf
    x2 = y2 = -math.inf
    for polygon in polygons:
        if not isinstance(polygon, list) or not are_finite(polygon):
            raise Wrong(f"a polygon must be a list of finite numbers, got {brief(polygon)}")
        if len(polygon) < 6 or len(polygon) % 2:
            raise Wrong(f"a polygon has {len(polygon)} numbers; expected three pairs of x and y or more")
        x1, x2 = min(x1, min(polygon[::2])), max(x2, max(polygon[::2]))
        y1, y2 = min(y1, min(polygon[1::2])), max(y2, max(polygon[1::2]))
        if min(x1, y1) < -EDGE or x2 > W + EDGE or y2 > H + EDGE:
            raise Wrong(f"the mask sticks out of the picture, which is {W}x{H}: {brief([x1, y1, x2, y2])}")
        area += polygon_area(polygon)
    return [x1, y1, x2, y2], area


def _of_runs(code: dict, size: tuple[int, int]) -> tuple[list[float], float]:
    """Box and area."""
    (H, W), counts = size, code.get("counts")
    if code.get("size") != [H, W]:
        raise Wrong(f"the mask is for height and width {brief(code.get('size'))}, the picture has [{H}, {W}]")
    if isinstance(counts, str):
        runs = run_lengths(counts)
    elif isinstance(counts, list) and {*map(type, counts)} <= {int} and all(0 <= v <= H * W for v in counts):
        runs = np.array(counts, np.int64)
    else:
        raise Wrong(f"the mask's counts must be whole numbers up to {H * W}, or text, got {brief(counts)}")
    if runs.sum() != H * W:
        raise Wrong(f"the mask's counts add up to {runs.sum()} pixels, the picture has {H * W}")
    ends = runs.cumsum()[1::2]
    starts, ends = (ends - runs[1::2])[runs[1::2] > 0], ends[runs[1::2] > 0]
    if not len(starts):
        raise Wrong("the mask has no pixel")
    # runs go down the columns; one that reaches into the next touches both edges
    whole = starts // H != (ends - 1) // H
    y1, y2 = np.where(whole, 0, starts % H).min(), np.where(whole, H, (ends - 1) % H + 1).max()
    return [float(v) for v in (starts[0] // H, y1, (ends[-1] - 1) // H + 1, y2)], float((ends - starts).sum())


def run_lengths(counts: str) -> np.ndarray:
    """The run lengths of a compressed code: five bits a character, the third and later as differences to the one before
    the last (COCO API, maskApi.c); raises Wrong."""
    try:
        bits = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        bits = np.array([-1])
    ends = np.flatnonzero(bits & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if not bits.size or bits.min() < 0 or bits.max() > 63 or bits[-1] & 32 or (ends - starts).max() > 6:
        raise Wrong(f"the mask's counts are no compressed run-length code: {brief(counts)}")
    shift = 5 * (np.arange(bits.size) - np.repeat(starts, ends - starts + 1))
    runs = np.add.reduceat((bits & 31) << shift, starts)
    runs -= (bits[ends] & 16 > 0).astype(np.int64) << shift[ends] + 5  # the sign
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    if runs.min() < 0:
        raise Wrong(f"the mask's counts have a negative length: {brief(counts)}")
    return runs


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU of two boxes, each a pixel wider on every side."""
    w, h = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 2 for i in (0, 1))
    inter = max(0, w) * max(0, h)
    sizes = ((box[2] - box[0] + 2) * (box[3] - box[1] + 2) for box in (a, b))
    return inter / (sum(sizes) - inter)


def _roots(file: Path) -> list[Path]:
    """Where the pictures of an annotation file may lie, the likeliest first."""
    folder = file.parent
    if folder.name != "annotations":
        return [folder, folder / "images"]
    part = file.stem.removeprefix(PREFIXES[0]).removeprefix(PREFIXES[1])
    return [folder.parent / part, folder.parent / "images" / part, folder, folder / "images"]


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.parent.resolve() / path.name, folder.resolve())).as_posix()


def coco_crops(file: Path, bodies: Bodies) -> list[Crop]:
    """Where COCO's results of a detector are, in the pictures that the data has; best ones come first in each.

    Raises:
        UserError: it cannot be read, is no list of results, or has none of the pictures.
    """
    content: Any = _json(file)
    if not isinstance(content, list):
        raise UserError(f"{file} holds no results of a detector: expected a list of objects")
    places = {bodies.objects(picture).image_id: picture for picture in range(len(bodies.pictures))}
    kinds = {number: label for label, number in enumerate(bodies.category_ids)}
    crops = []
    for number, entry in enumerate(content, start=1):
        picture, kind = (names.get(_key(entry, name)) for names, name in ((places, "image_id"), (kinds, "category_id")))
        if picture is None or kind is None:
            continue
        box, score = entry.get("bbox"), entry.get("score")
        if not isinstance(box, list) or len(box) != 4 or not are_finite(box) or min(box[2:]) <= 0:
            what = "bbox must be four finite numbers, x, y, width and height, the latter above 0"
            raise UserError(f"{file}: result number {number}: {what}, got {brief(box)}")
        if not are_finite([score]):
            raise UserError(f"{file}: result number {number}: score must be a number, got {brief(score)}")
        x, y, w, h = box
        crops.append(Crop(picture, None, (x, y, x + w, y + h), kind, float(score)))
    if not crops:
        raise UserError(f"{file} has no box of {some(bodies.categories, 4)} in any of the pictures")
    return sorted(crops, key=lambda crop: (crop.picture, -crop.score))


def _load(file: Path) -> dict[str, Any]:
    """An object with the three lists."""
    content: Any = _json(file)
    missing = [name for name in LISTS if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if missing:
        raise Unreadable(file, "content", f"no COCO JSON: it lacks the lists {', '.join(missing)}")
    return content


def _json(file: Path) -> Any:
    """What a file holds; raises Unreadable."""
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        cut = "; the file ends too early" if not error.doc[error.pos :].strip() or "Unterminated" in error.msg else ""
        raise Unreadable(file, f"line {error.lineno}, column {error.colno}", f"no JSON: {error.msg}{cut}") from None
    except (RecursionError, ValueError) as error:
        raise Unreadable(file, "content", f"no COCO JSON: {first_line(error)}") from None


def _key(entry: Any, name: str) -> Any:
    """An id in an entry; None if it has none."""
    value = entry.get(name) if isinstance(entry, dict) else None
    return value if type(value) in (int, str) else None
