"""Every detector, segmenter and keypoint estimator learns a few pictures by heart.

Slow: ``pytest -m slow tests/test_overfit.py``.
"""

import math
from typing import Any

import pytest
import torch
from PIL import Image

from foveal.data import load_data
from foveal.detection import DETECTORS
from foveal.export import TARGETS, Options, Source, export, prepare
from foveal.keypoints import ESTIMATORS
from foveal.segmentation import SEGMENTERS
from foveal.tasks import BoxAugment, DetectionArgs, JointAugment, KeypointArgs, MaskAugment, SegmentationArgs
from foveal.tasks._transfer import TransferArgs

FEW_BOXES = {"rpn_post_nms_top_n_train": 100, "rpn_post_nms_top_n_test": 100, "box_batch_size_per_image": 16}
SMALL = {"num_queries": 16, "embed_dim": 128, "num_encoder_layers": 2, "num_decoder_layers": 3, "dim_feedforward": 256}
SETTINGS = {  # arguments that make detectors small, anchors as small as the garments, and more steps where needed
    "retinanet": {"channels": 64, "anchor_size": 16, "steps": 300},
    "fcos": {"channels": 64},
    "atss": {"channels": 64, "anchor_size": 16},
    "faster_rcnn": {"anchor_size": 16, **FEW_BOXES, "lr": 1e-3},
    "mask_rcnn": {"anchor_size": 16, **FEW_BOXES, "lr": 1e-3},
    "sparse_rcnn": {
        "num_proposals": 16,
        "num_stages": 3,
        "dim_feedforward": 256,
        "dim_dynamic": 16,
        "lr": 1e-3,
        "steps": 350,
    },
    "detr": {**SMALL, "dropout": 0.0, "steps": 300, "lr": 1e-3},
}
BACKBONE = dict(embed_dim=16, depths=[1, 1, 2, 1], num_heads=[2, 2, 4, 8])


SEEN = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
COMMON: dict[str, Any] = dict(model="partialformer_b0", model_args=BACKBONE, image_size=128, max_size=160)


def overfit(args: TransferArgs, data: Any, steps: int = 200, lr: float = 2e-3) -> tuple[dict[str, float], Any]:
    """The metric's figures, in percent, of the pictures that a model is trained on, and its task."""
    task = args.build(data)
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
        task(batches[True])["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
    metric = task.eval().metric()
    metric.update(task.predict(batches[False]), batches[False])
    return metric.compute(), task


@pytest.mark.slow
@pytest.mark.parametrize("detector", DETECTORS)
def test_a_detector_learns_eight_pictures_by_heart(detector, tmp_path):
    """And what it has learned is found again by ONNX Runtime, at sizes that it has not seen."""
    settings = dict(SETTINGS.get(detector, {}))
    learning = {name: settings.pop(name) for name in ("steps", "lr") if name in settings}
    args = DetectionArgs(**COMMON, detector=detector, detector_args=settings, augment=BoxAugment(hflip=0))
    data, _ = load_data("scenes:8", kind="detection")
    figures, task = overfit(args, data, **learning)
    assert figures["AP50"] > 95
    about: dict[str, Any] = dict(name="run", task="detection", architecture=COMMON["model"], head=detector)
    about |= dict(classes=data.classes, titles={}, preprocessing=SEEN, decoding={}, license="unknown", epoch=None)
    source = Source(model=task.model, size=(128, 160), transform=lambda x: x, **about)
    pictures = [data.picture(i) for i in range(len(data))]
    done = export(prepare(source), TARGETS["onnx"], tmp_path, Options(), pictures)
    assert done.parity.agreed  # something was found, or it would be None


class Squares:
    """The left part of pictures and their masks, so that a training crop of their height is the whole of it."""

    def __init__(self, data: Any):
        self.data, self.classes = data, data.classes

    def __len__(self) -> int:
        return len(self.data)

    def name(self, index: int) -> str:
        return self.data.name(index)

    def picture(self, index: int) -> Image.Image:
        picture = self.data.picture(index)
        return picture.crop((0, 0, picture.height, picture.height))

    def annotation(self, index: int) -> dict[str, Any]:
        mask = self.data.annotation(index)["mask"]
        return {"mask": mask[:, : len(mask)]}


@pytest.mark.slow
@pytest.mark.parametrize("segmenter", SEGMENTERS)
def test_a_segmenter_learns_eight_pictures_by_heart(segmenter):
    args = SegmentationArgs(
        **COMMON,
        segmenter=segmenter,
        segmenter_args={"dropout": 0.0, "channels": 64},
        augment=MaskAugment(scale=(1, 1), max_class_share=1, hflip=0, photometric=False),
    )
    data = Squares(load_data("scenes:8", kind="segmentation")[0])
    assert overfit(args, data, steps=400, lr=5e-3)[0]["mIoU"] > 95


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_keypoint_estimator_learns_a_few_bodies_by_heart(estimator):
    args = KeypointArgs(
        **COMMON | dict(image_size=96, max_size=128),
        estimator=estimator,
        estimator_args={"channels": 128},
        augment=JointAugment(hflip=0, scale=0, rotation=0, half_body=0),
        flip_test=False,  # the mirrored bodies have not been seen
    )
    data, _ = load_data("figures:6", kind="keypoints")
    assert len(data) == 10
    assert overfit(args, data, steps=400, lr=3e-3)[0]["AP"] > 95
