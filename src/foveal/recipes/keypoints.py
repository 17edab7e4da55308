"""Keypoint recipes."""

from pathlib import Path

from ..engine import Optim, Run
from ..tasks import JointAugment, KeypointArgs


def quickstart_keypoints() -> Run:
    """A narrow PartialFormer under SimpleBaseline on the built-in figures: where are the joints of each body?

    Bodies at 192x144 px, AdamW, 32 bodies a step, cosine schedule, averaged weights. --model chooses another backbone;
    --data takes COCO's JSON.
    """
    small = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [2, 2, 4, 8], "head_hidden": 256}
    return Run(
        recipe="quickstart_keypoints",
        task=KeypointArgs(
            model="partialformer_b0",
            model_args=small | {"drop_path_rate": 0.0},
            image_size=144,
            max_size=192,
            estimator_args={"channels": 128},
            augment=JointAugment(scale=0.2, rotation=20.0, half_body=0.0),
        ),
        data="figures",
        out=Path("runs/quickstart_keypoints"),
        epochs=15,
        batch_size=32,
        optim=Optim(lr=3e-3),
        ema_decay=0.99,
    )


def partialformer_simple_baseline_210e() -> Run:
    """PartialFormer under SimpleBaseline on COCO (section 5.4.2, Table 5.6); --model partialformer_b1 to _b3.

    Stated: crops of 256x192 (Table 5.6), the settings of SimpleBaseline, PVT and Swin, without a number. From
    SimpleBaseline: rotation, scale, mirrored pictures, sigma 2, a quarter of a pixel towards the higher neighbour, both
    views at evaluation. From mmpose's recipes for PVT and Swin: 210 epochs, 512 bodies a step, learning rate 5e-4, a
    tenth of it from epoch 171 and again from 201, 500 steps of warm-up from a thousandth of it, half bodies. AdamW with
    weight decay 0.05 is that of the same section's detectors. No limit of the gradient, no averaged weights.

    It is for one process; what counts are the bodies a step, processes * batch-size * accumulate (docs/scale.md). The
    thesis starts from weights trained on ImageNet-1K: --model takes the folder of a run, such as
    runs/partialformer_in1k. --data names a folder that has annotations/person_keypoints_*.json.
    """
    recipe = "partialformer_simple_baseline_210e"
    return Run(
        recipe=recipe,
        task=KeypointArgs(
            model="partialformer_b1", image_size=192, max_size=256, estimator_args={"decoding": "quarter"}
        ),
        data="data/coco",
        out=Path("runs") / recipe,
        epochs=210,
        batch_size=64,
        accumulate=8,
        optim=Optim(
            lr=5e-4,
            betas=(0.9, 0.999),
            weight_decay=0.05,
            schedule="step",
            decay_epochs=(170, 200),
            warmup_epochs=0,
            warmup_steps=500,
            warmup_lr=5e-7,
            clip_grad=0.0,
        ),
        channels_last=True,
        workers=8,
        device="cuda",
    )
