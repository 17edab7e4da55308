"""How much other precisions change what a model says of pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .._errors import UserError
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
        ``agreement``, the share of predictions that are the same, in percent; of a classifier whose pictures have
        labels ``top1`` of the file and ``top1_of_model``, in percent.

    Raises:
        UserError: the file does not run on one.
    """
    run, images = target.load(file), _seen(prepared, pictures)
    parity = examined(prepared, run, images, None)
    if parity.failed:
        raise UserError(f"{file} {parity.failed}")
    figures = {} if parity.agreed is None else {"agreement": 100 * parity.agreed}
    if labels:
        wanted = np.array(labels)
        own = [prepared.expected(torch.from_numpy(image))["logits"].argmax(1).numpy() for image in images]
        got = [run(image)["logits"].argmax(1) for image in images]
        for name, found in (("top1", got), ("top1_of_model", own)):
            figures[name] = 100 * float((np.concatenate(found) == wanted).mean())
    return figures


def _seen(prepared: Prepared, pictures: Sequence[Image.Image]) -> list[np.ndarray]:
    """A batch of one image for each picture: as a classifier sees it, else squeezed into the model's size."""
    source = prepared.source
    if source.task == "classification" and prepared.size == source.size:
        return [source.transform(picture)[None].numpy() for picture in pictures]
    seen = source.preprocessing
    return batches(pictures, seen["mean"], seen["std"], [(1, *prepared.size)] * len(pictures))
