"""``foveal eval`` of a segmenter."""

import math
import time
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .._errors import UserError
from .._views import Views
from ..data import IGNORED, load_split
from ..metrics import MeanIoU
from ._evaluation import Evaluation, tell
from ._pictures import WORST, percent, plain

NAMES = {"mIoU": "mean IoU", "mAcc": "mean accuracy of classes", "aAcc": "accuracy of pixels"}


def evaluate_segmenter(asked: Evaluation, views: Views) -> int:
    """Print mean IoU and accuracies; arguments are those of the command."""
    segmenter = asked.load("segmentation", asked.model)
    pictures: Any = load_split(asked.data, asked.root, kind="segmentation")
    place = np.full(IGNORED + 1, IGNORED)
    place[: len(pictures.classes)] = segmenter.positions(pictures.classes)
    metric, skipped = MeanIoU(len(segmenter.classes)), []
    started = time.monotonic()
    for batch in asked.batches(segmenter, pictures, segmenter.transform(), skipped, segmenter.stack):
        metric.update(segmenter.predict(batch, views), {"mask": [place[mask] for mask in batch["mask"]]})
    if not metric.pictures:
        raise UserError(f"{asked.data} has no picture that could be read")
    metrics, rate = metric.compute(), metric.pictures / (time.monotonic() - started)
    columns = metric.class_pixels().tolist(), metric.class_ious().tolist(), metric.class_accuracies().tolist()
    classes: list[dict[str, Any]] = [
        {"class": name, "pixels": pixels, "IoU": iou, "accuracy": accuracy}
        for name, pixels, iou, accuracy in zip(segmenter.classes, *columns, strict=True)
    ]
    if asked.as_json:
        seen = {name: segmenter.config[name] for name in ("image_size", "max_size")}
        figures: dict[str, Any] = dict(metrics=plain(metrics), images_per_second=rate)
        figures |= dict(skipped=skipped, classes=[plain(row) for row in classes])
        asked.answer(segmenter, seen, dict(views=asdict(views)), **figures)
        return 0
    tell([], skipped)
    _show(segmenter, metrics, rate)
    _show_classes(classes, asked.per_class)
    return 0


def _show(segmenter: Any, metrics: dict[str, float], rate: float) -> None:
    table = Table("", "%", box=SIMPLE_HEAD, pad_edge=False)
    for name, title in NAMES.items():
        table.add_row(title, percent(metrics[name]))
    console, config = Console(highlight=False), segmenter.config
    console.print(table)
    size = f"shorter side {config['image_size']} px, longer side {config['max_size']} px at most"
    for line in (
        f"{metrics['pictures']} pictures; {rate:.1f} images/s with reading",
        f"{segmenter.name}: {len(segmenter.classes)} classes, {size}",
    ):
        console.print(line, markup=False, soft_wrap=True)


def _show_classes(classes: list[dict[str, Any]], every: bool) -> None:
    """All classes, or those with the least IoU."""
    seen = [row for row in classes if not math.isnan(row["IoU"])]
    table = Table("class", title="classes" if every else "worst classes", title_justify="left", box=SIMPLE_HEAD)
    for name in ("pixels", "IoU %", "accuracy %"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in classes if every else sorted(seen, key=lambda row: row["IoU"])[:WORST]:
        table.add_row(row["class"], str(row["pixels"]), percent(row["IoU"]), percent(row["accuracy"]))
    Console(highlight=False, markup=False).print(table)
