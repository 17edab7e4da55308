"""``foveal eval`` of a keypoint estimator."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .._errors import UserError, some
from ..data import Bodies, Crop, coco_crops, load_split
from ..metrics import OksAP
from ..metrics.oks import FIGURES
from ._evaluation import Evaluation, tell
from ._pictures import WORST, check_json, percent, plain, write_json


def evaluate_keypoints(asked: Evaluation, boxes: str | None, save_predictions: Path | None) -> int:
    """Print average precision by OKS; arguments are those of the command."""
    if save_predictions is not None:
        check_json(save_predictions)
    keypoints = asked.load("keypoints", asked.model)
    bodies: Any = load_split(asked.data, asked.root, kind="keypoints", skip=asked.on_bad_image == "skip")
    place = np.array(keypoints.positions(bodies.classes))
    metric, skipped = OksAP(bodies.joints, suppress=boxes is not None), []
    started = time.monotonic()
    if boxes is not None:
        if boxes.endswith(".json"):
            crops, looked_at = coco_crops(Path(boxes), bodies), range(len(bodies.pictures))
        else:
            crops, looked_at = _detected(asked, asked.load("detection", boxes), bodies, skipped)
        for picture in looked_at:
            metric.expect(bodies.truth(picture))
        bodies = bodies.at(crops)
    for batch in asked.batches(keypoints, bodies, keypoints.transform(), skipped, keypoints.stack):
        found = keypoints.predict(batch)
        metric.update([{name: value[place] for name, value in body.items()} for body in found], batch)
    if not metric.truths:
        raise UserError(f"{asked.data} has no picture that could be read")
    metrics = metric.compute() | {"pictures": len(metric.truths), "boxes": sum(map(len, metric.found.values()))}
    rate = metrics["boxes"] / (time.monotonic() - started)
    joints: list[dict[str, Any]] = [
        {"joint": name, "similarity": value} for name, value in zip(bodies.classes, metric.per_joint(), strict=True)
    ]
    left_out = [str(problem) for problem in bodies.problems]
    results = metric.results(bodies.category_ids)
    if save_predictions is not None:
        write_json(results, save_predictions)
    if asked.as_json:
        seen = {name: keypoints.config[name] for name in ("image_size", "max_size", "flip_test")}
        figures: dict[str, Any] = dict(metrics=plain(metrics), boxes_per_second=rate)
        figures |= dict(left_out=left_out, skipped=skipped, joints=[plain(row) for row in joints])
        asked.answer(keypoints, seen, dict(boxes=boxes, save_predictions=save_predictions), **figures)
        return 0
    tell(left_out, skipped)
    _show(keypoints, metrics, rate, boxes)
    if boxes is None:  # else nobody knows which body a box is of
        _show_joints(joints, asked.per_class)
    if save_predictions is not None:
        print(f"{len(results)} predictions: {save_predictions}")
    return 0


def _detected(asked: Evaluation, detector: Any, bodies: Bodies, skipped: list[str]) -> tuple[list[Crop], list[int]]:
    """Where a detector finds bodies, and the pictures that it has seen."""
    kinds = {name: kind for kind, name in enumerate(bodies.categories)}
    if not {*detector.classes} & {*kinds}:
        known = f"{some(detector.classes, 4)}; the data has {some(bodies.categories, 4)}"
        raise UserError(f"{detector.name} finds no bodies of the data: it finds {known}")
    crops, seen = [], []
    numbers = {bodies.pictures.name(i): i for i in range(len(bodies.pictures))}
    for batch in asked.batches(detector, bodies.pictures, detector.transform(), skipped, detector.stack):
        for name, found in zip(batch["name"], detector.predict(batch), strict=True):
            seen.append(numbers[name])
            columns = (found[column].tolist() for column in ("boxes", "labels", "scores"))
            for box, label, score in zip(*columns):
                kind, (x1, y1, x2, y2) = kinds.get(detector.classes[label]), box
                if kind is not None and x2 > x1 and y2 > y1:
                    crops.append(Crop(numbers[name], None, tuple(box), kind, score))
    return crops, seen


def _show(keypoints: Any, metrics: dict[str, Any], rate: float, boxes: str | None) -> None:
    table = Table("", "keypoints %", box=SIMPLE_HEAD, pad_edge=False)
    for name in FIGURES:
        table.add_row(name, percent(metrics[name]))
    console = Console(highlight=False)
    console.print(table)
    height, width = keypoints.config["max_size"], keypoints.config["image_size"]
    source = "as they are marked" if boxes is None else f"found by {boxes}"
    for line in (
        f"{metrics['pictures']} pictures, {metrics['boxes']} boxes {source}; {rate:.1f} boxes/s with reading",
        f"{keypoints.name}: {len(keypoints.classes)} joints, {height}x{width} px",
    ):
        console.print(line, markup=False, soft_wrap=True)


def _show_joints(joints: list[dict[str, Any]], every: bool) -> None:
    """All joints, or those that are found worst."""
    seen = [row for row in joints if not math.isnan(row["similarity"])]
    title = "joints" if every else "worst joints"
    table = Table("joint", "similarity %", title=title, title_justify="left", box=SIMPLE_HEAD)
    for row in joints if every else sorted(seen, key=lambda row: row["similarity"])[:WORST]:
        table.add_row(row["joint"], percent(row["similarity"]))
    Console(highlight=False, markup=False).print(table)
