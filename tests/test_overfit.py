"""Every detector learns eight scenes by heart. Slow: ``pytest -m slow tests/test_overfit.py``."""

import math

import pytest
import torch

from foveal.data import BoxAugment, load_data
from foveal.detection import DETECTORS
from foveal.tasks import DetectionArgs

FEW_BOXES = {"rpn_post_nms_top_n_train": 100, "rpn_post_nms_top_n_test": 100, "box_batch_size_per_image": 16}
SMALL = {"num_queries": 16, "embed_dim": 128, "num_encoder_layers": 2, "num_decoder_layers": 3, "dim_feedforward": 256}
SETTINGS = {  # arguments that make detectors small, anchors as small as the garments, and more steps where needed
    "retinanet": {"channels": 64, "anchor_size": 16, "steps": 300},
    "fcos": {"channels": 64},
    "atss": {"channels": 64, "anchor_size": 16},
    "faster_rcnn": {"anchor_size": 16, **FEW_BOXES, "lr": 1e-3},
    "mask_rcnn": {"anchor_size": 16, **FEW_BOXES, "lr": 1e-3},
    "sparse_rcnn": {"num_proposals": 16, "num_stages": 3, "dim_feedforward": 256, "dim_dynamic": 16, "lr": 1e-3},
    "detr": {**SMALL, "dropout": 0.0, "steps": 300, "lr": 1e-3},
}
BACKBONE = dict(embed_dim=16, depths=[1, 1, 2, 1], num_heads=[2, 2, 4, 8])


def overfit(detector: str, steps: int = 200, lr: float = 2e-3, show: int = 0, **detector_args) -> dict[str, float]:
    """AP of the eight pictures that a detector is trained on, in percent."""
    args = DetectionArgs(
        model="partialformer_b0",
        model_args=BACKBONE,
        detector=detector,
        detector_args=detector_args,
        image_size=128,
        max_size=160,
        augment=BoxAugment(hflip=0),
    )
    data, _ = load_data("scenes:8", kind="detection")
    task = args.build(data.classes)
    batches = {}
    for train in (True, False):
        transform = task.transform(train)
        samples = [{"image": data.picture(i), "name": data.name(i), **data.annotation(i)} for i in range(len(data))]
        batches[train] = task.stack([transform(sample, dict) for sample in samples])
    optimizer = torch.optim.AdamW(task.parameters(), lr, weight_decay=0)
    for step in range(steps):
        task.train()
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        parts = task(batches[True])
        parts["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        if show and (step + 1) % show == 0:
            print(step + 1, {k: round(v.item(), 4) for k, v in parts.items()}, average_precision(task, batches[False]))
    return average_precision(task, batches[False])


def average_precision(task, batch: dict) -> dict[str, float]:
    metric = task.eval().metric()
    metric.update(task.predict(batch), batch)
    return metric.compute()


@pytest.mark.slow
@pytest.mark.parametrize("detector", DETECTORS)
def test_a_detector_learns_eight_pictures_by_heart(detector):
    assert overfit(detector, **SETTINGS.get(detector, {}))["AP50"] > 95
