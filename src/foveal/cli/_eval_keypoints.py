"""``foveal eval`` of a keypoint estimator."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import UserError, some
from .._json import plain
from ..data import Bodies, Crop, coco_crops
from ..metrics import OksAP
from ..metrics.oks import FIGURES
from ._evaluation import Evaluation, show_figures, show_parts
from ._pictures import check_json, percent, write_json


def evaluate_keypoints(asked: Evaluation, boxes: str | None, save_predictions: Path | None) -> None:
    """Print average precision by OKS; arguments are those of the command."""
    if save_predictions is not None:
        check_json(save_predictions)
    keypoints = asked.load("keypoints", asked.model)
    bodies: Any = asked.pictures("keypoints", skip=asked.on_bad_image == "skip")
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
        return
    asked.tell(left_out, skipped)
    height, width = keypoints.config["max_size"], keypoints.config["image_size"]
    found = f"{metrics['boxes']} boxes {'as they are marked' if boxes is None else f'found by {boxes}'}"
    lines = [f"{metrics['pictures']} pictures, {found}; {rate:.1f} boxes/s with reading"]
    lines += [f"{keypoints.name}: {len(keypoints.classes)} joints, {height}x{width} px"]
    show_figures(["keypoints %"], [(name, percent(metrics[name])) for name in FIGURES], lines)
    if boxes is None:  # else nobody knows which body a box is of
        show_parts("joint", joints, {"similarity": "similarity %"}, "similarity", asked.per_class)
    if save_predictions is not None:
        print(f"{len(results)} predictions: {save_predictions}")


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
