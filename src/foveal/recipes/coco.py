"""The thesis's recipes for detection on COCO: what it states, and from the works that it cites what it leaves out.

Each is for one process; what counts are the pictures a step, processes * batch-size * accumulate (docs/scale.md).
Common to all: 12 epochs (sections 3.4.2, 4.4.2, 5.4.2), AdamW with betas (0.9, 0.999), learning rate 1e-4, weight decay
0.05 (the same and Table 4.11), a tenth of the learning rate from the ninth and again from the twelfth epoch, 500 steps
of linear warm-up from a thousandth of it (Table 4.11; chapters 3 and 5 say nothing of either), no limit of the gradient
unless said, mirrored pictures (mmdetection's default), the stochastic depth of the classifier (section 4.6.2). A pass
takes 4 pictures of 1333x800 or 48 of 320x320, as on each of the four GPUs of section 4.6.2.

The thesis starts from weights trained on ImageNet-1K. There are none to download: --model takes the folder of a run,
such as runs/mat_in1k; with a name a recipe starts from scratch. --data names a folder that has
annotations/instances_*.json.
"""

from pathlib import Path

from ..data import BoxAugment
from ..engine import Optim, Run
from ..tasks import DetectionArgs


def _1x(recipe: str, model: str, detector: str, *, accumulate: int = 4, clip_grad: float = 0.0) -> Run:
    """Pictures of 1333x800; 4 * accumulate a step."""
    task = DetectionArgs(model=model, detector=detector, image_size=800, max_size=1333)
    return _run(recipe, task, batch_size=4, accumulate=accumulate, clip_grad=clip_grad)


def _ssdlite_1x(recipe: str, model: str) -> Run:
    """Pictures of 320x320, 192 a step, and the extra levels that fit the printed parameters (docs/fidelity.md)."""
    task = DetectionArgs(
        model=model,
        detector="ssdlite",
        detector_args={"extra_channels": [512, 256, 256, 256]},
        image_size=320,
        max_size=320,
        augment=BoxAugment(crop="ssd"),
    )
    return _run(recipe, task, batch_size=48, accumulate=4)


def _run(recipe: str, task: DetectionArgs, *, batch_size: int, accumulate: int, clip_grad: float = 0.0) -> Run:
    return Run(
        recipe=recipe,
        task=task,
        data="data/coco",
        out=Path("runs") / recipe,
        epochs=12,
        batch_size=batch_size,
        accumulate=accumulate,
        optim=Optim(
            lr=1e-4,
            betas=(0.9, 0.999),
            weight_decay=0.05,
            schedule="step",
            decay_epochs=(8, 11),
            warmup_epochs=0,
            warmup_steps=500,
            warmup_lr=1e-7,
            clip_grad=clip_grad,
        ),
        channels_last=True,
        workers=8,
        device="cuda",
    )


def emsnet_retinanet_1x() -> Run:
    """EMSNet in RetinaNet on COCO (section 3.4.2, Table 3.3); --model emsnet_xxtiny, emsnet_xtiny or emsnet_tiny.

    Stated: 12 epochs, 4 pictures a step, 1333x800, AdamW, learning rate 1e-4, weight decay 0.05, all else as in
    RetinaNet; from Table 4.11 and mmdetection's schedule: steps at 8 and 11, warm-up.
    """
    return _1x("emsnet_retinanet_1x", "emsnet_xxtiny", "retinanet", accumulate=1)


def emsnet_mask_rcnn_1x() -> Run:
    """EMSNet in Mask R-CNN on COCO (section 3.4.2, Table 3.4); --model emsnet_xtiny or emsnet_tiny.

    Stated: 12 epochs, 4 pictures a step, 1333x800, AdamW, learning rate 1e-4, weight decay 0.05, all else as in
    Mask R-CNN; from Table 4.11 and mmdetection's schedule: steps at 8 and 11, warm-up.
    """
    return _1x("emsnet_mask_rcnn_1x", "emsnet_xtiny", "mask_rcnn", accumulate=1)


