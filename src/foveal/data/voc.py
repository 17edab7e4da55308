"""Pascal VOC's XML (Everingham et al., 2010): a folder with Annotations/, JPEGImages/ and ImageSets/Main/.

Coordinates count pixels from 1 and include both ends: 1 is subtracted from ``xmin`` and ``ymin``, as readers of the
development kit do, and ``xmax`` and ``ymax`` are the far edges. Tools that count from 0 leave a box a pixel larger; one
that sticks out of its picture by that pixel is cut, and equal coordinates are taken for a slip. Objects marked as
difficult are crowds: not trained on, and no miss nor false alarm in evaluation, as in that of VOC.

Classes are those that occur, in alphabetical order.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as brief
from typing import Any
from xml.parsers import expat

from .._errors import UserError
from ._objects import MAX_SIDE, Mark, Marked, Problem, Unreadable, Wrong, fit_box, objects_of, read_text, stop_at
from ._pictures import SUFFIXES, class_order

MAX_BYTES = 16 * 2**20  # of an annotation
PARTS = (("train", "trainval"), ("val", "test"))  # lists of train and val, the first that there is


def is_voc(name: str) -> bool:
    """Whether a name is that of a folder with Annotations/."""
    return (Path(name) / "Annotations").is_dir()


def voc(name: str, root: Path | None, skip: bool) -> tuple[Marked | None, Marked | None]:
    """Training part, of train.txt or trainval.txt, and validation part, of val.txt or test.txt.

    Without such lists all pictures are the training part.

    Args:
        name: the folder.
        root: must be None.
        skip: leave out what is wrong, and list it as ``problems``; else the first of it raises.

    Raises:
        UserError: wrong annotations, no objects.
    """
    if root is not None:
        raise UserError(f"--root has no effect on the folder {name}; its pictures are in JPEGImages")
    folder = Path(name)
    main = folder / "ImageSets" / "Main"
    lists = [next((main / f"{n}.txt" for n in names if (main / f"{n}.txt").is_file()), None) for names in PARTS]
    if lists == [None, None]:
        readers = [_Reader(folder, None), None]
    else:
        readers = [_Reader(folder, file) if file is not None else None for file in lists]
    classes = class_order(name for reader in readers if reader is not None for name in reader.classes())
    if not classes:
        problems = [problem for reader in readers if reader is not None for problem in reader.problems]
        raise Unreadable(folder / "Annotations", "objects", "there are none, so there are no classes", problems)
    train, val = (reader.result(classes) if reader is not None else None for reader in readers)
    for data in (train, val):
        if data is not None and not skip:
            stop_at(data.problems, name)
    return train, val


@dataclass
class Node:
    """An element of XML, and the line where it starts."""

    tag: str
    line: int
    text: str = ""
    children: list["Node"] = field(default_factory=list)

    def all(self, tag: str) -> Iterator["Node"]:
        return (child for child in self.children if child.tag == tag)

    def one(self, tag: str) -> "Node":
        """The only child of this tag; raises Wrong."""
        found = list(self.all(tag))
        if len(found) != 1:
            raise Wrong(f"<{self.tag}> has {len(found)} elements <{tag}>; expected one")
        return found[0]

    def number(self, tag: str) -> float:
        """The number in the only child of this tag; raises Wrong."""
        text = self.one(tag).text.strip()
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise Wrong(f"{tag} must be a finite number, got {brief(text)}")
        return value


class _Reader:
    """What is right and wrong in the pictures of a list, or in all of them."""

    def __init__(self, folder: Path, file: Path | None):
        self.folder, self.problems, self.mended = folder, [], []
        self.pictures: list[tuple[str, Path, tuple[int, int], list[tuple[str, Mark]]]] = []
        for name, source, where in self._names(file):
            annotation = folder / "Annotations" / f"{name}.xml"
            try:
                root = parse(annotation)
                path = self._picture(name)
                size = self._size(root)
            except FileNotFoundError as error:
                self.problems.append(Problem(source, where, f"no such file: {error.filename}"))
            except OSError as error:
                self.problems.append(Problem(annotation, "file", f"it cannot be read: {error.strerror}"))
            except Unreadable as error:
                self.problems.append(error.problem)
            except Wrong as error:
                self.problems.append(Problem(annotation, "file", f"{error}; its picture is left out"))
            else:
                self.pictures.append((name, path, size, list(self._objects(annotation, root, size))))

    def classes(self) -> set[str]:
        """Names of the classes that occur."""
        return {name for *_, objects in self.pictures for name, _ in objects}

    def result(self, classes: list[str]) -> Marked:
        """The data, with labels by the order of the classes."""
        labels = {name: label for label, name in enumerate(classes)}
        objects = [
            objects_of([mark._replace(label=labels[its]) for its, mark in marks], name, size)
            for name, _, size, marks in self.pictures
        ]
        paths = [path for _, path, *_ in self.pictures]
        return Marked(classes, paths, objects, problems=self.problems, mended=self.mended)

    def _names(self, file: Path | None) -> Iterator[tuple[str, Path, str]]:
        """Each picture's name, with the file that lists it and the place in that."""
        if file is None:
            names = sorted(path.stem for path in (self.folder / "Annotations").glob("*.xml"))
            for path in sorted((self.folder / "JPEGImages").glob("*")):
                if path.suffix.lower() in SUFFIXES and path.stem not in names:
                    reason = f"no such file: {self.folder / 'Annotations' / path.stem}.xml"
                    self.problems.append(Problem(path, "file", f"{reason}; one without <object> is for no objects"))
            yield from ((name, self.folder / "Annotations" / f"{name}.xml", "file") for name in names)
            return
        seen: set[str] = set()
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            if not (name := line.strip()):
                continue
            if name in seen:
                self.problems.append(Problem(file, f"line {number}", f"the picture {name} was there before"))
                continue
            seen.add(name)
            yield name, file, f"line {number}"

    def _picture(self, name: str) -> Path:
        """The picture of this name; what its annotation calls it may be that of a copy."""
        for suffix in (".jpg", *SUFFIXES, ".JPG", *map(str.upper, SUFFIXES)):
            path = self.folder / "JPEGImages" / f"{name}{suffix}"
            if path.is_file():
                return path
        raise Wrong(f"no such picture: {self.folder / 'JPEGImages' / name}.jpg")

    def _size(self, root: Node) -> tuple[int, int]:
        """Height and width."""
        node = root.one("size")
        H, W = node.number("height"), node.number("width")
        if not all(1 <= side <= MAX_SIDE and side % 1 == 0 for side in (H, W)):
            shown = f"from 1 to {MAX_SIDE}, got {H:g} and {W:g}"
            raise Wrong(f"height and width in line {node.line} must be whole numbers {shown}")
        return int(H), int(W)

    def _objects(self, file: Path, root: Node, size: tuple[int, int]) -> Iterator[tuple[str, Mark]]:
        """The class and the rest of each object; its label is not known before all pictures are read."""
        for number, node in enumerate(root.all("object"), start=1):
            where = f"line {node.line} (object {number})"
            try:
                name = node.one("name").text.strip()
                if not name:
                    raise Wrong("the name is empty; expected that of a class")
                difficult = node.number("difficult") if list(node.all("difficult")) else 0.0
                if difficult not in (0, 1):
                    raise Wrong(f"difficult must be 0 or 1, got {difficult:g}")
                x1, y1, x2, y2 = (node.one("bndbox").number(edge) for edge in ("xmin", "ymin", "xmax", "ymax"))
                if x1 >= x2 or y1 >= y2:  # equal ones would be a pixel wide, but are slips of a tool that counts from 0
                    raise Wrong(f"xmin and ymin must be below xmax and ymax, got {x1:g}, {y1:g} and {x2:g}, {y2:g}")
                box = fit_box((x1 - 1, y1 - 1, x2, y2), size)
            except Wrong as error:
                self.problems.append(Problem(file, where, str(error)))
                continue
            if box != [x1 - 1, y1 - 1, x2, y2]:
                reason = f"the box from {x1:g}, {y1:g} to {x2:g}, {y2:g} is cut at the edge of {size[1]}x{size[0]}"
                self.mended.append(Problem(file, where, reason))
            yield name, Mark(box, 0, difficult == 1)


