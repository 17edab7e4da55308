"""SSD and SSDLite against torchvision's with the same weights, and in closed form."""

import copy
from collections import OrderedDict
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torchvision.models.detection import ssd
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssdlite import SSDLiteHead, _extra_block
from torchvision.ops import box_iou
from torchvision.transforms.functional import to_tensor

from conftest import randomize
from foveal._errors import UserError
from foveal.data import load_data
from foveal.detection import build
from foveal.detection._detector import Detector

NAMES = ["ssd", "ssdlite"]
CLASSES = 10
SIZE = (96, 160)
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}


class Maps(nn.Module):
    """Backbone and extra levels as torchvision takes them."""

    def __init__(self, backbone: nn.Module, extra: nn.ModuleList):
        super().__init__()
        self.backbone, self.extra = backbone, extra

    def forward(self, images: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        maps = self.backbone(images)
        for level in self.extra:
            maps.append(level(maps[-1]))
        return OrderedDict((str(i), x) for i, x in enumerate(maps))


def make(name: str, num_classes: int = CLASSES, **args) -> Detector:
    """A detector with outputs of unit scale, so that there is something to find, and nothing drawn in training."""
    model = randomize(build(name, "test_mat", num_classes, backbone_args=dict(drop_path_rate=0.0), **args))
    for module in model.extra.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 2.0, 6.0)  # or nothing would be above 6
    return model


def plain_level(inputs: int, outputs: int) -> nn.Sequential:
    """An extra level of torchvision's SSD512, where all but the last halve the map."""
    convs = nn.Conv2d(inputs, outputs // 2, kernel_size=1), nn.Conv2d(outputs // 2, outputs, 3, padding=1, stride=2)
    return nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU())


def reference(name: str, ours: Detector, size: tuple[int, int], **thresholds) -> ssd.SSD:
    """torchvision's SSD of its own parts, with the state of ours; pictures are neither resized nor normalised."""
    narrow, wide = ours.backbone.channels
    outputs = ours.num_classes + 1
    if name == "ssd":
        channels = [narrow, wide, 512, 256, 256, 256]
        boxes = DefaultBoxGenerator([[2], [2, 3], [2, 3], [2, 3], [2], [2]], min_ratio=0.15, max_ratio=0.9)
        extra = [plain_level(*pair) for pair in pairwise(channels[1:])]
        head = ssd.SSDHead(channels, boxes.num_anchors_per_location(), outputs)
        kept = {}  # the defaults of torchvision's SSD
    else:
        channels = [narrow, wide, 512, 256, 256, 128]
        boxes = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        extra = [_extra_block(*pair, norm) for pair in pairwise(channels[1:])]
        head = SSDLiteHead(channels, boxes.num_anchors_per_location(), outputs, norm)
        kept = dict(score_thresh=0.001, nms_thresh=0.55, detections_per_img=300, topk_candidates=300)
    levels = Maps(copy.deepcopy(ours.backbone), nn.ModuleList(extra))
    levels.extra.load_state_dict(ours.extra.state_dict())
    head.load_state_dict(ours.head.state_dict())
    options = dict(image_mean=[0.0] * 3, image_std=[1.0] * 3, head=head)
    return ssd.SSD(levels, boxes, size[::-1], outputs, **options, **kept | thresholds)


def random_pictures() -> tuple[torch.Tensor, list[dict]]:
    """Three pictures: of two objects, of twelve, and without any."""
    corners = torch.rand(12, 2) * torch.tensor([90.0, 50.0])
    boxes = torch.cat([corners, corners + 6 + torch.rand(12, 2) * torch.tensor([60.0, 36.0])], 1)
    two = {"boxes": torch.tensor([[8.0, 10, 60, 70], [70.5, 20, 150, 90]]), "labels": torch.tensor([0, CLASSES - 1])}
    return torch.rand(3, 3, *SIZE), [two, {"boxes": boxes, "labels": torch.randint(CLASSES, (12,))}, NONE]


def real_pictures() -> tuple[torch.Tensor, list[dict]]:
    """Three pictures of the built-in garments, the last of them empty."""
    train, _ = load_data("fashion")
    images, targets = torch.full((3, 3, *SIZE), 0.4), []
    garments = iter(range(len(train)))
    for image, number in zip(images, (6, 3)):
        boxes, labels = [], []
        for place in range(number):
            index = next(garments)
            x, y = 50 * (place % 3) + 7, 46 * (place // 3) + 5
            side = 28 + 4 * (place % 3)
            garment = to_tensor(train.picture(index).resize((side, side)))
            image[:, y : y + side, x : x + side] = garment
            boxes.append([x, y, x + side, y + side])
            labels.append(train.label(index))
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float), "labels": torch.tensor(labels)})
    return images, [*targets, NONE]


