"""``foveal eval`` of a classifier."""

import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .._errors import UserError
from .._views import Preprocessing
from ..data import SUFFIXES, UNLABELLED, Data, OnImage, Pictures, load_split, read_text
from ..metrics import ClassificationReport, RealLabels, draw_confusion
from ._evaluation import Evaluation, show_parts

UNITS = {"top1": "%", "top5": "%", "mean_class_accuracy": "%", "ece": "%", "nll": "nats"}


def evaluate_classifier(
    asked: Evaluation, labels: Path | None, preprocessing: Preprocessing, confusion: Path | None
) -> None:
    """Print accuracy, calibration and confusion; arguments are those of the command."""
    if confusion is not None and not confusion.parent.is_dir():
        raise UserError(f"cannot write {confusion}: no such folder")
    if confusion is not None and confusion.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"cannot write {confusion}: expected a .png, .svg or .pdf file")
    classifier = asked.load("classification", asked.model, preprocessing=preprocessing)
    pictures, metric, labels_of = _prepare(classifier, asked, labels)
    report = metric if isinstance(metric, ClassificationReport) else None
    if report is None and (confusion is not None or asked.per_class):
        raise UserError("--confusion and --per-class have no effect where a picture has a set of labels")
    skipped: list[str] = []
    started = time.monotonic()
    for batch in asked.batches(classifier, pictures, OnImage(classifier.transform()), skipped):
        metric.update(classifier.scores(batch["image"]), {"label": labels_of(batch)})
    metrics = metric.compute()
    if not metrics["pictures"]:
        raise UserError(f"{asked.data} has no picture that could be read and has a label")
    rate = (len(pictures) - len(skipped)) / (time.monotonic() - started)
    if asked.as_json:
        figures = {} if report is None else _classes(classifier, report)
        figures = dict(metrics=metrics, images_per_second=rate, skipped=skipped) | figures
        own = dict(labels=labels, preprocessing=asdict(preprocessing), confusion=confusion)
        asked.answer(classifier, classifier.config, own, **figures)
    else:
        asked.tell([], skipped)
        _show(classifier, metrics, rate)
        if report is not None:
            _show_classes(classifier, report, asked.per_class)
    if report is not None and confusion is not None:  # last, so that figures are not lost with a picture
        draw_confusion(report.confusion, classifier.titles, f"{asked.model} on {asked.data}", confusion)


def _prepare(
    classifier: Any, asked: Evaluation, labels: Path | None
) -> tuple[Data, ClassificationReport | RealLabels, Callable[[dict], np.ndarray]]:
    """Pictures, a metric, and from a batch to its labels [B] as the metric calls them."""
    data = asked.data
    pictures = asked.pictures("classification") if labels is None else load_split(data, asked.root)
    if labels is None:
        if not pictures.classes:
            raise UserError(f"{data} has no class folders; --labels names a file with the labels of its pictures")
        place = np.array(classifier.positions(pictures.classes))
        return pictures, ClassificationReport(classifier.num_classes), lambda batch: place[_labels(batch)]
    real = labels.suffix == ".json"
    sets = _read_real(labels, classifier.num_classes) if real else []
    known = {str(number): number - 1 for number in range(1, len(sets) + 1)} if real else _read_text(labels, classifier)
    metric = RealLabels(sets, classifier.num_classes) if real else ClassificationReport(classifier.num_classes)
    if isinstance(pictures, Pictures):  # fails before the first of them is read
        names = [pictures.name(index) for index in range(len(pictures))]
        for name in names:
            _find(known, name, labels)
        (name, times), *_ = Counter(Path(name).name for name in names).most_common(1)
        if times > 1:
            raise UserError(f"{times} pictures of {data} are called {name}; {labels} goes by names without folders")
    return pictures, metric, lambda batch: np.array([_find(known, name, labels) for name in batch["name"]])


def _labels(batch: dict) -> np.ndarray:
    labels = np.asarray(batch["label"])
    for name, label in zip(batch["name"], labels):
        if label == UNLABELLED:
            raise UserError(f"picture {name} has no label")
    return labels


def _find(known: dict[str, int], name: str, file: Path) -> int:
    """The label of a picture, by its name or by the number at the end of it, as in ILSVRC2012_val_00000001.JPEG."""
    path = Path(name.partition(" in ")[0])  # of a sample of shards its key
    number = re.search(r"\d+$", path.stem)
    for key in (path.name, str(int(number[0])) if number else ""):
        if key in known:
            return known[key]
    raise UserError(f"{file} has no label for {name}, neither for its name nor for a number at the end of it")