def parse(file: Path) -> Node:
    """The root of an XML file, which may not declare types and entities.

    Raises:
        OSError: it cannot be read.
        Unreadable: it is too large, malformed, or has a DOCTYPE.
    """
    if file.stat().st_size > MAX_BYTES:
        raise Unreadable(file, "file", f"larger than {MAX_BYTES // 2**20} MB, so no annotation of a picture")
    document = Node("document", 1)
    path = [document]
    parser: Any = expat.ParserCreate()

    def start(tag: str, _: dict) -> None:
        node = Node(tag, parser.CurrentLineNumber)
        path[-1].children.append(node)
        path.append(node)

    def text(data: str) -> None:
        path[-1].text += data

    def doctype(*_: Any) -> None:  # entities that it declares could grow without bound, or read other files
        raise Unreadable(file, f"line {parser.CurrentLineNumber}", "it has a <!DOCTYPE>; expected plain XML")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, lambda _: path.pop()
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, doctype
    try:
        parser.Parse(file.read_bytes(), True)
        return document.one("annotation")
    except expat.ExpatError as error:
        where = f"line {error.lineno}, column {error.offset + 1}"
        raise Unreadable(file, where, f"no XML: {expat.ErrorString(error.code)}") from None
    except (LookupError, ValueError) as error:  # encodings of several bytes, and unknown ones
        raise Unreadable(file, "line 1", f"no XML in UTF-8: {error}") from None
    except Wrong as error:
        raise Unreadable(file, "line 1", f"no annotation: {error}") from None
