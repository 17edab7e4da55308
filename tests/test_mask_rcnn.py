"""Faster R-CNN and Mask R-CNN against torchvision's with the same weights, and RoIAlign against its operator."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.ops import MultiScaleRoIAlign
from torchvision.transforms.functional import to_tensor

from conftest import randomize
from foveal.data import load_data
from foveal.detection import build
from foveal.detection._roi_align import roi_align

SIZES = [(110, 128), (128, 96), (100, 120)]  # of the pictures of a batch
PARTS = {
    "objectness": "loss_objectness",
    "proposals": "loss_rpn_box_reg",
    "classification": "loss_classifier",
    "boxes": "loss_box_reg",
    "masks": "loss_mask",
}
DETECTORS = ["faster_rcnn", "mask_rcnn"]


class Maps(nn.Module):
    """Backbone and neck as torchvision takes them."""

    out_channels = 256

    def __init__(self, backbone: nn.Module, neck: Any):
        super().__init__()
        self.backbone, self.fpn = backbone, neck.layers

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.fpn({str(i): x for i, x in enumerate(self.backbone(images))})


def make(name: str, num_classes: int = 10, **args) -> Any:
    """A detector with outputs of unit scale and boxes of many classes, so that there is something to find."""
    model: Any = randomize(build(name, "test_mat", num_classes, **args)).eval()
    with torch.no_grad():
        raw = model(torch.randn(1, 3, 96, 128))
        model.box_predictor.cls_score.weight *= 3
        logits, _ = model.box_outputs(raw["maps"], model.proposals(raw, raw["sizes"], 1000, 1000))
        model.box_predictor.cls_score.bias -= logits.mean(0)
        if model.masks:
            model.mask_predictor.mask_fcn_logits.weight *= 4
    return model


def reference(ours: Any, **args) -> Any:
    """torchvision's detector with the state of ours; pictures are neither resized nor normalised."""
    cls = MaskRCNN if ours.masks else FasterRCNN
    model: Any = cls(Maps(copy.deepcopy(ours.backbone), copy.deepcopy(ours.neck)), ours.num_classes + 1, **args)
    state = {}
    for key, value in ours.state_dict().items():
        layer, _, rest = key.partition(".")
        where = {"backbone": "backbone.backbone", "rpn": "rpn.head", "neck": "backbone.fpn"}
        state[f"{where.get(layer, f'roi_heads.{layer}')}.{rest.removeprefix('layers.')}"] = value
    model.load_state_dict(state)
    model.transform.normalize = lambda image: image
    model.transform.resize = lambda image, target=None: (image, target)
    model.transform.postprocess = lambda result, sizes, originals: result
    return model


def random_pictures() -> tuple[list[torch.Tensor], list[dict]]:
    """Noise with a few random boxes, of which some touch the picture's edges; the last one has none."""
    pictures, targets = [], []
    for count, (height, width) in zip((4, 3, 0), SIZES):
        sides = torch.tensor([width, height])
        start = torch.rand(count, 2) * sides * 0.6
        boxes = torch.cat([start, torch.minimum(start + 15 + torch.rand(count, 2) * 60, sides)], dim=1)
        masks = torch.rand(count, height, width) < 0.7
        pictures.append(torch.randn(3, height, width))
        targets.append({"boxes": boxes, "labels": torch.randint(10, (count,)), "masks": masks})
    return pictures, targets


def real_pictures() -> tuple[list[torch.Tensor], list[dict]]:
    """Tiles of garments, of which the last picture has none marked."""
    data: Any = load_data("fashion")[0]
    pictures, targets, next_one = [], [], 0
    for count, (height, width) in zip((6, 4, 0), SIZES):
        picture = torch.zeros(3, height, width)
        masks = torch.zeros(count, height, width, dtype=torch.uint8)
        boxes, labels = [], []
        for place in range(9):
            top, left = 32 * (place // 3), 32 * (place % 3)
            tile = to_tensor(data.picture(next_one))
            picture[:, top : top + 28, left : left + 28] = tile
            if place < count:
                masks[place, top : top + 28, left : left + 28] = tile[0] > 0.1
                boxes.append([left, top, left + 28.0, top + 28.0])
                labels.append(data.label(next_one))
            next_one += 1
        pictures.append(picture)
        target = {"boxes": torch.tensor(boxes).view(-1, 4), "labels": torch.tensor(labels).long()}
        targets.append(target | {"masks": masks})
    return pictures, targets


PICTURES = [random_pictures, real_pictures]


def batch(pictures: list[torch.Tensor], targets: list[dict]) -> tuple[torch.Tensor, torch.Tensor, list[dict]]:
    """Images, sizes and targets, padded to the largest height and width."""
    sizes = torch.tensor([picture.shape[1:] for picture in pictures])
    height, width = sizes.amax(0).tolist()
    images = torch.zeros(len(pictures), 3, height, width)
    padded = []
    for image, picture, target in zip(images, pictures, targets):
        h, w = picture.shape[1:]
        image[:, :h, :w] = picture
        masks = target["masks"].new_zeros(len(target["masks"]), height, width)
        masks[:, :h, :w] = target["masks"]
        padded.append(target | {"masks": masks})
    return images, sizes, padded


def equal(one: torch.Tensor | None, other: torch.Tensor | None) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pictures", PICTURES)
def test_raw_outputs_equal_torchvision(pictures):
    ours = make("faster_rcnn")
    theirs = reference(ours).eval()
    found, targets = pictures()
    images, sizes, _ = batch(found, targets)
    with torch.no_grad():
        raw = ours(images, sizes)
        stacked, _ = theirs.transform(found)
        maps = theirs.backbone(stacked.tensors)
        objectness, deltas = theirs.rpn.head(list(maps.values()))
        anchors = theirs.rpn.anchor_generator(stacked, list(maps.values()))
    assert [x.shape[2] for x in raw["maps"]] == [32, 16, 8, 4]
    for one, other in zip(raw["maps"], maps.values()):
        equal(one, other)
    assert len(objectness) == 5
    equal(raw["objectness"], torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in objectness], 1))
    equal(raw["deltas"], torch.cat([x.permute(0, 2, 3, 1).reshape(3, -1, 4) for x in deltas], 1))
    assert torch.equal(raw["anchors"], anchors[0])
    assert raw["levels"].tolist() == [x[0].numel() for x in objectness]
    assert torch.equal(raw["sizes"], torch.tensor(SIZES))


