"""Segmentation recipes."""

from pathlib import Path

from ..engine import Optim, Run
from ..tasks import MaskAugment, SegmentationArgs


def quickstart_segmentation() -> Run:
    """A narrow PartialFormer in Semantic FPN on the built-in scenes: which garment, or the background, is each pixel?

    Pictures of 128x160 px, crops of 128x128, a pyramid and a head of 64 channels, AdamW, 16 pictures a step, poly
    schedule, averaged weights. --segmenter and --model choose others; --data takes a folder of pictures and masks.
    """
    return Run(
        recipe="quickstart_segmentation",
        task=SegmentationArgs(
            model="partialformer_b0",
            model_args={"embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [2, 2, 4, 8], "drop_path_rate": 0.0},
            segmenter="semantic_fpn",
            segmenter_args={"pyramid_channels": 64, "channels": 64},
            image_size=128,
            max_size=160,
            augment=MaskAugment(scale=(0.75, 1.5), max_class_share=1.0, photometric=False),
        ),
        data="scenes",
        out=Path("runs/quickstart_segmentation"),
        epochs=20,
        batch_size=16,
        optim=Optim(lr=2.5e-3, schedule="poly"),
        ema_decay=0.99,
    )
