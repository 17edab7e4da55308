"""``foveal eval`` of a segmenter."""

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from .._errors import UserError
from .._json import plain
from .._views import Views
from ..data import IGNORED
from ..metrics import MeanIoU
from ._evaluation import Evaluation, show_figures, show_parts
from ._pictures import percent

NAMES = {"mIoU": "mean IoU", "mAcc": "mean accuracy of classes", "aAcc": "accuracy of pixels"}


def evaluate_segmenter(asked: Evaluation, views: Views) -> None:
    """Print mean IoU and accuracies; arguments are those of the command."""
    segmenter = asked.load("segmentation", asked.model)
    pictures: Any = asked.pictures("segmentation")
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
        return
    asked.tell([], skipped)
    size = f"shorter side {segmenter.config['image_size']} px, longer side {segmenter.config['max_size']} px at most"
    lines = [f"{metrics['pictures']} pictures; {rate:.1f} images/s with reading"]
    lines += [f"{segmenter.name}: {len(segmenter.classes)} classes, {size}"]
    show_figures(["%"], [(title, percent(metrics[name])) for name, title in NAMES.items()], lines)
    columns = {"pixels": "pixels", "IoU": "IoU %", "accuracy": "accuracy %"}
    show_parts("class", classes, columns, "IoU", asked.per_class)
