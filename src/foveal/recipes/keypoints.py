"""Keypoint recipes."""

from pathlib import Path

from ..engine import Optim, Run
from ..tasks import JointAugment, KeypointArgs


def quickstart_keypoints() -> Run:
    """A small MAT under SimpleBaseline on the built-in figures: where are the joints of each body?

    Bodies at 128x96 px, AdamW, 32 bodies a step, cosine schedule, averaged weights. --model chooses another backbone;
    --data takes COCO's JSON.
    """
    return Run(
        recipe="quickstart_keypoints",
        task=KeypointArgs(
            model="mat_1",
            image_size=96,
            max_size=128,
            estimator_args={"channels": 128},
            augment=JointAugment(scale=0.2, rotation=20.0, half_body=0.0),
        ),
        data="figures",
        out=Path("runs/quickstart_keypoints"),
        epochs=20,
        batch_size=32,
        optim=Optim(lr=1e-3),
        ema_decay=0.99,
        workers=1,
    )
