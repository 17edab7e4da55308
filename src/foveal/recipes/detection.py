"""Detection recipes."""

from pathlib import Path

from ..engine import Optim, Run
from ..tasks import DetectionArgs


def quickstart_detection() -> Run:
    """A narrow PartialFormer in ATSS on the built-in scenes: several garments in each picture, with boxes.

    Pictures of 128x160 px, a pyramid of 64 channels, AdamW, 16 pictures a step, cosine schedule, averaged weights.
    --detector and --model choose others; --data takes COCO's JSON, YOLO's YAML and Pascal VOC's folders.
    """
    return Run(
        recipe="quickstart_detection",
        task=DetectionArgs(
            model="partialformer_b0",
            model_args={"embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [2, 2, 4, 8], "drop_path_rate": 0.0},
            detector="atss",
            detector_args={"channels": 64, "anchor_size": 32},
            image_size=128,
            max_size=160,
        ),
        data="scenes",
        out=Path("runs/quickstart_detection"),
        epochs=20,
        batch_size=16,
        optim=Optim(lr=2.5e-3),
        ema_decay=0.99,
    )
