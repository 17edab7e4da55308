"""YOLO's text files: a YAML file that names classes and pictures, and a file of objects for each picture.

========== ==============================================================================================
``names``  list of classes, or classes by number
``path``   folder of the data, relative to that of the YAML file; not needed
``train``  folder of pictures, list of pictures (.txt, relative to its own folder), or several of these, in ``path``
``val``    the same
========== ==============================================================================================

The objects of ``images/a/b.jpg`` are in ``labels/a/b.txt``, or in ``b.txt`` beside the picture; one without such a file
has none. A line is ``class x y w h``, centre and size as shares of the picture's width and height, or
``class x y x y x y ...``, the corners of a mask. A box that sticks out of its picture by one pixel at most is cut.
Pictures that EXIF turns are refused: tools that write such files disagree whether shares are those of the turned one.
"""

from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from .._errors import UserError, first_line
from ._decode import BadImage, orientation, picture_size
from ._objects import (
    Mark,
    Marked,
    Objects,
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
from ._pictures import SUFFIXES, picture_files

NAME = "data.yaml"  # of the YAML file in a folder
NO_LABELS = "classes.txt"  # which labelling tools leave among the labels
AMBIGUOUS = "those of the picture as it is stored or turned; store it upright, without the entry"


def is_yolo(name: str) -> bool:
    """Whether a name is that of a YAML file, or of a folder with one."""
    return name.endswith((".yaml", ".yml")) or (Path(name) / NAME).is_file()


def yolo(name: str, root: Path | None, skip: bool) -> tuple[Marked | None, Marked | None]:
    """Training and validation part; None for one that the YAML file does not name.

    Args:
        name: a YAML file, or a folder with data.yaml.
        root: the folder of the data, in place of ``path``.
        skip: leave out what is wrong, and list it as ``problems``; else the first of it raises.

    Raises:
        UserError: no such file, YAML that cannot be read, wrong annotations, no classes, no pictures.
    """
    file = Path(name) / NAME if Path(name).is_dir() else Path(name)
    content = _load(file)
    classes = _classes(file, content)
    if root is None:
        root, source = file.parent / str(content.get("path") or "."), name
    else:
        source = f"{name} --root {root}"
    train, val = (_Reader(file, root, part, classes).read(content.get(part)) for part in ("train", "val"))
    if train is None and val is None:
        raise Unreadable(file, "train", "neither train nor val is given; expected a folder or a list of pictures")
    for data in (train, val):
        if data is not None and not skip:
            stop_at(data.problems, source)
    return train, val


class _Reader:
    """What is right and wrong in one part."""

    def __init__(self, file: Path, root: Path, part: str, classes: dict[int, str]):
        self.file, self.root, self.part, self.classes = file, root, part, classes
        self.labels = {number: label for label, number in enumerate(classes)}
        self.problems: list[Problem] = []
        self.mended: list[Problem] = []

    def read(self, given: Any) -> Marked | None:
        """The data of ``train`` or ``val``; None if it is empty."""
        if not given:
            return None
        paths, objects, num_files = [], [], 0
        for path, source, where in self._pictures(given):
            file = next((file for file in label_files(path) if file.is_file()), None)
            try:
                objects.append(self._objects(path, file))
            except BadImage as error:
                self.problems.append(Problem(source, where, str(error)))
            except UnicodeDecodeError as error:
                self._unread(file, f"it is no text in UTF-8: {error.reason}")
            except OSError as error:
                self._unread(file, f"it cannot be read: {error.strerror}")
            else:
                paths.append(path)
                num_files += file is not None
        if not paths:
            raise Unreadable(
                self.file, self.part, f"no pictures ({', '.join(SUFFIXES)}) in {brief(given)}", self.problems
            )
        if not num_files:
            where = " or ".join(map(str, label_files(paths[0])))
            raise Unreadable(
                self.file, self.part, f"none of its pictures has a file of objects; expected {where}", self.problems
            )
        return Marked([*self.classes.values()], paths, objects, [*self.classes], self.problems, self.mended)

    def _unread(self, file: Path | None, reason: str) -> None:
        self.problems.append(Problem(file or self.file, "file", f"{reason}; its picture is left out"))

    def _pictures(self, given: Any) -> Iterator[tuple[Path, Path, str]]:
        """Each picture once, with the file that names it and the place in that."""
        seen: set[Path] = set()
        for entry in given if isinstance(given, list) else [given]:
            if not isinstance(entry, str):
                raise Unreadable(self.file, self.part, f"expected a folder or a list of pictures, got {brief(entry)}")
            place = self.root / entry
            if not place.exists() and entry.startswith("../"):  # as in Roboflow's files, where it means ./
                place = self.root / entry.removeprefix("../")
            if place.is_dir():
                found = [(path, self.file, self.part) for path in picture_files(place.rglob("*"))]
                self._check_labels(place, [path for path, *_ in found])
            elif place.is_file() and place.suffix == ".txt":
                found = [(path, place, f"line {number}") for number, path in _listed(place)]
            else:
                raise Unreadable(
                    self.file, self.part, f"no such folder or list (.txt): {place}; --root names the data's"
                )
            for path, source, where in found:
                if path in seen:
                    self.problems.append(Problem(source, where, f"the picture {path} was there before"))
                else:
                    seen.add(path)
                    yield path, source, where

    def _check_labels(self, folder: Path, paths: list[Path]) -> None:
        """List the files of objects that have no picture."""
        labels = label_files(folder / "any")[0].parent
        if labels == folder:
            return
        expected = {label_files(path)[0] for path in paths} | {labels / NO_LABELS}
        for file in sorted({*labels.rglob("*.txt")} - expected):
            self.problems.append(Problem(file, "file", f"its picture is missing in {folder}"))

    def _objects(self, path: Path, file: Path | None) -> Objects:
        """The objects of a picture; raises BadImage, OSError or UnicodeDecodeError."""
        size, marks = picture_size(path), []
        before: dict[tuple[str, ...], int] = {}
        lines = file.read_text(encoding="utf-8-sig").splitlines() if file is not None else []
        for number, line in enumerate(lines, start=1):
            if not (words := tuple(line.split())):
                continue
            try:
                mark, box = self._mark(words, size)
                if before.setdefault(words, number) != number:
                    raise Wrong(f"the same object is in line {before[words]}")
            except Wrong as error:
                self.problems.append(Problem(file or path, f"line {number}", str(error)))
                continue
            if any(abs(a - b) > 1e-3 for a, b in zip(mark.box, box)):  # px; more than six digits round
                reason = f"the box {brief(box)} is cut at the edge of the picture, {size[1]}x{size[0]}"
                self.mended.append(Problem(file or path, f"line {number}", reason))
            marks.append(mark)
        if marks and (turned := orientation(path)) in range(2, 9):
            raise BadImage(path, f"its EXIF orientation is {turned}, and its objects may be {AMBIGUOUS}")
        name = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        return objects_of(marks, name.as_posix(), size)

    def _mark(self, words: tuple[str, ...], size: tuple[int, int]) -> tuple[Mark, list[float]]:
        """An object, and its box (x1, y1, x2, y2) before it was cut; raises Wrong."""
        H, W = size
        try:
            number, *values = map(float, words)
        except ValueError as error:
            raise Wrong(f"{error}; expected numbers alone") from None
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise Wrong(f"{len(words)} numbers; expected class x y w h, or class and three pairs of x and y or more")
        if not are_finite([number, *values]):
            raise Wrong("expected finite numbers")
        if number not in self.labels:
            raise Wrong(f"no class has the number {words[0]}; expected one of {brief([*self.labels])}")
        label, mask, area = self.labels[int(number)], None, None
        if len(values) == 4:
            x, y, w, h = values[0] * W, values[1] * H, values[2] * W, values[3] * H
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        else:
            polygon = [value * side for value, side in zip(values, [W, H] * (len(values) // 2))]
            box = [min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])]
            mask, area = [polygon], polygon_area(polygon)
        try:
            return Mark(fit_box(box, size), label, False, area, mask), box
        except Wrong as error:
            pixels = "; values are shares of the picture's sides, not pixels" if max(values) > 2 else ""
            raise Wrong(f"{error}{pixels}") from None


def label_files(path: Path) -> list[Path]:
    """Where the objects of a picture may be: below the folder ``labels`` in place of ``images``, or beside it."""
    beside = path.parent / f"{path.stem}.txt"
    parts = list(beside.parts[:-1])
    if "images" not in parts:
        return [beside]
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return [Path(*parts, beside.name), beside]


def _listed(file: Path) -> list[tuple[int, Path]]:
    """Line and path of each picture of a list."""
    lines = enumerate(read_text(file).splitlines(), start=1)
    return [(number, file.parent / line.strip()) for number, line in lines if line.strip()]


def _classes(file: Path, content: dict) -> dict[int, str]:
    """Names of the classes by their numbers, in the order of these."""
    names = content.get("names")
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict) or not names:
        raise Unreadable(
            file, "names", f"expected a list of the classes' names, or names by number, got {brief(names)}"
        )
    for number, name in names.items():
        if type(number) is not int or number < 0:
            raise Unreadable(file, "names", f"the number of a class must be whole and 0 or above, got {brief(number)}")
        if type(name) not in (str, int) or not str(name).strip():
            raise Unreadable(file, "names", f"the name of class {number} must be text, in quotes, got {brief(name)}")
    classes = {number: str(names[number]) for number in sorted(names)}
    twice = [name for name in classes.values() if [*classes.values()].count(name) > 1]
    if twice:
        raise Unreadable(file, "names", f"the class {twice[0]} is there twice")
    if content.get("nc", len(classes)) != len(classes):
        raise Unreadable(file, "nc", f"expected {len(classes)}, the number of names, got {brief(content['nc'])}")
    if "kpt_shape" in content:
        raise Unreadable(file, "kpt_shape", "data of key points; expected boxes or masks alone")
    return classes


def _load(file: Path) -> dict:
    try:
        import yaml
    except ModuleNotFoundError:  # where exported files run without the rest of the dependencies
        raise UserError(f"{file} needs PyYAML: pip install pyyaml") from None
    try:
        content = yaml.safe_load(read_text(file))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "content"
        raise Unreadable(file, where, f"no YAML: {error.problem or error.context}") from None
    except (RecursionError, ValueError, yaml.YAMLError) as error:
        raise Unreadable(file, "content", f"no YAML: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise Unreadable(file, "content", f"expected the keys names, train and val, got {brief(content)}")
    return content
