"""``foveal eval`` of a segmenter."""

import json
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .._errors import UserError
from .._views import Views
from ..data import IGNORED, load_split
from ..metrics import MeanIoU
from ._load import batches_of, environment_of, load_model
from ._pictures import WORST, percent, plain, read_batches

NAMES = {"mIoU": "mean IoU", "mAcc": "mean accuracy of classes", "aAcc": "accuracy of pixels"}


def evaluate_segmenter(
    model: str,
    *,
    data: str,
    root: Path | None,
    batch_size: int,
    workers: int,
    device: str,
    precision: Literal["fp32", "bf16"],
    views: Views,
    per_class: bool,
    on_bad_image: Literal["stop", "skip"],
    as_json: bool,
) -> int:
    """Print mean IoU and accuracies; arguments are those of the command."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in locals().items()}
    settings |= {"views": asdict(views)}
    segmenter = load_model("segmentation", model, device=device, precision=precision)
    pictures: Any = load_split(data, root, kind="segmentation")
    place = np.full(IGNORED + 1, IGNORED)
    place[: len(pictures.classes)] = segmenter.positions(pictures.classes)
    metric, skipped = MeanIoU(len(segmenter.classes)), []
    started = time.monotonic()
    with batches_of(segmenter, pictures, segmenter.transform(), batch_size, workers, segmenter.stack) as batches:
        for batch in read_batches(batches, skipped, on_bad_image):
            metric.update(segmenter.predict(batch, views), {"mask": [place[mask] for mask in batch["mask"]]})
    if not metric.pictures:
        raise UserError(f"{data} has no picture that could be read")
    metrics, rate = metric.compute(), metric.pictures / (time.monotonic() - started)
    columns = metric.class_pixels().tolist(), metric.class_ious().tolist(), metric.class_accuracies().tolist()
    classes: list[dict[str, Any]] = [
        {"class": name, "pixels": pixels, "IoU": iou, "accuracy": accuracy}
        for name, pixels, iou, accuracy in zip(segmenter.classes, *columns, strict=True)
    ]
    if as_json:
        answer: dict[str, Any] = dict(model=model, data=data, metrics=plain(metrics), images_per_second=rate)
        answer |= dict(skipped=skipped, classes=[plain(row) for row in classes])
        answer |= dict(
            preprocessing={name: segmenter.config[name] for name in ("image_size", "max_size")},
            settings=settings,
            environment=environment_of(segmenter, device),
        )
        print(json.dumps(answer))
        return 0
    for message in skipped:
        print(f"skipped: {message}", file=sys.stderr)
    _show(segmenter, metrics, rate)
    _show_classes(classes, per_class)
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