@pytest.mark.parametrize("pictures", PICTURES)
@pytest.mark.parametrize("name", DETECTORS)
def test_losses_and_gradients_equal_torchvision(name, pictures):
    """The same seed draws the same anchors and proposals, fewer than there are of each kind."""
    sampled = dict(rpn_batch_size_per_image=40, box_batch_size_per_image=30)
    ours = make(name, **sampled).train()
    theirs = reference(ours, **sampled).train()
    found, targets = pictures()
    images, sizes, padded = batch(found, targets)
    torch.manual_seed(1)
    parts = ours.losses(ours(images, sizes), padded)
    after = torch.rand(())
    torch.manual_seed(1)
    expected = theirs(found, [target | {"labels": target["labels"] + 1} for target in targets])
    assert torch.equal(after, torch.rand(()))
    assert set(parts) == set(PARTS) - (set() if ours.masks else {"masks"})
    assert len(parts) == len(expected)
    for part, value in parts.items():
        assert value > 0.01
        equal(value, expected[PARTS[part]])
    torch.stack(list(parts.values())).sum().backward()
    torch.stack(list(expected.values())).sum().backward()
    gradients = [parameter.grad for parameter in ours.parameters()]
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    pairs = [(ours.backbone, theirs.backbone.backbone), (ours.neck.layers, theirs.backbone.fpn)]
    pairs += [(ours.rpn, theirs.rpn.head), (ours.box_head, theirs.roi_heads.box_head)]
    pairs += [(ours.mask_head, theirs.roi_heads.mask_head)] if ours.masks else []
    for one, other in pairs:
        gradient = torch.cat([parameter.grad.flatten() for parameter in one.parameters()])
        same = torch.cat([parameter.grad.flatten() for parameter in other.parameters()])
        assert (gradient - same).norm() < 1e-3 * same.norm()  # a ReLU near zero may take the other side


@pytest.mark.parametrize("pictures", PICTURES)
@pytest.mark.parametrize("name", DETECTORS)
def test_detections_equal_torchvision(name, pictures):
    ours = make(name, box_detections_per_img=40)
    theirs = reference(ours, box_detections_per_img=40).eval()
    found, targets = pictures()
    images, sizes, _ = batch(found, targets)
    with torch.no_grad():
        detections, expected = ours.detections(ours(images, sizes), sizes), theirs(found)
    for one, other, (height, width) in zip(detections, expected, SIZES, strict=True):
        assert len(one["scores"]) == 40
        assert len(one["labels"].unique()) > 1
        assert (one["boxes"][:, 2:] == torch.tensor([width, height])).any()  # clipped to this picture
        equal(one["scores"], other["scores"])
        equal(one["boxes"], other["boxes"])
        assert torch.equal(one["labels"] + 1, other["labels"])
        if ours.masks:
            assert one["masks"].shape == (40, 28, 28)
            assert one["masks"].std() > 0.1
            equal(one["masks"], other["masks"][:, 0])


