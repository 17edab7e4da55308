"""The thesis's three ImageNet-1K recipes: what it states, and from the recipes that it cites what it leaves out.

Each is for one process; what counts are the pictures a step, processes * batch-size * accumulate (docs/scale.md).
Common to all: 300 epochs from scratch at 224 pixels, AdamW with betas (0.9, 0.999), cosine schedule by step behind five
epochs of linear warm-up, RandAugment rand-m9-mstd0.5-inc1, random erasing 0.25, label smoothing 0.1, a stochastic depth
that belongs to the variant, bicubic and bilinear crops at random. DeiT's repeated augmentation is named nowhere in the
thesis and left out. --data names a folder with train/SYNSET/PICTURE and val/SYNSET/PICTURE.
"""

from pathlib import Path
from typing import Any

from ..engine import Optim, Run
from ..tasks import Augment, ClassificationArgs


def _in1k(recipe: str, model: str, augment: Augment, optim: Optim, accumulate: int) -> Run:
    return Run(
        recipe=recipe,
        task=ClassificationArgs(model=model, augment=augment),
        data="data/imagenet",
        out=Path("runs") / recipe,
        epochs=300,
        batch_size=256,
        accumulate=accumulate,
        optim=optim,
        precision="fp16",
        channels_last=True,
        workers=8,
        device="cuda",
    )


def _augment(mixup: float) -> Augment:
    return Augment(color_jitter=0.4, auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25, mixup=mixup, cutmix=1.0)


def _optim(**own: Any) -> Optim:
    return Optim(lr=1e-3, betas=(0.9, 0.999), warmup_epochs=5, **own)


def emsnet_in1k() -> Run:
    """EMSNet on ImageNet-1K (section 3.4.1); --model emsnet_xxtiny, emsnet_xtiny or emsnet_tiny.

    Stated: 512 pictures a step (256 on each of two GPUs), learning rate 1e-3, weight decay 0.03, momentum 0.9 (AdamW's
    first beta), 5 epochs of warm-up, automatic mixed precision; label smoothing, Mixup, CutMix, RandAugment and
    stochastic depth as in Swin. From Swin: Mixup 0.8, CutMix 1.0, erasing 0.25, warm-up from 5e-7, cosine to 5e-6,
    gradient norm 5. Ours: stochastic depth 0, 0.05, 0.1 of the three variants. No averaged weights.
    """
    optim = _optim(weight_decay=0.03, warmup_lr=5e-7, min_lr=5e-6, clip_grad=5.0)
    return _in1k("emsnet_in1k", "emsnet_xxtiny", _augment(mixup=0.8), optim, accumulate=2)


def mat_in1k() -> Run:
    """MAT Transformer on ImageNet-1K (section 4.6.2, Table 4.10); --model mat_1 to mat_5.

    Stated: 4096 pictures a step, learning rate 1e-3, cosine to 1e-6, weight decay 0.05, 5 epochs of warm-up from 1e-7,
    Mixup 0.1, CutMix 1.0, erasing 0.25, colour jitter 0.4 (which timm replaces by RandAugment), RandAugment (9, 0.5),
    label smoothing 0.1, stochastic depth 0.05, no averaged weights. The table has no limit of the gradient: none. From
    DeiT: mixed precision.
    """
    optim = _optim(weight_decay=0.05, warmup_lr=1e-7, min_lr=1e-6, clip_grad=0.0)
    return _in1k("mat_in1k", "mat_2", _augment(mixup=0.1), optim, accumulate=16)


def partialformer_in1k() -> Run:
    """PartialFormer on ImageNet-1K (section 5.4.1); --model partialformer_b0 to partialformer_b4.

    Stated: learning rate 1e-3, weight decay 0.005, RandAugment, Mixup, CutMix, random erasing and stochastic depth as
    in DeiT and Swin. The weight decay here is 0.05, that of both cited recipes and of the chapter's own section 5.4.2;
    --weight-decay 0.005 is the printed one. From DeiT: 1024 pictures a step, Mixup 0.8, CutMix 1.0, erasing 0.25, 5
    epochs of warm-up from 1e-6, cosine to 1e-5, mixed precision. From Swin: gradient norm 5. Ours: stochastic depth 0,
    0.05, 0.1, 0.2, 0.3 of the five variants. No averaged weights.
    """
    optim = _optim(weight_decay=0.05, warmup_lr=1e-6, min_lr=1e-5, clip_grad=5.0)
    return _in1k("partialformer_in1k", "partialformer_b1", _augment(mixup=0.8), optim, accumulate=4)
