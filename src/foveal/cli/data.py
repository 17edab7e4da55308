"""``foveal data`` and ``foveal data check DATA [--kind K] [--clean OUT] [--json]``"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import numpy as np
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from .._errors import UserError
from ..data import (
    DATASETS,
    FORMATS,
    IGNORED,
    ONE_CLASS,
    UNLABELLED,
    BadImage,
    Bodies,
    Data,
    Marked,
    MarkedBodies,
    Problem,
    Stream,
    Unreadable,
    class_map,
    is_of_one_class,
    load_parts,
    size_problems,
    write_coco,
)
from . import FLAGS, check_unused

TRAINED_BY = {
    "classification": "quickstart",
    "detection": "quickstart_detection",
    "segmentation": "quickstart_segmentation",
    "keypoints": "quickstart_keypoints",
}
Summary: TypeAlias = dict[str, Any]
T = TypeVar("T")


def parse(argv: list[str]) -> int:
    if not argv:
        return formats()
    return tyro.extras.subcommand_cli_from_dict({"check": check}, args=argv, prog="foveal data", config=FLAGS)


def formats() -> int:
    """List the built-in data and the formats of each kind."""
    for kind, known in FORMATS.items():
        print(f"{kind}:")
        for name in [*DATASETS[kind], *(entry.what for entry in known)]:
            print(f"  {name}")
    print("\nnext: foveal data check DATA lists what is wrong with some")
    return 0


def check(
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    /,
    *,
    root: Path | None = None,
    kind: Literal["detection", "keypoints", "segmentation", "classification"] = "detection",
    ignore_index: int | None = None,
    reduce_zero_label: bool = False,
    clean: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """List what is wrong with data, and say what is in it; the exit code is 1 if something is wrong.

    Args:
        data: a data set's name, a file of annotations or a folder; foveal data lists what there is.
        root: where a named data set lies, or the pictures of a COCO file, or the data of a YAML file.
        kind: detection reads boxes and masks, and the sizes of the pictures; keypoints also joints; segmentation
            decodes every picture and mask, classification every picture.
        ignore_index: for segmentation, the value in masks of pixels that do not count; 255 without it.
        reduce_zero_label: for segmentation, 0 in masks does not count either, and the first class is 1.
        clean: write all that is right as COCO's annotations into this .json file; for data with a validation part into
            this folder.
        as_json: print one JSON object of problems and summary.
    """
    if clean is not None and clean.exists():
        raise UserError(f"{clean} exists; nothing was overwritten")
    if clean is not None and kind in ("classification", "segmentation"):
        raise UserError(f"--clean has no effect on data for {kind}, which has no annotations to write")
    if kind != "segmentation":
        given = {"ignore_index": ignore_index, "reduce_zero_label": reduce_zero_label or None}
        check_unused(given, f"data for {kind}")
    parts: dict[str, Data] = {}
    problems: list[Problem] = []
    mended: list[Problem] = []
    summaries: dict[str, Summary] = {}
    try:
        loaded = load_parts(data, root, kind=kind, skip=True)
        parts = {name: part for name, part in zip(("train", "val"), loaded) if part is not None}
    except Unreadable as error:
        problems = error.problems
    if clean is not None:
        _check_clean(clean, data, parts)
    for name, part in parts.items():
        if kind == "classification":
            summaries[name], found = _classification(data, part)
        elif kind == "segmentation":
            labels = IGNORED if ignore_index is None else ignore_index, reduce_zero_label
            summaries[name], found = _segmentation(data, part, *labels)
        else:
            mended += getattr(part, "mended", [])
            part, found = _detection(part)
            parts[name] = part
            bodies = part if isinstance(part, Bodies) else None
            summaries[name] = _objects(bodies.pictures if bodies else part) | (_joints(bodies) if bodies else {})
        problems += found
    written = _write(clean, parts) if clean is not None and parts else []
    if as_json:
        listed: dict[str, Any] = {
            what: [{"file": str(p.file), "where": p.where, "reason": p.reason} for p in those]
            for what, those in (("problems", problems), ("mended", mended))
        }
        print(json.dumps({"data": data, "kind": kind, **listed, "parts": summaries, "clean": [*map(str, written)]}))
    else:
        _show(problems, mended, summaries, written)
        if problems and parts and clean is None and kind in ("detection", "keypoints"):
            print(f"next: --clean {'FOLDER' if len(parts) > 1 else 'FILE.json'} writes what is right")
        elif not problems:
            more = [
                ("--root", root),
                ("--ignore-index", ignore_index),
                ("--reduce-zero-label", reduce_zero_label or None),
            ]
            flags = "".join(f" {flag} {value}" for flag, value in more if value is not None).removesuffix(" True")
            print(f"next: foveal train {TRAINED_BY[kind]} --data {data}{flags}")
    return 1 if problems else 0


def _detection(part: Data) -> tuple[Data, list[Problem]]:
    """What is left of a part without the pictures of another size, and all of its problems."""
    marked = part.marked if isinstance(part, MarkedBodies) else part
    if not isinstance(marked, Marked):
        return part, []
    odd = size_problems(marked)
    right = marked.subset([i for i in range(len(marked)) if i not in odd])
    return MarkedBodies(right) if isinstance(part, MarkedBodies) else right, [*marked.problems, *odd.values()]


def _objects(part: Any) -> Summary:
    """What is in pictures with objects."""
    counts, num_crowd, num_empty, num_masks = Counter(), 0, 0, 0
    boxes: list[tuple[float, list[float], str]] = []  # smallest and largest: area, width and height, picture
    for index in range(len(part)):
        target = part.annotation(index)["target"]
        counts.update(target["labels"].tolist())
        num_crowd += int(target["crowd"].sum())
        num_empty += not len(target["labels"])
        num_masks += sum(mask is not None for mask in target["segmentations"] or [])
        sides = (target["boxes"][:, 2:] - target["boxes"][:, :2]).tolist()
        boxes += [(w * h, [round(w, 2), round(h, 2)], part.name(index)) for w, h in sides]
        boxes = [min(boxes), max(boxes)] if boxes else []
    smallest, largest = ({"size": box[1], "picture": box[2]} for box in boxes) if boxes else (None, None)
    return {
        "pictures": len(part),
        "pictures_without_objects": num_empty,
        "objects": counts.total(),
        "objects_with_mask": num_masks,
        "crowd": num_crowd,
        "smallest_box": smallest,
        "largest_box": largest,
        "classes": {name: counts[label] for label, name in enumerate(part.classes)},
    }


def _joints(part: Bodies) -> Summary:
    """How often each joint is marked, and how many objects have none, which are ignored."""
    joints, num_unmarked = Counter(), 0
    for picture in range(len(part.pictures)):
        objects = part.objects(picture)
        if objects.keypoints is not None:
            marked = objects.keypoints[:, :, 2] > 0
            joints.update(marked.nonzero()[1].tolist())
            num_unmarked += int((~marked.any(1) & ~objects.crowd).sum())
    counts = {name: joints[place] for place, name in enumerate(part.classes)}
    return {"objects_without_marked_joint": num_unmarked, "joints": counts}


def _classification(data: str, part: Data) -> tuple[Summary, list[Problem]]:
    """What is in labelled pictures, and which of them cannot be decoded."""
    problems: list[Problem] = []
    counts = Counter()
    for name, label, decode in _tracked(_labelled(part), len(part)):
        counts[label] += 1
        try:
            decode()
        except BadImage as error:
            problems.append(Problem(Path(data), name, str(error).removeprefix(f"cannot read picture {name}: ")))
    return {
        "pictures": counts.total(),
        "pictures_without_class": counts[UNLABELLED],
        "classes": {name: counts[label] for label, name in enumerate(part.classes)},
    }, problems


def _segmentation(data: str, part: Any, ignore_index: int, reduce_zero_label: bool) -> tuple[Summary, list[Problem]]:
    """How many pixels of each class there are, and which pictures or masks cannot be used."""
    problems: list[Problem] = []
    counts = np.zeros(IGNORED + 1, np.int64)
    for index in _tracked(range(len(part)), len(part)):
        name = part.name(index)
        try:
            size, mask = part.picture(index).size[::-1], part.annotation(index)["mask"]
            counts += np.bincount(
                class_map(mask, size, name, len(part.classes), ignore_index, reduce_zero_label).ravel(),
                minlength=IGNORED + 1,
            )
        except BadImage as error:
            problems.append(Problem(Path(data), name, str(error).removeprefix(f"cannot read picture {name}: ")))
    used = len(part) - len(problems)
    if is_of_one_class(counts, part.classes):
        problems.append(Problem(Path(data), "masks", ONE_CLASS))
    return {
        "pictures": used,
        "pixels_that_do_not_count": int(counts[IGNORED]),
        "classes": {name: int(counts[label]) for label, name in enumerate(part.classes)},
    }, problems


def _tracked(entries: Iterable[T], number: int) -> Iterable[T]:
    """The same, with a bar on a terminal."""
    console = Console(stderr=True)
    return track(entries, "pictures", number, console=console, transient=True, disable=not console.is_terminal)


def _labelled(part: Any) -> Iterable[tuple[str, int, Callable[[], Any]]]:
    """Name and label of each picture, and what decodes it."""
    if isinstance(part, Stream):
        return ((one.name, one.label, one.sample) for one in part.samples(0, 1, seed=None, epoch=0, skip=0))
    return ((part.name(i), part.annotation(i)["label"], partial(part.picture, i)) for i in range(len(part)))


def _check_clean(out: Path, data: str, parts: dict[str, Data]) -> None:
    """Raise UserError if there is nothing to write to ``out``, or no place for all of it."""
    if not all(isinstance(part, Marked | MarkedBodies) for part in parts.values()):
        raise UserError(f"--clean has no effect on {data}, which has no annotations to write")
    if out.suffix == ".json" and len(parts) > 1:
        raise UserError(f"{data} has two parts, {' and '.join(parts)}; --clean takes a folder for them, not {out}")


def _write(out: Path, parts: dict[str, Any]) -> list[Path]:
    """Write cleaned annotations; return their files."""
    written = []
    for name, part in parts.items():
        bodies = isinstance(part, MarkedBodies)
        file = f"{'person_keypoints' if bodies else 'instances'}_{name}.json"
        written.append(out if out.suffix == ".json" else out / "annotations" / file)
        write_coco(part.marked if bodies else part, written[-1])
    return written


def _show(problems: list[Problem], mended: list[Problem], summaries: dict[str, Summary], written: list[Path]) -> None:
    for problem in problems:
        print(problem)
    if summaries:
        table = Table("", box=SIMPLE_HEAD, pad_edge=False)
        for name in summaries:
            table.add_column(name, justify="right")
        for key in next(iter(summaries.values())):
            values = [summary[key] for summary in summaries.values()]
            if isinstance(values[0], int):
                table.add_row(key.replace("_", " "), *map(str, values))
            elif key in ("classes", "joints"):
                for label in values[0]:
                    one = "class" if key == "classes" else "joint"
                    table.add_row(f"{one} {label}", *(str(counts[label]) for counts in values))
            else:
                sizes = ("-" if box is None else "{:g}x{:g}".format(*box["size"]) for box in values)
                table.add_row(f"{key.replace('_', ' ')}, px", *sizes)
        Console(highlight=False, markup=False).print(table)
    for name, summary in summaries.items():
        for key, box in summary.items():
            if key.endswith("_box") and box is not None:
                print(f"{key.replace('_', ' ')} of {name}: in {box['picture']}")
    if mended:
        print(f"boxes that stick out of their picture by a pixel at most and are cut: {len(mended)}; --json lists them")
    for file in written:
        print(f"cleaned copy: {file}")
    print(f"problems: {len(problems) or 'none'}")
