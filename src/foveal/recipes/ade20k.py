"""The thesis's recipes for semantic segmentation on ADE20K: what it states, and from the works that it cites the rest.

Each is for one process; what counts are the pictures a step, processes * batch-size * accumulate (docs/scale.md).
Stated for all (sections 4.6.2 and 5.4.3): AdamW, learning rate 2e-4, 512x512 pixels. From PVT's and Swin's recipes,
which the sections follow: 16 pictures a step and the poly schedule (both stated in 4.6.2) of power 0.9, crops of
pictures at 0.5 to 2 times 2048x512, photometric distortion. Iterations become epochs: 20,210 pictures are 1263 steps of
16.

The thesis starts from weights trained on ImageNet-1K. There are none to download: --model takes the folder of a run,
such as runs/mat_in1k; with a name a recipe starts from scratch. --data names the folder of ADEChallengeData2016.
"""

from pathlib import Path

from ..engine import Optim, Run
from ..tasks import SegmentationArgs


def mat_semantic_fpn_80k() -> Run:
    """MAT in Semantic FPN on ADE20K (section 4.6.2, Table 4.8); --model mat_2 to mat_5.

    Stated: 80k iterations, of which 64 epochs are 80,832, and a weight decay of 1e-4.
    """
    return _ade20k("mat_semantic_fpn_80k", "mat_2", "semantic_fpn", epochs=64, weight_decay=1e-4)


def partialformer_semantic_fpn_80k() -> Run:
    """PartialFormer in Semantic FPN on ADE20K (section 5.4.3, Table 5.7); --model partialformer_b1 to partialformer_b3.

    Stated: 80k iterations, of which 64 epochs are 80,832, and a weight decay of 0.01.
    """
    return _ade20k("partialformer_semantic_fpn_80k", "partialformer_b1", "semantic_fpn", epochs=64, weight_decay=0.01)


def partialformer_upernet_160k() -> Run:
    """PartialFormer in UperNet on ADE20K (section 5.4.3, Table 5.7); --model partialformer_b1 to partialformer_b3.

    Stated: 160k iterations, of which 127 epochs are 160,401, and a weight decay of 0.01.
    """
    return _ade20k("partialformer_upernet_160k", "partialformer_b1", "upernet", epochs=127, weight_decay=0.01)


def _ade20k(recipe: str, model: str, segmenter: str, *, epochs: int, weight_decay: float) -> Run:
    return Run(
        recipe=recipe,
        task=SegmentationArgs(model=model, segmenter=segmenter, image_size=512, max_size=2048, reduce_zero_label=True),
        data="data/ADEChallengeData2016",
        out=Path("runs") / recipe,
        epochs=epochs,
        batch_size=16,
        optim=Optim(lr=2e-4, weight_decay=weight_decay, schedule="poly", poly_power=0.9, warmup_epochs=0),
        channels_last=True,
        workers=8,
        device="cuda",
    )