@pytest.fixture(params=["random", "real"])
def pictures(request):
    return {"random": random_pictures, "real": real_pictures}[request.param]()


def inside(targets: list[dict]) -> list[dict]:
    """Targets as torchvision takes them: the background is 0."""
    return [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]


@pytest.mark.parametrize("name", NAMES)
def test_raw_outputs_equal_torchvision(name, pictures):
    ours = make(name).eval()
    theirs = reference(name, ours, SIZE).eval()
    images, _ = pictures
    with torch.no_grad():
        raw = ours(images)
        maps = list(theirs.backbone(images).values())
        expected = theirs.head(maps)
        batch, _ = theirs.transform(list(images))
        anchors = theirs.anchor_generator(batch, maps)
    torch.testing.assert_close(batch.tensors, images)  # or the comparison would not be one of the same pictures
    torch.testing.assert_close(raw["logits"], expected["cls_logits"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(raw["deltas"], expected["bbox_regression"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(raw["anchors"], anchors[0], rtol=1e-4, atol=1e-4)
    assert raw["logits"].std() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_equal_torchvision(name, pictures):
    ours = make(name).train()
    theirs = reference(name, ours, SIZE).train()
    images, targets = pictures
    losses = ours.losses(ours(images), targets)
    expected = theirs(list(images), inside(targets))
    torch.testing.assert_close(losses["classification"], expected["classification"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses["boxes"], expected["bbox_regression"], rtol=1e-4, atol=1e-4)
    assert min(part.item() for part in losses.values()) > 0.01
    (losses["classification"] + 2 * losses["boxes"]).backward()
    (expected["classification"] + 2 * expected["bbox_regression"]).backward()
    for part, other in [(ours.head, theirs.head), (ours.extra, theirs.backbone.extra)]:
        for parameter, same in zip(part.parameters(), other.parameters(), strict=True):
            scale = same.grad.abs().max().item()
            torch.testing.assert_close(parameter.grad, same.grad, rtol=1e-3, atol=1e-4 * max(1.0, scale))
        for buffer, same in zip(part.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(buffer, same, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "thresholds",
    [
        {},
        dict(detections_per_img=10_000),
        dict(score_thresh=0.2, detections_per_img=10_000),
        dict(nms_thresh=0.3, detections_per_img=25),
    ],
)
def test_detections_equal_torchvision(name, pictures, thresholds):
    ours = make(name, **thresholds).eval()
    theirs = reference(name, ours, SIZE, **thresholds).eval()
    images, _ = pictures
    with torch.no_grad():
        found = ours.detections(ours(images), torch.tensor([SIZE] * 3))
        expected = theirs(list(images))
    for one, other in zip(found, expected, strict=True):
        assert len(one["boxes"])
        assert len(one["labels"].unique()) > 1
        assert torch.equal(one["labels"] + 1, other["labels"])
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one["scores"], other["scores"], rtol=1e-4, atol=1e-4)


def test_few_candidates_of_a_class_equal_torchvision():
    ours = make("ssd", topk_candidates=3).eval()
    theirs = reference("ssd", ours, SIZE, topk_candidates=3).eval()
    images, _ = random_pictures()
    with torch.no_grad():
        found = ours.detections(ours(images), torch.tensor([SIZE] * 3))
        expected = theirs(list(images))
    for one, other in zip(found, expected, strict=True):
        assert 0 < len(one["boxes"]) <= 3 * CLASSES
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_more_positives_than_a_quarter_equal_torchvision(name):
    """Objects on nearly all default boxes leave too few negatives."""
    ours = make(name).eval()
    theirs = reference(name, ours, SIZE).train()
    for part in (theirs.backbone, theirs.head):
        part.eval()
    images = torch.rand(2, 3, *SIZE)
    raw = ours(images)
    anchors = raw["anchors"]
    visible = anchors[: int(0.6 * len(anchors))]
    many = {"boxes": visible, "labels": torch.randint(CLASSES, (len(visible),))}
    losses = ours.losses(raw, [many, NONE])
    expected = theirs(list(images), inside([many, NONE]))
    torch.testing.assert_close(losses["classification"], expected["classification"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses["boxes"], expected["bbox_regression"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_three_negatives_of_each_positive(name):
    """The loss reaches the positive default boxes, and three times as many others of the same picture: the hardest."""
    model = make(name).eval()
    raw = model(torch.rand(2, 3, *SIZE))
    target = {"boxes": raw["anchors"][[40]], "labels": torch.tensor([3])}
    logits = raw["logits"].detach().requires_grad_()
    model.losses(raw | {"logits": logits}, [target, NONE])["classification"].backward()
    reached = logits.grad.abs().sum(2) > 0  # [B, N]
    positive = box_iou(target["boxes"], raw["anchors"])[0] >= 0.5
    assert reached[0][positive].all()
    negatives = (reached[0] & ~positive).nonzero()[:, 0]
    assert len(negatives) == 3 * positive.sum()
    background = logits[0].detach().softmax(1)[:, 0]
    left = ~positive & ~reached[0]
    assert background[negatives].max() <= background[left].min()
    assert not reached[1].any()


@pytest.mark.parametrize("name", NAMES)
def test_levels_at_the_size_of_the_paper(name):
    """Maps of side 20, 10, 5, 3, 2, 1, and default boxes around the centres of their positions."""
    model = make(name).eval()
    with torch.no_grad():
        raw = model(torch.rand(1, 3, 320, 320))
    counts = {"ssd": [4, 6, 6, 6, 4, 4], "ssdlite": [6] * 6}[name]
    sides = [20, 10, 5, 3, 2, 1]
    levels = [side * side * count for side, count in zip(sides, counts)]
    assert len(raw["anchors"]) == sum(levels)
    scale = {"ssd": 0.15, "ssdlite": 0.2}[name] * 320
    torch.testing.assert_close(raw["anchors"][0], torch.tensor([8 - scale / 2] * 2 + [8 + scale / 2] * 2))
    last = raw["anchors"][-counts[-1]]
    side = {"ssd": 0.9, "ssdlite": 0.95}[name] * 320
    torch.testing.assert_close(last, torch.tensor([160 - side / 2] * 2 + [160 + side / 2] * 2))


def level_sizes(name: str, channels: list[int], last: int) -> int:
    """Parameters of the extra levels, the last of which has so many channels, and of the head, for 80 classes."""
    widths = [*channels, 512, 256, 256, last]
    total = 0
    for inputs, outputs in pairwise(widths[1:]):
        half = outputs // 2
        if name == "ssd":
            total += inputs * half + half + 9 * half * outputs + outputs
        else:  # each convolution is followed by a norm of two values a channel
            total += inputs * half + 2 * half + 9 * half + 2 * half + half * outputs + 2 * outputs
    for width, count in zip(widths, {"ssd": [4, 6, 6, 6, 4, 4], "ssdlite": [6] * 6}[name]):
        outputs = count * (81 + 4)
        if name == "ssd":
            total += 9 * width * outputs + outputs
        else:  # classes and boxes have a depthwise convolution with a norm each
            total += 2 * (9 * width + 2 * width) + width * outputs + outputs
    return total


@pytest.mark.parametrize(
    ("name", "args", "last"),
    [("ssd", {}, 256), ("ssdlite", {}, 128), ("ssdlite", {"extra_channels": [512, 256, 256, 192]}, 192)],
)
@pytest.mark.parametrize("backbone", ["test_mat", "test_emsnet", "test_resnet"])
def test_parameters_in_closed_form(name, args, last, backbone):
    model = build(name, backbone, 80, **args)
    parts = [*model.extra.parameters(), *model.head.parameters()]
    assert sum(p.numel() for p in parts) == level_sizes(name, model.backbone.channels, last)
    total = sum(p.numel() for p in model.parameters())
    assert total == sum(p.numel() for p in [*parts, *model.backbone.parameters()])


@pytest.mark.parametrize("channels", [(512, 256, 256), (512, 256, 256, 1), ()])
def test_extra_levels_are_four(channels):
    with pytest.raises(UserError, match="extra_channels takes four numbers of 2 or more, got"):
        build("ssdlite", "test_mat", 3, extra_channels=channels)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 96), (40, 70), (128, 128)])
@pytest.mark.parametrize("batch", [1, 2])
def test_small_pictures_train(name, size, batch):
    """Levels of one position; every parameter gets a gradient, also in a batch of one picture."""
    model = build(name, "test_mat", 3).train()
    target = {"boxes": torch.tensor([[2.0, 3, 20, 30], [5, 6, 38, 39]]), "labels": torch.tensor([0, 2])}
    losses = model.losses(model(torch.rand(batch, 3, *size)), [target] * batch)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert not [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()]
    assert gradients["backbone.body." + next(iter(model.backbone.body.state_dict()))].abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_objects_of_all_sizes_reach_every_parameter(name):
    """An object at a default box of each level: no gradient is zero throughout."""
    model = make(name).train()
    raw = model(torch.rand(2, 3, *SIZE))
    counts = {"ssd": [4, 6, 6, 6, 4, 4], "ssdlite": [6] * 6}[name]
    places = [6 * 10, 3 * 5, 2 * 3, 1 * 2, 1, 1]
    ends = torch.tensor([place * count for place, count in zip(places, counts)]).cumsum(0)
    assert ends[-1] == len(raw["anchors"])
    boxes = raw["anchors"][ends - 1]
    target = {"boxes": boxes, "labels": torch.arange(6)}
    torch.stack(list(model.losses(raw, [target] * 2).values())).sum().backward()
    parts = [*model.extra.named_parameters(), *model.head.named_parameters()]
    silent = [name for name, p in parts if not p.grad.abs().max() > 0]
    assert not silent


@pytest.mark.parametrize("name", NAMES)
def test_pictures_without_objects(name):
    model = build(name, "test_mat", 3).train()
    losses = model.losses(model(torch.rand(2, 3, 64, 96)), [NONE, NONE])
    assert {part: value.item() for part, value in losses.items()} == {"classification": 0.0, "boxes": 0.0}
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_a_single_position_uses_running_statistics():
    """In training the map of a batch of one is normalised as in evaluation, and the statistics stay."""
    model = make("ssdlite").train()
    level = model.extra[-1]
    x = torch.rand(1, 256, 1, 1)
    before = {name: value.clone() for name, value in level.state_dict().items()}
    trained = level(x)
    torch.testing.assert_close(trained, level.eval()(x))
    assert all(torch.equal(value, before[name]) for name, value in level.state_dict().items())
    level.train()(torch.rand(2, 256, 1, 1))
    assert any(not torch.equal(value, before[name]) for name, value in level.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name):
    """Default boxes keep their precision; losses and detections are computed in float32."""
    model = make(name).eval()
    images, targets = random_pictures()
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            raw = model(images)
        losses = model.losses(raw, targets)
        found = model.detections(raw, torch.tensor([SIZE] * 3))
    assert raw["logits"].dtype == torch.bfloat16
    assert torch.equal(raw["anchors"], exact["anchors"])
    assert all(part.dtype == torch.float32 for part in losses.values())
    assert len(found[0]["boxes"])
    assert found[0]["boxes"].dtype == found[0]["scores"].dtype == torch.float32
    for part, value in model.losses({name: x.float() for name, x in raw.items()}, targets).items():
        torch.testing.assert_close(losses[part], value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ratios", [(0, 0.9), (0.9, 0.3), (0.5, 0.5)])
def test_ratios_out_of_order(name, ratios):
    with pytest.raises(UserError, match=r"above 0 and below max_ratio, got 0"):
        build(name, "test_mat", 3, min_ratio=ratios[0], max_ratio=ratios[1])


def test_scales_follow_the_ratios():
    model = build("ssd", "test_mat", 3, min_ratio=0.05, max_ratio=0.5).eval()
    with torch.no_grad():
        first = model(torch.rand(1, 3, 64, 128))["anchors"][0]
    torch.testing.assert_close(first[2:] - first[:2], torch.tensor([0.05 * 128, 0.05 * 64]))


@pytest.mark.parametrize("name", NAMES)
def test_padded_pictures(name):
    """Default boxes are laid on the padded image, boxes end at the picture's."""
    model = make(name).eval()
    images = torch.rand(1, 3, 90, 150)
    padded = torch.zeros(1, 3, *SIZE)
    padded[:, :, :90, :150] = images
    with torch.no_grad():
        raw, expected = model(images), model(padded)
    for part, value in expected.items():
        torch.testing.assert_close(raw[part], value)
    boxes = model.detections(raw, torch.tensor([[90, 150]]))[0]["boxes"]
    assert boxes.amax(0)[2:].tolist() == [150, 90]


def test_initial_weights():
    """As torchvision's: Xavier's bounds, and normal ones of deviation 0.03."""
    for level in build("ssd", "test_mat", 3).extra:
        for conv in (level[0], level[2]):
            area = conv.weight[0, 0].numel()
            bound = (6 / (area * (conv.in_channels + conv.out_channels))) ** 0.5
            assert 0.95 * bound < conv.weight.abs().max() <= bound
            assert not conv.bias.any()
    weights = [p.flatten() for p in build("ssdlite", "test_mat", 3).extra.parameters() if p.ndim == 4]
    assert torch.cat(weights).std().item() == pytest.approx(0.03, rel=0.02)
