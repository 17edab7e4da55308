"""Segmentation recipes."""

from pathlib import Path

from ..engine import Optim, Run
from ..tasks import MaskAugment, SegmentationArgs


def quickstart_segmentation() -> Run:
    """A small MAT under Semantic FPN on the built-in scenes: which garment, or the background, is each pixel?

    Pictures of 128x160 px, crops of 128x128, AdamW, 16 pictures a step, poly schedule, averaged weights. --segmenter
    and --model choose others; --data takes a folder of pictures and masks.
    """
    return Run(
        recipe="quickstart_segmentation",
        task=SegmentationArgs(
            model="mat_1",
            segmenter="semantic_fpn",
            image_size=128,
            max_size=160,
            augment=MaskAugment(scale=(0.75, 1.5), max_class_share=1.0),
        ),
        data="scenes",
        out=Path("runs/quickstart_segmentation"),
        epochs=10,
        batch_size=16,
        optim=Optim(lr=1e-3, schedule="poly"),
        ema_decay=0.99,
    )