def test_fewer_proposals_and_detections():
    """The limits of training and of detection are apart, and do not depend on the mode."""
    ours = make(
        "mask_rcnn",
        anchor_size=8,
        rpn_pre_nms_top_n_train=60,
        rpn_post_nms_top_n_train=50,
        rpn_pre_nms_top_n_test=30,
        rpn_post_nms_top_n_test=20,
        rpn_nms_thresh=0.9,
        box_score_thresh=0.2,
        box_nms_thresh=0.2,
        box_detections_per_img=4,
    )
    images, sizes, targets = batch(*random_pictures())
    raw = ours(images, sizes)
    assert (raw["anchors"][:, 2:] - raw["anchors"][:, :2]).min() == 6  # round(8 / sqrt(2) / 2) * 2
    for top_n, count in ((ours.top_n_train, 50), (ours.top_n_test, 20)):
        assert [len(boxes) for boxes in ours.proposals(raw, sizes, *top_n)] == [count] * 3
    seen = []
    regions = ours.regions
    ours.regions = lambda proposals, targets: seen.extend(map(len, proposals)) or regions(proposals, targets)
    ours.losses(raw, targets)
    assert seen == [50] * 3
    detections = ours.train().detections(raw, sizes)
    assert [len(one["scores"]) for one in detections] == [4] * 3
    assert all(one["scores"].min() > 0.2 for one in detections)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_parameter_has_a_gradient_without_objects(name):
    """Several processes wait for all gradients: they are zero, and not missing, in the layers that saw nothing."""
    model = make(name).train()
    found, targets = random_pictures()
    images, sizes, padded = batch(found[2:] * 2, targets[2:] * 2)
    parts = model.losses(model(images, sizes), padded)
    assert parts["boxes"] == parts["proposals"] == parts.get("masks", 0) == 0
    assert parts["classification"] > 0
    torch.stack(list(parts.values())).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    if model.masks:
        assert all(parameter.grad.abs().max() == 0 for parameter in model.mask_head.parameters())


def test_heads_alone():
    """Each can be run on boxes of one's choice, and a box does not depend on the others."""
    model = make("mask_rcnn")
    with torch.no_grad():
        maps = model(torch.randn(2, 3, 64, 96))["maps"]
        boxes = [torch.tensor([[3.0, 5, 40, 60], [0, 0, 96, 64]]), torch.tensor([[20.0, 10, 21, 50]])]
        logits, deltas = model.box_outputs(maps, boxes)
        masks = model.mask_outputs(maps, boxes)
        assert (logits.shape, deltas.shape, masks.shape) == ((3, 11), (3, 11, 4), (3, 11, 28, 28))
        equal(logits[2:], model.box_outputs(maps, [boxes[0][:0], boxes[1]])[0])
        equal(masks[2:], model.mask_outputs(maps, [boxes[0][:0], boxes[1]]))


@pytest.mark.parametrize("size", [7, 14])
def test_roi_align_equals_torchvision(size):
    """Values and gradients on all levels, of boxes at and beyond the edges, too, thin and empty; of no box as well."""
    sides = torch.tensor([1024, 768])
    start = torch.rand(60, 2) * sides * 0.7
    boxes = torch.cat([start, start + 2 ** (3 + torch.rand(60, 2) * 7)], dim=1)
    odd = [[1023.8, 767.9, 1024, 768], [0, 0, 1024, 768], [-30, -9, 8, 7], [5, 5, 5, 5], [900, 9, 1200, 12]]
    boxes = [torch.cat([boxes[:40], torch.tensor(odd)]), torch.zeros(0, 4), boxes[40:]]
    maps = [torch.randn(3, 8, 768 // stride, 1024 // stride, requires_grad=True) for stride in (4, 8, 16, 32)]
    others = [x.detach().clone().requires_grad_() for x in maps]
    layer: Any = MultiScaleRoIAlign(["0", "1", "2", "3"], size, 2)
    expected = layer({str(i): x for i, x in enumerate(others)}, boxes, [(768, 1024)] * 3)
    assert layer.map_levels(boxes).unique().tolist() == [0, 1, 2, 3]
    pooled = roi_align(maps, boxes, size)
    equal(pooled, expected)
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn_like(expected)
    (pooled * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(maps, others):
        equal(one.grad, other.grad)


def test_roi_align_in_half_precision_is_rounded_once():
    maps = [torch.randn(1, 8, 16, 24).bfloat16()]
    boxes = [torch.tensor([[3.3, 5.1, 60.7, 50.2]])]
    pooled = roi_align(maps, boxes, 7)
    assert torch.equal(pooled, roi_align([x.float() for x in maps], boxes, 7).bfloat16())


def test_anchors_are_exact_under_autocast():
    """In bfloat16 a coordinate above 256 would be off by a pixel or more, here and in what follows."""
    model = make("faster_rcnn")
    images = torch.randn(1, 3, 32, 512)
    with torch.no_grad():
        expected = model(images)["anchors"]
        with torch.autocast("cpu", torch.bfloat16):
            raw = model(images)
        assert raw["maps"][0].dtype == torch.bfloat16
        assert torch.equal(raw["anchors"], expected)
        assert torch.equal(model(images)["anchors"], expected)


def test_compiled_and_exported():
    """The forward pass is one graph; boxes are chosen outside of it."""
    model = make("mask_rcnn")
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = model(images)
        compiled = torch.compile(model, backend="eager", fullgraph=True)(images)
        exported = torch.export.export(model, (images,)).module()(images)
    for raw in (compiled, exported):
        assert set(raw) == set(expected)
        for key in ("objectness", "deltas", "anchors"):
            equal(raw[key], expected[key])
        for one, other in zip(raw["maps"], expected["maps"], strict=True):
            equal(one, other)
