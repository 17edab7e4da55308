"""``foveal eval`` of a detector."""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import UserError
from .._json import plain
from ..metrics.coco import FIGURES, PREFIXES, CocoAP, coco_results
from ._evaluation import Evaluation, show_figures, show_parts
from ._pictures import check_json, percent, write_json

SHOWN = {"bbox": "boxes", "segm": "masks"}


def evaluate_detector(asked: Evaluation, save_predictions: Path | None) -> None:
    """Print average precision; arguments are those of the command."""
    if save_predictions is not None:
        check_json(save_predictions)
    detector = asked.load("detection", asked.model)
    pictures: Any = asked.pictures("detection", skip=asked.on_bad_image == "skip")
    place = np.array(detector.positions(pictures.classes))
    category_ids = [number for _, number in sorted(zip(place.tolist(), pictures.category_ids))]
    metric = CocoAP(len(detector.classes), masks=detector.masks and pictures.has_masks)
    left_out, skipped, results = [str(problem) for problem in pictures.problems], [], []
    started = time.monotonic()
    for batch in asked.batches(detector, pictures, detector.transform(), skipped, detector.stack):
        found = detector.predict(batch)
        targets = [target | {"labels": place[target["labels"]]} for target in batch["target"]]
        metric.update(found, batch | {"target": targets})
        if save_predictions is not None:
            results += coco_results(found, [target["image_id"] for target in targets], category_ids)
    if not metric.pictures:
        raise UserError(f"{asked.data} has no picture that could be read")
    counts = metric.class_objects()
    metrics = metric.compute() | {"pictures": len(metric.pictures), "objects": sum(counts)}
    rate = len(metric.pictures) / (time.monotonic() - started)
    classes = _classes(detector, metric, counts, category_ids)
    if save_predictions is not None:
        write_json(results, save_predictions)
    if asked.as_json:
        seen = {name: detector.config[name] for name in ("image_size", "max_size")}
        figures: dict[str, Any] = dict(metrics=plain(metrics), images_per_second=rate)
        figures |= dict(left_out=left_out, skipped=skipped, classes=[plain(row) for row in classes])
        asked.answer(detector, seen, dict(save_predictions=save_predictions), **figures)
        return
    asked.tell(left_out, skipped)
    if detector.masks and not metric.masks:
        print(f"masks are not measured: not every object of {asked.data} has one", file=sys.stderr)
    _show(detector, metric, metrics, rate)
    columns = {"objects": "objects"} | {f"{PREFIXES[kind]}AP": f"AP of {SHOWN[kind]} %" for kind in metric.kinds}
    show_parts("class", classes, columns, "AP", asked.per_class)
    if save_predictions is not None:
        print(f"{len(results)} predictions: {save_predictions}")


def _classes(detector: Any, metric: CocoAP, counts: list[int], category_ids: list[int]) -> list[dict[str, Any]]:
    """Of each class its name, its number in the data, its objects, and AP of boxes and masks."""
    rows: list[dict[str, Any]] = [
        {"class": name, "category_id": number, "objects": count}
        for name, number, count in zip(detector.classes, category_ids, counts, strict=True)
    ]
    for kind in metric.kinds:
        for row, value in zip(rows, metric.per_class(kind), strict=True):
            row[f"{PREFIXES[kind]}AP"] = value
    return rows


def _show(detector: Any, metric: CocoAP, metrics: dict[str, Any], rate: float) -> None:
    size = f"shorter side {detector.config['image_size']} px, longer side {detector.config['max_size']} px at most"
    if detector.square:
        size = f"{detector.config['image_size']}x{detector.config['image_size']} px"
    lines = [f"{metrics['pictures']} pictures, {metrics['objects']} objects; {rate:.1f} images/s with reading"]
    lines += [f"{detector.name}: {len(detector.classes)} classes, {size}"]
    rows = [(name, *(percent(metrics[PREFIXES[kind] + name]) for kind in metric.kinds)) for name in FIGURES]
    show_figures([f"{SHOWN[kind]} %" for kind in metric.kinds], rows, lines)