def _read_real(file: Path, num_classes: int) -> list[list[int]]:
    """A list of class indices for each picture."""
    try:
        sets = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"cannot read {file}: {error}") from None
    if not isinstance(sets, list) or not all(
        isinstance(labels, list) and all(type(i) is int and 0 <= i < num_classes for i in labels) for labels in sets
    ):
        raise UserError(f"{file} must hold a list of lists of class indices from 0 to {num_classes - 1}")
    return sets


def _read_text(file: Path, classifier: Any) -> dict[str, int]:
    """The model's class for each picture's name, or for its number: that of the line, from 1."""
    lines = [line.split(maxsplit=1) for line in read_text(file).splitlines()]
    if not lines or not all(lines):
        raise UserError(f"{file} must hold a line for each picture: LABEL, or NAME LABEL")
    if all(len(line) == 2 and Path(line[0]).suffix.lower() in SUFFIXES for line in lines):
        given = {Path(name).name: label.strip() for name, label in lines}
    else:
        given = {str(number): " ".join(line) for number, line in enumerate(lines, start=1)}
    indices = _indices({*given.values()}, file, classifier)
    return {key: indices[label] for key, label in given.items()}


def _indices(given: set[str], file: Path, classifier: Any) -> dict[str, int]:
    """The model's class for each label that a file gives."""
    if classifier.classes is not None and given <= {*classifier.classes}:
        return {label: classifier.classes.index(label) for label in given}
    if all(label.isdecimal() for label in given):
        if (most := max(map(int, given))) >= classifier.num_classes:
            raise UserError(
                f"{file} has label {most}, expected 0 to {classifier.num_classes - 1}; the ids 1 to 1000 of ImageNet's "
                "development kit have an order of their own: give synsets, or indices into the sorted synsets"
            )
        return {label: int(label) for label in given}
    names = sorted(given)
    return dict(zip(names, classifier.positions(names)))


def _classes(classifier: Any, report: ClassificationReport) -> dict[str, Any]:
    """Classes with their pictures, and the confusion matrix as triples of label, prediction and pictures."""
    counts, accuracies = report.class_pictures().tolist(), report.class_accuracies().tolist()
    rows = zip(classifier.classes or classifier.titles, classifier.titles, counts, accuracies, strict=True)
    classes = [
        {"class": name, "title": title, "pictures": count, "accuracy": None if math.isnan(accuracy) else accuracy}
        for name, title, count, accuracy in rows
    ]
    cells = np.argwhere(report.confusion).tolist()
    triples = [[row, column, int(report.confusion[row, column])] for row, column in cells]
    return {"classes": classes, "confusion": triples}


def _show(classifier: Any, metrics: dict[str, float], rate: float) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for name, value in metrics.items():
        unit = UNITS.get(name, "")
        digits = "d" if isinstance(value, int) else ".4f" if unit == "nats" else ".3f"
        table.add_row(name.replace("_", " "), f"{value:{digits}}", unit)
    table.add_row("images/s", f"{rate:.1f}", "with reading")
    console = Console(highlight=False)
    console.print(table)
    config = classifier.config
    height, width = config["input_size"][1:]
    shown = f"{height}x{width}, crop {config['crop_pct']:g} {config['crop_mode']}, {config['interpolation']}"
    console.print(f"{classifier.name}: {classifier.num_classes} classes, {shown}", markup=False, soft_wrap=True)


def _show_classes(classifier: Any, report: ClassificationReport, every: bool) -> None:
    """All classes, or the worst; with what they are taken for most."""
    wrong = report.confusion.copy()
    np.fill_diagonal(wrong, 0)
    columns = classifier.titles, report.class_pictures().tolist(), report.class_accuracies().tolist()
    parts: list[dict[str, Any]] = [
        {"class": title, "pictures": pictures, "accuracy": accuracy, "taken": ""}
        for title, pictures, accuracy in zip(*columns, strict=True)
    ]
    for part, others in zip(parts, wrong):
        if others.any():
            part["taken"] = f"{classifier.titles[int(others.argmax())]} ({others.max()})"
    titles = {"pictures": "pictures", "accuracy": "accuracy %", "taken": "most often taken for"}
    show_parts("class", parts, titles, "accuracy", every)
