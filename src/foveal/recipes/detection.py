"""Detection recipes."""

from pathlib import Path

from ..engine import Optim, Run
from ..tasks import DetectionArgs


def quickstart_detection() -> Run:
    """A small MAT in RetinaNet on the built-in scenes: several garments in each picture, with boxes.

    Pictures of 128x160 px, anchors from 16 px up, AdamW, 16 pictures a step, cosine schedule, averaged weights.
    --detector and --model choose others; --data takes COCO's JSON, YOLO's YAML and Pascal VOC's folders.
    """
    return Run(
        recipe="quickstart_detection",
        task=DetectionArgs(
            model="mat_1", detector="retinanet", detector_args={"anchor_size": 16}, image_size=128, max_size=160
        ),
        data="scenes",
        out=Path("runs/quickstart_detection"),
        epochs=10,
        batch_size=16,
        optim=Optim(lr=1e-3),
        ema_decay=0.99,
    )
