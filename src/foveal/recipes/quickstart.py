"""The recipe of ``foveal train`` without arguments."""

from pathlib import Path

from ..engine import Optim, Run
from ..tasks import Augment, ClassificationArgs


def quickstart() -> Run:
    """A small PartialFormer on the built-in pictures, in about five minutes on two CPU cores.

    Model: PartialFormer with C = 16, one block in stages 1, 2 and 4 and two in stage 3 (0.5 M parameters), 64 pixels.
    Data: 10,000 training and 2,000 validation pictures of Fashion-MNIST. Optimiser: AdamW, batch 128, cosine schedule,
    averaged weights. Augmentation: crops of at least 60 % of the area, flips, label smoothing 0.1.
    """
    return Run(
        recipe="quickstart",
        task=ClassificationArgs(
            model="partialformer_b0",
            model_args=dict(
                embed_dim=16, depths=[1, 1, 2, 1], num_heads=[2, 2, 4, 8], head_hidden=256, drop_path_rate=0.0
            ),
            image_size=64,
            crop_pct=1.0,
            augment=Augment(crop_scale=0.6, crop_ratio=1.25, train_interpolation="bilinear"),
        ),
        data="fashion",
        out=Path("runs/quickstart"),
        epochs=16,
        batch_size=128,
        optim=Optim(lr=3e-3),
        ema_decay=0.99,
        workers=1,
    )
