"""What an exported file says of itself: all that is needed to use it, in one JSON text under the key ``foveal``.

``foveal.runtime`` reads it without torch.
"""

import hashlib
import json
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..runtime import KEY as KEY
from ..runtime import VERSION
from ._source import Source

VALUES = "RGB / 255, minus mean, divided by std"


def metadata(source: Source, outputs: list[dict[str, Any]], shape: list[int | str], decoding: dict[str, Any]) -> str:
    """The JSON text of a file.

    Args:
        source: the model.
        outputs: ``name``, ``shape`` and ``what`` of each.
        shape: of the images; a name stands for a side that is not fixed.
        decoding: what has been done, and what is left to do, to turn outputs into predictions.

    Returns:
        An object with ``version``, ``task`` (classification, detection, segmentation, keypoints), ``model``
        (architecture), ``head`` (detector, segmenter, estimator; null of a classifier), ``classes`` (null if they have
        no names; of an estimator its joints), ``titles`` (what to call a class before people, if not its name),
        ``preprocessing``, ``inputs``, ``outputs``, ``decoding``, ``license`` and ``source``.
    """
    images = {"name": "images", "shape": shape, "dtype": "float32", "values": VALUES}
    return json.dumps(
        {
            "version": VERSION,
            "task": source.task,
            "model": source.architecture,
            "head": source.head,
            "classes": source.classes,
            "titles": source.titles,
            "preprocessing": source.preprocessing,
            "inputs": [images],
            "outputs": outputs,
            "decoding": decoding,
            "license": source.license,
            "source": {
                "run": source.name,
                "epoch": source.epoch,
                "sha256": fingerprint(source.model),
                "foveal": __version__,
                "torch": str(torch.__version__),
            },
        }
    )


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the names, types, shapes and bytes of a model's weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
