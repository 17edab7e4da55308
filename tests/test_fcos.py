"""FCOS beside torchvision's with the same backbone and weights, and the assignment of ATSS beside its algorithm."""

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS
from torchvision.ops import box_iou

from conftest import randomize
from foveal.detection import build
from foveal.detection._dense import centerness
from foveal.detection.atss import assign
from test_retinanet import CLASSES, SIZE, Maps, pictures, targets


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    """Ours and torchvision's; its pictures are of the right size and neither resized nor normalised."""
    torch.manual_seed(1)
    ours: Any = randomize(build("fcos", "test_mat", CLASSES)).eval()
    nn.init.normal_(ours.head.classification_head.cls_logits.bias, -2, 0.5)
    ours.head.regression_head.bbox_reg.bias.data.fill_(3)
    same = dict(image_mean=[0.0] * 3, image_std=[1.0] * 3, min_size=SIZE[0], max_size=SIZE[1])
    theirs = FCOS(Maps(ours), CLASSES, **same).eval()
    theirs.head.load_state_dict(ours.head.state_dict())
    return ours, theirs


@pytest.mark.parametrize("kind", ["random", "real"])
def test_raw_outputs_and_detections(pair, kind):
    ours, theirs = pair
    images, sizes = pictures(kind), torch.tensor([SIZE, SIZE])
    with torch.no_grad():
        raw, expected = ours(images, sizes), theirs.head(list(theirs.backbone(images).values()))
        found, others = ours.detections(raw, sizes), theirs(list(images))
    close = dict(rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(raw["logits"], expected["cls_logits"], **close)
    torch.testing.assert_close(raw["distances"], expected["bbox_regression"], **close)
    torch.testing.assert_close(raw["centerness"], expected["bbox_ctrness"][..., 0], **close)
    for one, other in zip(found, others, strict=True):
        assert len(one["boxes"]) > 20
        assert len({*one["labels"].tolist()}) > 3
        for name in ("boxes", "scores", "labels"):
            torch.testing.assert_close(one[name], other[name], **close)


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("kind", ["random", "real"])
def test_losses(pair, kind, empty):
    ours, theirs = pair
    images, wanted = pictures(kind), targets(empty)
    theirs.training = True  # of the whole alone: it then gives losses, and BatchNorm stays as it is
    others = theirs(list(images), wanted)
    theirs.training = False
    parts = ours.losses(ours(images, torch.tensor([SIZE, SIZE])), wanted)
    names = {"classification": "classification", "boxes": "bbox_regression", "centerness": "bbox_ctrness"}
    assert parts.keys() == names.keys()
    assert all(part > 0.1 for part in parts.values())
    for name, other in names.items():
        torch.testing.assert_close(parts[name], others[other], rtol=1e-4, atol=1e-4)


def test_the_smallest_object_gets_the_point():
    model: Any = build("fcos", "test_mat", 2)
    anchors = torch.tensor([[8.0 * x, 0, 8 * x + 8, 8] for x in range(4)])
    boxes = torch.tensor([[0.0, 0, 32, 8], [6, 0, 26, 8]])
    assert model.assign(anchors, [4, 0], boxes).tolist() == [-1, 1, 1, -1]
    assert model.assign(anchors, [4, 0], boxes[:1]).tolist() == [-1, 0, 0, -1]
    assert model.assign(anchors, [4, 0], boxes[:0]).tolist() == [-1] * 4


def literally(anchors: torch.Tensor, levels: list[int], boxes: torch.Tensor, topk: int) -> list[int]:
    """Algorithm 1 of ATSS, line by line."""
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    overlaps = box_iou(anchors, boxes)
    positives = {}
    for g, box in enumerate(boxes):
        middle = (box[:2] + box[2:]) / 2
        chosen, first = [], 0
        for count in levels:
            order = sorted(range(first, first + count), key=lambda i: float((centers[i] - middle).norm()))
            chosen += order[:topk]
            first += count
        values = overlaps[chosen, g]
        threshold = values.mean() + values.std()
        for i in chosen:
            inside = (centers[i] > box[:2]).all() and (centers[i] < box[2:]).all()
            if overlaps[i, g] >= threshold and inside:
                positives.setdefault(i, []).append(g)
    objects = [-1] * len(anchors)
    for i, candidates in positives.items():
        objects[i] = max(candidates, key=lambda g: float(overlaps[i, g]))
    return objects


@pytest.mark.parametrize("seed", range(5))
def test_atss_assigns_as_its_algorithm(seed):
    torch.manual_seed(seed)
    model: Any = build("atss", "test_mat", 3, anchor_size=24)
    raw = model(torch.randn(1, 3, 96, 160))
    corners = torch.rand(6, 2) * torch.tensor([110.0, 60])
    boxes = torch.cat([corners, corners + 6 + torch.rand(6, 2) * 50], dim=1)
    levels = raw["levels"].tolist()
    found = assign(raw["anchors"], levels, boxes, 9)
    expected = literally(raw["anchors"], levels, boxes, 9)
    assert found.tolist() == expected
    assert len({*expected}) > 3


def test_atss_losses_by_hand():
    """Of one positive anchor: focal loss of all logits, GIoU 1 - IoU of nested boxes, and cross entropy."""
    model: Any = build("atss", "test_mat", 1, topk=1)
    anchors = torch.tensor([[0.0, 0, 10, 10], [40, 40, 50, 50]])
    raw = {"anchors": anchors, "levels": torch.tensor([2]), "logits": torch.zeros(1, 2, 1)}
    raw |= {"deltas": torch.zeros(1, 2, 4), "centerness": torch.zeros(1, 2)}
    target = {"boxes": torch.tensor([[0.0, 0, 10, 20]]), "labels": torch.tensor([0])}
    parts = model.losses(raw, [target])
    log2 = torch.tensor(2.0).log()
    center = (5 / 5 * 5 / 15) ** 0.5
    assert centerness(anchors[:1], target["boxes"]).item() == pytest.approx(center)
    torch.testing.assert_close(parts["classification"], (0.25 + 0.75) * 0.25 * log2)
    torch.testing.assert_close(parts["boxes"], torch.tensor(2 * (1 - 0.5) * center))  # by the clamped sum, 1
    torch.testing.assert_close(parts["centerness"], log2)


def test_atss_scores_are_class_times_centerness():
    model: Any = build("atss", "test_mat", 2)
    raw = {"anchors": torch.tensor([[0.0, 0, 10, 10], [40, 40, 50, 50]]), "levels": torch.tensor([2])}
    raw |= {"logits": torch.tensor([[[-9.0, 0], [0, -9]]]), "deltas": torch.zeros(1, 2, 4)}
    raw |= {"centerness": torch.tensor([[0.0, 2]])}
    (found,) = model.detections(raw, torch.tensor([[48, 48]]))
    assert found["labels"].tolist() == [0, 1]
    torch.testing.assert_close(found["scores"], 0.5 * torch.tensor([2.0, 0]).sigmoid())
    torch.testing.assert_close(found["boxes"], torch.tensor([[40.0, 40, 48, 48], [0, 0, 10, 10]]))
