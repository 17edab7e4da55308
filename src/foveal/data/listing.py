"""Lists of pictures: a ``.csv`` file with a header, or a ``.jsonl`` file of the same keys.

======================== ==================================================
``image|path|filename``  the picture, relative to the folder of the list
``label|class``          the name of its class
``split``                ``train`` or ``val``; not needed
======================== ==================================================
"""

import csv
import json
from collections.abc import Collection, Iterator
from pathlib import Path

from .._errors import UserError
from ._pictures import class_order
from .image_folder import PictureFiles

PATH_KEYS = ("image", "path", "filename")
LABEL_KEYS = ("label", "class")
SPLITS = ("train", "val")


def listing(name: str) -> tuple[PictureFiles | None, PictureFiles | None]:
    """Training and validation pictures of a list, or all of them and None if it says nothing of splits.

    Classes are in alphabetical order, numbers in that of their values. A missing picture is found when it is opened.

    Raises:
        UserError: no such file, a missing or doubled column, an empty or malformed line.
    """
    file = Path(name)
    rows = []
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            for where, record in _csv(file, lines) if file.suffix == ".csv" else _jsonl(file, lines):
                rows.append(_row(where, record, file.parent))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {file}: {error}") from None
    if not rows:
        raise UserError(f"{file} lists no pictures")
    classes = class_order(label for _, label, _ in rows)
    numbers = {label: number for number, label in enumerate(classes)}
    chosen = ([(path, numbers[label]) for path, label, its in rows if its == split] for split in SPLITS)
    train, val = (PictureFiles(classes, *map(list, zip(*part))) if part else None for part in chosen)
    return train, val


def _csv(file: Path, lines: Iterator[str]) -> Iterator[tuple[str, dict]]:
    reader = csv.DictReader(lines, strict=True)
    try:
        header = reader.fieldnames or []
        if len(set(header)) < len(header):
            raise UserError(f"{file} line 1: a column comes twice: {', '.join(header)}")
        _key(f"{file} line 1", header, PATH_KEYS)
        _key(f"{file} line 1", header, LABEL_KEYS)
        for record in reader:
            where = f"{file} line {reader.line_num}"
            if None in record:
                raise UserError(f"{where}: more values than the {len(header)} columns")
            yield where, record
    except csv.Error as error:
        raise UserError(f"{file} line {reader.reader.line_num}: {error}") from None


def _jsonl(file: Path, lines: Iterator[str]) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file} line {number}"
        try:
            record = json.loads(line)
        except (RecursionError, ValueError) as error:
            raise UserError(f"{where}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f'{where}: not an object like {{"image": "a.jpg", "label": "cat"}}')
        yield where, record


def _row(where: str, record: dict, folder: Path) -> tuple[Path, str, str]:
    """Path, class and split of a line."""
    path = _text(where, record, _key(where, record, PATH_KEYS))
    label = _text(where, record, _key(where, record, LABEL_KEYS))
    split = _text(where, record, "split") if "split" in record else "train"
    if split not in SPLITS:
        raise UserError(f"{where}: split {split!r}; expected train or val")
    return folder / path, label, split


def _key(where: str, known: Collection[str], names: tuple[str, ...]) -> str:
    found = [name for name in names if name in known]
    if len(found) != 1:
        has = f"both {' and '.join(found)}" if found else f"only {', '.join(map(str, known)) or 'nothing'}"
        raise UserError(f"{where}: has {has}; expected one of {', '.join(names)}")
    return found[0]


def _text(where: str, record: dict, key: str) -> str:
    value = record[key]
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {key} is empty or no text")
    if "\0" in value:
        raise UserError(f"{where}: {key} has a null character")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UserError(f"{where}: {key} has half of a character")
    return value.strip()
