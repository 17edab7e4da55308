"""Recipes that start from what another network has learnt."""

from pathlib import Path

from ..engine import Optim, Run
from ..tasks import Augment, ClassificationArgs


def finetune() -> Run:
    """A trained network on own pictures, in few epochs; --model takes timm's names and the folders of runs.

    Learning rates shrink by 0.75 from one layer group to the one below it, so that what is general stays; AdamW, 64
    pictures a step, cosine schedule, averaged weights. Augmentation: crops of at least 35 % of the area, flips, a mild
    RandAugment, label smoothing 0.1.
    """
    return Run(
        recipe="finetune",
        task=ClassificationArgs(
            model="mobilenetv4_conv_small.e2400_r224_in1k",
            pretrained=True,
            augment=Augment(crop_scale=0.35, auto_augment="rand-m5-mstd0.5-inc1"),
        ),
        data="fashion",
        out=Path("runs/finetune"),
        epochs=8,
        batch_size=64,
        optim=Optim(lr=1e-3, layer_decay=0.75, warmup_epochs=0.5),
        ema_decay=0.99,
    )


def distill() -> Run:
    """A small MAT learns from a teacher's probabilities and from the labels, half each.

    --teacher takes the folders of runs, and timm's names where the data has the classes of their weights; --distill
    hard learns its decisions instead. The teacher sees the student's augmented pictures in its own normalisation.
    AdamW, 128 pictures a step, cosine schedule, averaged weights, Mixup 0.2: a patient teacher that also judges mixed
    pictures (Beyer et al., 2022).
    """
    return Run(
        recipe="distill",
        task=ClassificationArgs(
            model="mat_1",
            augment=Augment(crop_scale=0.25, mixup=0.2),
            teacher="runs/finetune",
            temperature=2.0,
        ),
        data="fashion",
        out=Path("runs/distill"),
        epochs=30,
        batch_size=128,
        optim=Optim(lr=1e-3, warmup_epochs=2),
        ema_decay=0.99,
    )
