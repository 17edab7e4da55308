"""The contract of every detector, over our families and six of timm's backbones."""

import copy

import pytest
import timm
import torch
from timm.layers import convert_sync_batchnorm

from conftest import TINY
from foveal._errors import UserError
from foveal.detection import DETECTORS, build
from foveal.necks import FPN, Pyramid

PEERS = [
    "resnet50",
    "swin_tiny_patch4_window7_224",
    "pvt_v2_b0",
    "convnext_atto",
    "mobilenetv4_conv_small",
    "efficientvit_b1",
]
SIZE = (96, 160)
CASES = [(detector, backbone) for detector in DETECTORS for backbone in TINY + PEERS]


SMALL: dict[str, dict] = {  # detectors whose size is their own, and those that untrained find nothing else
    **{name: dict(score_thresh=0.001) for name in ("retinanet", "fcos", "atss")},
    "detr": dict(
        embed_dim=32, num_heads=4, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=64, num_queries=7
    ),
    "sparse_rcnn": dict(num_proposals=7, num_stages=2, dim_feedforward=64, dim_dynamic=16),
}


def make(detector: str, backbone: str = "test_mat", num_classes: int = 3, **args):
    return build(detector, backbone, num_classes, **SMALL.get(detector, {}), **args)


def targets(masks: bool, size: tuple[int, int] = SIZE) -> list[dict]:
    """Of two pictures: two objects, and one."""
    found = []
    for boxes, labels in [([[8, 10, 60, 70], [70.5, 20, 150, 90]], [0, 2]), ([[30, 5, 90, 60.5]], [1])]:
        target = {"boxes": torch.tensor(boxes, dtype=torch.float), "labels": torch.tensor(labels)}
        if masks:
            target["masks"] = torch.zeros(len(labels), *size, dtype=torch.bool)
            for mask, (x1, y1, x2, y2) in zip(target["masks"], target["boxes"].long().tolist()):
                mask[y1:y2, x1:x2] = True
        found.append(target)
    return found


def none(masks: bool, size: tuple[int, int] = SIZE) -> dict:
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    return target | ({"masks": torch.zeros(0, *size, dtype=torch.bool)} if masks else {})


def test_there_are_nine_detectors_and_nine_backbones():
    assert len(DETECTORS) == 9
    assert len(CASES) == 81
    assert {"mat", "emsnet", "partialformer"} == {name.removeprefix("test_") for name in TINY}


@pytest.mark.parametrize(("detector", "backbone"), CASES)
def test_forward_and_backward(detector, backbone):
    """At a size that is not square, in a batch of two; every parameter gets a gradient, and detections are in order."""
    model = make(detector, backbone).train()
    images, sizes = torch.randn(2, 3, *SIZE), torch.tensor([SIZE, SIZE])
    parts = model.losses(model(images, sizes), targets(model.masks))
    assert all(part.shape == () and part.isfinite() for part in parts.values())
    torch.stack(list(parts.values())).sum().backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    model.eval()
    with torch.no_grad():
        found = model.detections(model(images, sizes), sizes)
    assert len(found) == 2
    for one in found:
        check_detections(one, SIZE, model.num_classes, model.masks)


def check_detections(one: dict, size: tuple[int, int], num_classes: int, masks: bool) -> None:
    n = len(one["scores"])
    assert one["boxes"].shape == (n, 4)
    assert one["labels"].shape == (n,)
    assert set(one) == {"boxes", "scores", "labels"} | ({"masks"} if masks else set())
    assert n <= 300
    if n:
        assert (one["scores"].diff() <= 0).all()
        assert one["scores"].min() >= 0
        assert one["scores"].max() <= 1
        assert one["labels"].min() >= 0
        assert one["labels"].max() < num_classes
        x1, y1, x2, y2 = one["boxes"].unbind(1)
        assert (x1 <= x2).all()
        assert (y1 <= y2).all()
        assert x1.min() >= 0
        assert y1.min() >= 0
        assert x2.max() <= size[1]
        assert y2.max() <= size[0]
    if masks:
        assert one["masks"].shape[0] == n
        assert one["masks"].ndim == 3
        assert not n or (one["masks"].min() >= 0 and one["masks"].max() <= 1)


