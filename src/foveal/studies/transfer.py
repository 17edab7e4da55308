"""Studies of detectors, segmenters and keypoint estimators, each over backbones of near cost.

Backbones start from random weights, but for the one that is there to show what weights from ImageNet are worth.
"""

from dataclasses import replace
from typing import Any

from ..engine import Run
from ..recipes import quickstart_detection, quickstart_keypoints, quickstart_segmentation
from ._study import Study

BACKBONES = ("mat_1", "emsnet_xxtiny", "partialformer_b0", "pvt_v2_b0", "efficientvit_b1")
PEERS = ("pvt_v2_b0", "efficientvit_b1")
PRETRAINED = {"tf_efficientnet_lite0_in1k": "weights/tf_efficientnet_lite0"}
REAL = {name: name for name in BACKBONES} | PRETRAINED  # for data that are photographs
SMALL = {"anchor_size": 16}  # garments are 17 to 70 px
NARROW = {"channels": 64}  # of a pyramid and its head, as in the quick starts; the usual 256 cost more than backbones
DETECTORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # arguments, and what differs in the optimiser
    "retinanet": (NARROW | SMALL, {}),
    "fcos": (NARROW, {}),
    "atss": (NARROW | {"anchor_size": 32}, {}),
    "ssd": ({}, {}),
    "ssdlite": ({}, {}),
    "mask_rcnn": (SMALL, {}),
    "sparse_rcnn": ({}, dict(lr=2.5e-4)),
    "detr": ({}, dict(lr=2.5e-4, clip_grad=0.1)),
}
SEGMENTERS: dict[str, dict[str, Any]] = {
    "semantic_fpn": NARROW | {"pyramid_channels": 64},
    "upernet": NARROW | {"auxiliary_channels": 64},
}


def detectors() -> Study:
    """Eight detectors with one of our backbones and two peers on the built-in scenes: ten epochs.

    Pyramid and head of RetinaNet, FCOS and ATSS have 64 channels.
    """
    run, runs = quickstart_detection(), {}
    for backbone in ("mat_1", *PEERS):
        for detector, (args, optim) in DETECTORS.items():
            changed = replace(run, optim=replace(run.optim, **optim))
            runs[f"{detector}-{backbone}"] = _over(changed, backbone, 10, detector=detector, detector_args=args)
    return _study(detectors, ("AP50", "AP"), runs)


def segmenters() -> Study:
    """Both segmenters with a backbone of each family and two peers on the built-in scenes: ten epochs.

    Pyramids and heads have 64 channels.
    """
    run, runs = quickstart_segmentation(), {}
    for backbone in BACKBONES:
        for segmenter, args in SEGMENTERS.items():
            runs[f"{segmenter}-{backbone}"] = _over(run, backbone, 10, segmenter=segmenter, segmenter_args=args)
    return _study(segmenters, ("mIoU", "aAcc"), runs)


def estimators() -> Study:
    """SimpleBaseline with a backbone of each family and two peers on the built-in figures: ten epochs."""
    run = quickstart_keypoints()
    runs = {f"simple_baseline-{backbone}": _over(run, backbone, 10) for backbone in BACKBONES}
    return _study(estimators, ("AP", "AP50"), runs)


def bccd() -> Study:
    """Two detectors of blood cells (BCCD) with a backbone of each family and three peers: 240x320 px, ten epochs.

    EfficientNet-Lite0 starts from its ImageNet weights, all others from random ones. Pyramid and head of ATSS have 64
    channels. Two boxes without an area are left out.
    """
    run, runs = replace(_at(quickstart_detection(), "bccd/BCCD", 240, 320), on_bad_image="skip"), {}
    for backbone, model in REAL.items():
        for detector in ("atss", "ssdlite"):
            args, _ = DETECTORS[detector]
            runs[f"{detector}-{backbone}"] = _over(run, model, 10, detector=detector, detector_args=args)
    return _study(bccd, ("AP50", "AP"), runs)


def camvid() -> Study:
    """Both segmenters of road scenes (CamVid) with a backbone of each family and three peers: 180x240 px, 20 epochs.

    EfficientNet-Lite0 starts from its ImageNet weights, all others from random ones. Pyramids and heads have 64
    channels.
    """
    run, runs = _at(quickstart_segmentation(), "camvid", 180, 240), {}
    for backbone, model in REAL.items():
        for segmenter, args in SEGMENTERS.items():
            runs[f"{segmenter}-{backbone}"] = _over(run, model, 20, segmenter=segmenter, segmenter_args=args)
    return _study(camvid, ("mIoU", "aAcc"), runs)


def openfield() -> Study:
    """SimpleBaseline of a mouse seen from above (openfield), a backbone of each family and three peers: 60 epochs.

    EfficientNet-Lite0 starts from its ImageNet weights, all others from random ones. Eight of 116 mice, whose boxes
    stick out of their pictures, are left out; one in nine of the others validates, at which AP moves in steps of some
    points. Pictures are few, so that steps are many and small: 8 pictures each.
    """
    run = replace(quickstart_keypoints(), data="openfield/annotations.json", on_bad_image="skip", batch_size=8)
    run = replace(run, optim=replace(run.optim, lr=1e-3))
    runs = {f"simple_baseline-{backbone}": _over(run, model, 60) for backbone, model in REAL.items()}
    return _study(openfield, ("AP", "AP50"), runs)


def _at(run: Run, data: str, image_size: int, max_size: int) -> Run:
    """A run on other data with pictures of another size in pixels."""
    task: Any = run.task
    return replace(run, data=data, task=replace(task, image_size=image_size, max_size=max_size))


def _over(run: Run, backbone: str, epochs: int, **head: Any) -> Run:
    """A quick start's run with another backbone and another head."""
    task: Any = run.task
    return replace(run, task=replace(task, model=backbone, model_args={}, **head), epochs=epochs)


def _study(function: Any, figures: tuple[str, ...], runs: dict[str, Run]) -> Study:
    peers = frozenset(row for row in runs if row.partition("-")[2] in (*PEERS, *PRETRAINED))
    return Study(name=function.__name__, about=function.__doc__ or "", figures=figures, runs=runs, peers=peers)
