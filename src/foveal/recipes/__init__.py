"""Recipes: functions that return a finished ``Run``. Their docstrings are the run cards."""

from collections.abc import Callable

from ..engine import Run
from .ade20k import mat_semantic_fpn_80k, partialformer_semantic_fpn_80k, partialformer_upernet_160k
from .coco import (
    emsnet_mask_rcnn_1x,
    emsnet_retinanet_1x,
    mat_mask_rcnn_1x,
    mat_retinanet_1x,
    mat_ssdlite_1x,
    partialformer_atss_1x,
    partialformer_mask_rcnn_1x,
    partialformer_retinanet_1x,
    partialformer_sparse_rcnn_1x,
    partialformer_ssdlite_1x,
)
from .detection import quickstart_detection
from .keypoints import partialformer_simple_baseline_210e, quickstart_keypoints
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
        emsnet_retinanet_1x,
        emsnet_mask_rcnn_1x,
        mat_ssdlite_1x,
        mat_retinanet_1x,
        mat_mask_rcnn_1x,
        partialformer_ssdlite_1x,
        partialformer_retinanet_1x,
        partialformer_mask_rcnn_1x,
        partialformer_atss_1x,
        partialformer_sparse_rcnn_1x,
        quickstart_detection,
        quickstart_segmentation,
        mat_semantic_fpn_80k,
        partialformer_semantic_fpn_80k,
        partialformer_upernet_160k,
        quickstart_keypoints,
        partialformer_simple_baseline_210e,
    )
}