def mat_ssdlite_1x() -> Run:
    """MAT Transformer in SSDLite on COCO (section 4.6.2, Tables 4.5 and 4.11); --model mat_1, mat_2 or mat_3.

    Stated: 320x320, 192 pictures a step, AdamW, learning rate 1e-4, steps at 8 and 11, weight decay 0.05, 500 steps of
    warm-up, stochastic depth 0.05. The tables say SSD; their parameters are those of SSDLite (docs/fidelity.md). The
    text counts 12 epochs of the other detectors alone; the steps say the same of this one. From MobileNetV2 and
    MobileViT, which the section cites: SSD's crops and colours.
    """
    return _ssdlite_1x("mat_ssdlite_1x", "mat_1")


def mat_retinanet_1x() -> Run:
    """MAT Transformer in RetinaNet on COCO (section 4.6.2, Tables 4.6 and 4.11); --model mat_2 to mat_5.

    Stated: 12 epochs, 1333x800, AdamW, learning rate 1e-4, steps at 8 and 11, weight decay 0.05, 500 steps of warm-up,
    stochastic depth 0.05. From PVT and Swin, which the section cites: 16 pictures a step.
    """
    return _1x("mat_retinanet_1x", "mat_2", "retinanet")


def mat_mask_rcnn_1x() -> Run:
    """MAT Transformer in Mask R-CNN on COCO (section 4.6.2, Tables 4.7 and 4.11); --model mat_2 to mat_5.

    Stated: 12 epochs, 1333x800, AdamW, learning rate 1e-4, steps at 8 and 11, weight decay 0.05, 500 steps of warm-up,
    stochastic depth 0.05. From PVT and Swin, which the section cites: 16 pictures a step.
    """
    return _1x("mat_mask_rcnn_1x", "mat_2", "mask_rcnn")


def partialformer_ssdlite_1x() -> Run:
    """PartialFormer in SSDLite on COCO (section 5.4.2, Table 5.5); --model partialformer_b0 or partialformer_b1.

    Stated: 320x320 (Table 5.5), 12 epochs, AdamW, learning rate 1e-4, weight decay 0.05 (of all detectors), the
    settings of MobileViT (of this one, without a number). From section 4.6.2, which names them for the same detector:
    192 pictures a step; from Table 4.11: steps at 8 and 11, warm-up; from MobileViT: SSD's crops and colours.
    """
    return _ssdlite_1x("partialformer_ssdlite_1x", "partialformer_b0")


def partialformer_retinanet_1x() -> Run:
    """PartialFormer in RetinaNet on COCO (section 5.4.2, Table 5.4); --model partialformer_b1 to partialformer_b3.

    Stated: 12 epochs, 16 pictures a step, 1333x800, AdamW, learning rate 1e-4, weight decay 0.05; from Table 4.11:
    steps at 8 and 11, warm-up.
    """
    return _1x("partialformer_retinanet_1x", "partialformer_b1", "retinanet")


def partialformer_mask_rcnn_1x() -> Run:
    """PartialFormer in Mask R-CNN on COCO (section 5.4.2, Table 5.4); --model partialformer_b1 to partialformer_b3.

    Stated: 12 epochs, 16 pictures a step, 1333x800, AdamW, learning rate 1e-4, weight decay 0.05; from Table 4.11:
    steps at 8 and 11, warm-up.
    """
    return _1x("partialformer_mask_rcnn_1x", "partialformer_b1", "mask_rcnn")


def partialformer_atss_1x() -> Run:
    """PartialFormer in ATSS on COCO (section 5.4.2, which prints no result); --model partialformer_b1 to _b4.

    Stated: 12 epochs, 16 pictures a step, 1333x800, AdamW, learning rate 1e-4, weight decay 0.05; from Table 4.11:
    steps at 8 and 11, warm-up.
    """
    return _1x("partialformer_atss_1x", "partialformer_b1", "atss")


def partialformer_sparse_rcnn_1x() -> Run:
    """PartialFormer in Sparse R-CNN on COCO (section 5.4.2, which prints no result); --model partialformer_b1 to _b4.

    Stated: 12 epochs, 16 pictures a step, 1333x800, AdamW, learning rate 1e-4, weight decay 0.05; from Table 4.11:
    steps at 8 and 11, warm-up; from Sparse R-CNN: gradient norm 1.
    """
    return _1x("partialformer_sparse_rcnn_1x", "partialformer_b1", "sparse_rcnn", clip_grad=1.0)
