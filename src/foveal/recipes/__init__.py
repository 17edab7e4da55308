"""Recipes: functions that return a finished ``Run``. Their docstrings are the run cards."""

from collections.abc import Callable

from ..engine import Run
from .detection import quickstart_detection
from .quickstart import quickstart
from .segmentation import quickstart_segmentation
from .thesis import emsnet_in1k, mat_in1k, partialformer_in1k
from .transfer import distill, finetune

RECIPES: dict[str, Callable[[], Run]] = {
    recipe.__name__: recipe
    for recipe in (
        quickstart,
        finetune,
        distill,
        emsnet_in1k,
        mat_in1k,
        partialformer_in1k,
        quickstart_detection,
        quickstart_segmentation,
    )
}

__all__ = [
    "RECIPES",
    "distill",
    "emsnet_in1k",
    "finetune",
    "mat_in1k",
    "partialformer_in1k",
    "quickstart",
    "quickstart_detection",
    "quickstart_segmentation",
]