@pytest.mark.parametrize("detector", DETECTORS)
def test_pictures_without_objects(detector):
    model = make(detector).train()
    images, sizes = torch.randn(2, 3, *SIZE), torch.tensor([SIZE, SIZE])
    parts = model.losses(model(images, sizes), [none(model.masks), none(model.masks)])
    total = torch.stack(list(parts.values())).sum()
    assert total.isfinite()
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    mixed = [targets(model.masks)[0], none(model.masks)]
    assert torch.stack(list(model.losses(model(images, sizes), mixed).values())).sum().isfinite()


@pytest.mark.parametrize("size", [(33, 47), (97, 64), (193, 257)])
@pytest.mark.parametrize("detector", DETECTORS)
def test_any_size(detector, size):
    model = make(detector).eval()
    with torch.no_grad():
        raw = model(torch.randn(1, 3, *size))
    (one,) = model.detections(raw, torch.tensor([size]))
    check_detections(one, size, 3, model.masks)


@pytest.mark.parametrize("detector", DETECTORS)
def test_raw_is_the_same_kind_of_thing_in_training_and_evaluation(detector):
    def shapes(value):
        if isinstance(value, dict):
            return {name: shapes(part) for name, part in value.items()}
        return [shapes(part) for part in value] if isinstance(value, list) else tuple(value.shape)

    model, images = make(detector), torch.randn(2, 3, *SIZE)
    assert shapes(model.train()(images)) == shapes(model.eval()(images))


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_picture_of_a_batch_is_as_alone(detector):
    model = make(detector).eval()
    images, sizes = torch.randn(2, 3, *SIZE), torch.tensor([SIZE, SIZE])
    with torch.no_grad():
        together, alone = model.detections(model(images, sizes), sizes), model.detections(model(images[1:]), sizes[1:])
    assert len(alone[0]["scores"])
    for name in alone[0]:
        torch.testing.assert_close(together[1][name], alone[0][name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("detector", DETECTORS)
def test_copies_and_states(detector):
    model = make(detector).eval()
    other = make(detector).eval()
    other.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, *SIZE)
    sizes = torch.tensor([SIZE])
    assert len(model.detections(model(images), sizes)[0]["scores"])
    for one in (other, copy.deepcopy(model)):
        for a, b in zip(one.detections(one(images), sizes), model.detections(model(images), sizes)):
            assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("detector", ["retinanet", "fcos", "atss"])
def test_thresholds_at_the_ends(detector):
    """Of 0 and 1, between which scores lie, neither is an error: all are above the first and none above the second."""
    images, sizes = torch.randn(1, 3, *SIZE), torch.tensor([SIZE])
    for threshold, number in (0, 100), (1, 0):
        model = build(detector, "test_mat", 3, score_thresh=threshold).eval()
        assert len(model.detections(model(images), sizes)[0]["scores"]) == number


@pytest.mark.parametrize("detector", DETECTORS)
def test_bfloat16(detector):
    model = make(detector).train()
    images, sizes = torch.randn(2, 3, *SIZE), torch.tensor([SIZE, SIZE])
    with torch.autocast("cpu", torch.bfloat16):
        parts = model.losses(model(images, sizes), targets(model.masks))
        assert all(part.dtype == torch.float32 and part.isfinite() for part in parts.values())
        model.eval()
        (one, _) = model.detections(model(images, sizes), sizes)
    torch.stack(list(parts.values())).sum().backward()
    check_detections(one, SIZE, 3, model.masks)


@pytest.mark.parametrize("detector", DETECTORS)
def test_frozen(detector):
    model = make(detector, "resnet18", frozen_stages=1, frozen_bn=True).train()
    before = copy.deepcopy(model.state_dict())
    images, sizes = torch.randn(2, 3, *SIZE), torch.tensor([SIZE, SIZE])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    torch.stack(list(model.losses(model(images, sizes), targets(model.masks)).values())).sum().backward()
    optimizer.step()
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert {name for name in before if name.startswith("backbone.") and ".bn" in name} <= same
    assert "backbone.body.conv1.weight" in same
    assert "backbone.body.layer4.0.downsample.0.weight" not in same


@pytest.mark.parametrize("args", [dict(frozen_bn=True), dict(frozen_stages=1)], ids=str)
def test_frozen_statistics_stay_frozen(args):
    """In a new model, and where norms over several processes have taken their place."""
    pyramid = Pyramid("resnet18", (8, 16, 32), **args)
    frozen = {name for name, module in pyramid.named_modules() if "bn" in name and not module.training}
    assert len(frozen) == (17 if "frozen_bn" in args else 5)
    converted = convert_sync_batchnorm(pyramid).train()
    assert {name for name, module in converted.named_modules() if "bn" in name and not module.training} == frozen
    assert type(converted.body.bn1) is not type(timm.create_model("resnet18").bn1)


def test_maps_are_turned_as_timm_says():
    """Swin gives [B, H, W, C]: also where a map is as high as it has channels."""
    pyramid = Pyramid("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)).eval()
    with torch.no_grad():
        maps = pyramid(torch.zeros(1, 3, 384, 416))
    assert [tuple(x.shape[1:]) for x in maps] == [(96, 96, 104), (192, 48, 52), (384, 24, 26), (768, 12, 13)]


def test_frozen_stages_follow_what_a_map_depends_on():
    pyramid = Pyramid("resnet18", (8, 16, 32), frozen_stages=1)
    frozen = {name.split(".")[1] for name, p in pyramid.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    assert all(
        p.requires_grad
        for name, p in pyramid.named_parameters()
        if name.split(".")[1] in ("layer2", "layer3", "layer4")
    )


@pytest.mark.parametrize("name", TINY + PEERS)
def test_pyramid(name):
    """Every backbone gives the maps that it says, in the channels that it says, at an odd size."""
    pyramid = Pyramid(name).eval()
    maps = pyramid(torch.randn(1, 3, 65, 100))
    for x, stride, channels in zip(maps, (4, 8, 16, 32), pyramid.channels, strict=True):
        assert x.shape == (1, channels, 96 // stride, 128 // stride)


def test_pyramid_equals_timm():
    torch.manual_seed(1)
    pyramid = Pyramid("test_mat", (8, 32)).eval()
    whole = timm.create_model("test_mat", features_only=True).eval()
    images = torch.randn(1, 3, 64, 96)
    missing, odd = whole.load_state_dict(pyramid.body.state_dict(), strict=False)
    assert not odd
    for one, other in zip(pyramid(images), [whole(images)[i] for i in (1, 3)], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("extra", "levels"), [(None, 3), ("pool", 4), ("input", 5), ("output", 5)])
def test_fpn(extra, levels):
    """The two coarsest levels come from the backbone's last map or from the pyramid's, whatever their widths."""
    fpn = FPN([8, 12, 16], 16, extra)
    maps = [torch.randn(1, c, 16 // 2**i, 24 // 2**i) for i, c in enumerate([8, 12, 16])]
    out = fpn(maps)
    assert [x.shape[1:] for x in out] == [(16, -(-16 // 2**i), -(-24 // 2**i)) for i in range(levels)]
    changed = fpn([maps[0], maps[1] + 1, maps[2]])
    assert torch.equal(out[2], changed[2])
    if extra == "input":
        with torch.no_grad():
            for block in fpn.layers.inner_blocks:
                block[0].weight.zero_()
        assert torch.equal(fpn(maps)[3], out[3])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (dict(name="retinanett", backbone="test_mat"), "nearest: retinanet"),
        (dict(name="retinanet", backbone="mat_22"), "nearest: mat_2"),
        (dict(name="retinanet", backbone="vit_tiny_patch16_224"), "strides \\[8, 16, 32\\] are needed"),
        (dict(name="retinanet", backbone="test_mat", num_classes=0), "num-classes must be 1 or more"),
        (dict(name="retinanet", backbone="test_mat", wrong=1), "unexpected keyword argument 'wrong'"),
        (dict(name="retinanet", backbone="test_mat", frozen_stages=5), "frozen-stages must be 0 to 4"),
        (dict(name="retinanet", backbone="test_mat", backbone_args={"wrong": 1}), "test_mat does not run"),
    ],
)
def test_what_is_refused(args, message):
    with pytest.raises(UserError, match=message):
        build(**{"num_classes": 2} | args)
