"""How much other precisions change what a model says of pictures."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .._errors import UserError
from ..runtime._pictures import classified
from ._target import Target
from .parity import batches, examined
from .prepare import Prepared


def calibration(prepared: Prepared, pictures: Sequence[Image.Image]) -> tuple[np.ndarray, ...]:
    """Pictures as batches of one image each, of the size that the model was made for."""
    return tuple(_seen(prepared, pictures))


def evaluate(
    prepared: Prepared, target: Target, file: Path, pictures: Sequence[Image.Image], labels: Sequence[int]
) -> dict[str, float]:
    """A file beside the definition, on pictures.

    Args:
        labels: of a classifier's pictures, places in the list of the model's classes; empty if there are none.

    Returns:
        ``agreement``, the share of predictions that are the same, in percent; ``speed``, the median processor time of
        the model in eager mode divided by that of the file, one picture at a time, in turns; of a classifier whose
        pictures have labels ``top1`` of the file and ``top1_of_model``, in percent.

    Raises:
        UserError: the file does not run on one.
    """
    run, images = target.load(file), _seen(prepared, pictures)
    parity = examined(prepared, run, images, None)
    if parity.failed:
        raise UserError(f"{file} {parity.failed}")
    figures = {} if parity.agreed is None else {"agreement": 100 * parity.agreed}
    own, got, times = [], [], []
    for image in images:
        started = time.process_time()
        own.append(prepared.expected(torch.from_numpy(image)))
        between = time.process_time()
        got.append(run(image))
        times.append((between - started, time.process_time() - between))
    eager, exported = np.median(times, axis=0)
    figures["speed"] = float(eager / exported)
    if labels:
        for name, found in (("top1", got), ("top1_of_model", own)):
            best = np.array([int(outputs["logits"].argmax(1)[0]) for outputs in found])
            figures[name] = 100 * float((best == np.array(labels)).mean())
    return figures


def _seen(prepared: Prepared, pictures: Sequence[Image.Image]) -> list[np.ndarray]:
    """A batch of one image for each picture: as a classifier sees it, else squeezed into the model's size."""
    source = prepared.source
    if source.task == "classification" and prepared.size == source.size:
        return [source.transform(picture)[None].numpy() for picture in pictures]
    seen = source.preprocessing
    if source.task == "classification":
        config = seen | {"input_size": [3, *prepared.size]}
        return [classified(picture.convert("RGB"), config)[None] for picture in pictures]
    return batches(pictures, seen["mean"], seen["std"], [(1, *prepared.size)] * len(pictures))
