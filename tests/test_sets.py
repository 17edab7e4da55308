"""DETR beside Hugging Face's with the same backbone and weights; Sparse R-CNN beside its equations."""

import copy
import itertools
import math
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import box_convert, generalized_box_iou, roi_align, sigmoid_focal_loss
from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from conftest import randomize
from foveal._errors import UserError
from foveal.detection import build
from test_retinanet import CLASSES, SIZE, pictures, targets

SIZES = torch.tensor([SIZE, (100, 150)])  # of the second picture, less than of the batch: the rest is padding
SMALL = dict(embed_dim=32, num_heads=4, num_encoder_layers=2, num_decoder_layers=3, dim_feedforward=64, num_queries=9)


class Maps(nn.Module):
    """Our backbone as Hugging Face takes it."""

    def __init__(self, pyramid: nn.Module):
        super().__init__()
        self.pyramid = pyramid

    def forward(self, images: torch.Tensor, mask: torch.Tensor) -> list:
        (x,) = self.pyramid(images)
        return [(x, F.interpolate(mask[None].float(), x.shape[2:])[0].bool())]


class Fixed(nn.Module):
    """A backbone that gives one map."""

    def __init__(self, x: torch.Tensor):
        super().__init__()
        self.x = x

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self.x]


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    torch.manual_seed(1)
    ours: Any = randomize(build("detr", "test_mat", CLASSES, **SMALL)).eval()
    nn.init.normal_(ours.query_embed.weight, std=3)  # or queries would all see the same
    with torch.no_grad():  # boxes all over the picture
        ours.bbox_embed[6].weight.mul_(5)
        ours.bbox_embed[6].bias.sub_(ours(pictures("random"))["boxes"].logit().mean((0, 1, 2)))
    config = DetrConfig(
        backbone_config=ResNetConfig(depths=[1] * 4, hidden_sizes=[8] * 4, embedding_size=8, out_features=["stage4"]),
        num_labels=CLASSES,
        d_model=32,
        num_queries=9,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
    )
    theirs: Any = DetrForObjectDetection(config).eval()
    theirs.model.backbone = Maps(ours.backbone)
    theirs.model.input_projection = nn.Conv2d(ours.backbone.channels[0], 32, 1)
    state = {f"model.backbone.pyramid.{name}": value for name, value in ours.backbone.state_dict().items()}
    names = {
        "input_proj": "model.input_projection",
        "query_embed": "model.query_position_embeddings",
        "norm": "model.decoder.layernorm",
        "class_embed": "class_labels_classifier",
        "bbox_embed.0": "bbox_predictor.layers.0",
        "bbox_embed.3": "bbox_predictor.layers.1",
        "bbox_embed.6": "bbox_predictor.layers.2",
    }
    layer = {"self_attn": "self_attn", "norm1": "self_attn_layer_norm", "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2"}
    encoder = layer | {"norm2": "final_layer_norm"}
    decoder = layer | {"cross_attn": "encoder_attn", "norm2": "encoder_attn_layer_norm", "norm3": "final_layer_norm"}
    names |= {f"encoder.{i}.{a}": f"model.encoder.layers.{i}.{b}" for i in range(2) for a, b in encoder.items()}
    names |= {f"decoder.{i}.{a}": f"model.decoder.layers.{i}.{b}" for i in range(3) for a, b in decoder.items()}
    for ours_name, name in names.items():
        module = ours.get_submodule(ours_name)
        if isinstance(module, nn.MultiheadAttention):
            for kind in ("weight", "bias"):
                parts = getattr(module, f"in_proj_{kind}").chunk(3)
                state |= {f"{name}.{x}_proj.{kind}": part for x, part in zip("qkv", parts)}
            state |= {f"{name}.o_proj.{k}": value for k, value in module.out_proj.state_dict().items()}
        else:
            state |= {f"{name}.{k}": value for k, value in module.state_dict().items()}
    theirs.load_state_dict(state)
    return ours, theirs


def mask_of(sizes: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(len(sizes), *SIZE)
    for inside, (height, width) in zip(mask, sizes.tolist()):
        inside[:height, :width] = 1
    return mask


def padded(kind: str) -> torch.Tensor:
    return pictures(kind) * mask_of(SIZES)[:, None]


def as_labels(wanted: list[dict], sizes: torch.Tensor) -> list[dict]:
    """Targets as Hugging Face takes them."""
    found = []
    for target, (height, width) in zip(wanted, sizes.tolist()):
        boxes = box_convert(target["boxes"], "xyxy", "cxcywh") / torch.tensor([width, height] * 2)
        found.append({"boxes": boxes, "class_labels": target["labels"]})
    return found


@pytest.mark.parametrize("kind", ["random", "real"])
def test_detr_gives_the_same_raw_outputs_and_detections(pair, kind):
    ours, theirs = pair
    images = padded(kind)
    with torch.no_grad():
        raw, expected = ours(images, SIZES), theirs(images, mask_of(SIZES))
    close = dict(rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(raw["logits"][-1], expected.logits, **close)
    torch.testing.assert_close(raw["boxes"][-1], expected.pred_boxes, **close)
    assert raw["boxes"][-1].std(1).min() > 0.005  # queries differ
    found = ours.detections(raw, SIZES)
    others = DetrImageProcessor().post_process_object_detection(expected, threshold=0, target_sizes=SIZES)
    for one, other, (height, width) in zip(found, others, SIZES.tolist()):
        order = other["scores"].argsort(descending=True)
        torch.testing.assert_close(one["scores"], other["scores"][order], **close)
        assert torch.equal(one["labels"], other["labels"][order])
        boxes = other["boxes"][order].clamp(min=0).minimum(torch.tensor([width, height] * 2))
        torch.testing.assert_close(one["boxes"], boxes, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("kind", ["random", "real"])
def test_detr_has_the_same_losses(pair, kind, empty):
    """Of all decoder layers: those before the last are Hugging Face's auxiliary outputs."""
    ours, theirs = pair
    wanted = targets(empty)
    wanted[1]["boxes"] = wanted[1]["boxes"] * 0.6
    raw = ours(padded(kind), SIZES)
    parts = ours.losses(raw, wanted)
    config = theirs.config
    config.auxiliary_loss = True
    arguments = raw["logits"][-1], as_labels(wanted, SIZES), "cpu", raw["boxes"][-1], config
    loss, others, _ = ForObjectDetectionLoss(*arguments, raw["logits"], raw["boxes"])
    config.auxiliary_loss = False
    for name, other, weight in [("classification", "ce", 1), ("boxes", "bbox", 5), ("giou", "giou", 2)]:
        expected = weight * sum(others[f"loss_{other}{layer}"] for layer in ("", "_0", "_1"))
        assert expected > 0.1
        torch.testing.assert_close(parts[name], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sum(parts.values()), loss, rtol=1e-4, atol=1e-4)


def test_detr_does_not_look_at_padding(pair):
    """What the backbone makes of the padding has no influence on any box."""
    ours, _ = pair
    images = padded("random")
    (x,) = ours.backbone(images)
    changed = x.clone()
    changed[1, :, 4:], changed[1, :, :, 5:] = 7, 7  # behind 100 rows and 150 columns
    with torch.no_grad():
        raws = []
        for maps in (x, changed):
            model = copy.copy(ours)
            model._modules = {**ours._modules, "backbone": Fixed(maps)}
            raws.append(model(images, SIZES))
    assert torch.equal(raws[0]["boxes"], raws[1]["boxes"])
    assert torch.equal(raws[0]["logits"], raws[1]["logits"])


def test_matching_is_the_cheapest_of_all():
    """Beside every assignment of three objects to five predictions."""
    model: Any = build("sparse_rcnn", "test_mat", 4, num_proposals=5, num_stages=2, dim_feedforward=16)
    logits, labels = torch.randn(2, 5, 4), torch.tensor([3, 0, 3])
    corners = torch.rand(2, 5, 2) * 0.5
    boxes = torch.cat([corners, corners + torch.rand(2, 5, 2) * 0.5], dim=2)
    objects = boxes[0, [4, 1, 2]] + 0.02 * torch.randn(3, 4)
    layers, places, matched = model.match(logits, boxes, objects, labels)
    assert layers.tolist() == [0, 0, 0, 1, 1, 1]
    for layer in range(2):
        p = logits[layer].sigmoid()[:, labels]
        focal = 0.25 * (1 - p) ** 2 * -p.log() - 0.75 * p**2 * -(1 - p).log()
        distance = (boxes[layer][:, None] - objects).abs().sum(2)
        cost = 2 * focal + 5 * distance - 2 * generalized_box_iou(boxes[layer], objects)
        total = {rows: float(cost[rows, range(3)].sum()) for rows in itertools.permutations(range(5), 3)}
        best = min(total, key=total.__getitem__)
        found = dict(zip(matched[layers == layer].tolist(), places[layers == layer].tolist()))
        assert [found[c] for c in range(3)] == list(best)
    more = model.match(logits[:, :1], boxes[:, :1], objects, labels)  # objects are left over
    assert [len(indices) for indices in more] == [2, 2, 2]


def test_values_that_are_not_finite_do_not_stop_the_matching():
    model: Any = build("detr", "test_mat", 2, **SMALL)
    boxes = torch.full((1, 3, 4), torch.nan)
    places = model.match(torch.randn(1, 3, 3), boxes, torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0]))[1]
    assert len(places) == 1


def test_scipy_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    model: Any = build("detr", "test_mat", 2, **SMALL)
    with pytest.raises(UserError, match=r"needs scipy: pip install 'foveal\[coco\]'"):
        model.match(torch.randn(1, 3, 3), torch.rand(1, 3, 4), torch.rand(1, 4), torch.tensor([0]))


@pytest.fixture(scope="module")
def sparse() -> Any:
    torch.manual_seed(1)
    args = dict(num_proposals=6, num_stages=3, num_heads=4, dim_feedforward=32, dim_dynamic=8)
    model: Any = randomize(build("sparse_rcnn", "test_mat", CLASSES, **args)).eval()
    with torch.no_grad():
        model.boxes.copy_(torch.rand(6, 4) * 0.4 + 0.3)
        for stage in model.stages:
            stage.deltas.weight.mul_(0.5)
    return model


def by_the_paper(model: Any, images: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Section 3.2 for one picture after the other and one box after the other."""
    maps = model.neck(model.backbone(images))
    all_logits, all_boxes = [], []
    for i, (height, width) in enumerate(sizes.tolist()):
        x, scale = model.features, torch.tensor([width, height, width, height])
        boxes = box_convert(model.boxes, "cxcywh", "xyxy") * scale
        logits, corrected = [], []
        for stage in model.stages:
            attention = stage.self_attn
            projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=1)
            queries, keys, values = (part.view(6, 4, 64).transpose(0, 1) for part in projected)
            mixed = (queries @ keys.transpose(1, 2) / 8).softmax(2) @ values
            x = stage.norm1(x + attention.out_proj(mixed.transpose(0, 1).reshape(6, 256)))
            seen = []
            for proposal, box in zip(x, boxes):
                side = float((box[2:] - box[:2]).clamp(min=0).prod().sqrt())
                level = level_of(side)
                roi = roi_align(maps[level][i : i + 1], [box[None].detach()], 7, 1 / (4 * 2**level), 2)  # [1, C, 7, 7]
                kernels = stage.interact.kernels(proposal)
                first = kernels[: 256 * 8].view(256, 8).T[:, :, None, None]  # of a 1x1 convolution from 256 to 8
                second = kernels[256 * 8 :].view(8, 256).T[:, :, None, None]
                roi = F.conv2d(roi, first).permute(0, 2, 3, 1)
                roi = stage.interact.norm1(roi).relu().permute(0, 3, 1, 2)
                roi = F.conv2d(roi, second).permute(0, 2, 3, 1)
                roi = stage.interact.norm2(roi).relu()
                seen.append(stage.interact.norm3(stage.interact.out(roi.flatten())).relu())
            x = stage.norm2(x + torch.stack(seen))
            x = stage.norm3(x + stage.mlp(x))
            logits.append(stage.logits(stage.classification(x)))
            dx, dy, dw, dh = stage.deltas(stage.regression(x)).unbind(1)
            cx, cy, w, h = box_convert(boxes, "xyxy", "cxcywh").unbind(1)
            moved = torch.stack([cx + dx / 2 * w, cy + dy / 2 * h, w * dw.exp(), h * dh.exp()], dim=1)
            boxes = box_convert(moved, "cxcywh", "xyxy")
            corrected.append(boxes / scale)
            boxes = boxes.detach()
        all_logits.append(torch.stack(logits))
        all_boxes.append(torch.stack(corrected))
    return torch.stack(all_logits, dim=1), torch.stack(all_boxes, dim=1)


def level_of(side: float) -> int:
    """Equation 1 of FPN, among levels 2 to 5, from 0."""
    return min(max(math.floor(4 + math.log2(side / 224 + 1e-6)), 2), 5) - 2


@pytest.mark.parametrize("kind", ["random", "real"])
def test_sparse_rcnn_follows_the_paper(sparse, kind):
    images = padded(kind)
    with torch.no_grad():
        raw = sparse(images, SIZES)
        logits, boxes = by_the_paper(sparse, images, SIZES)
    torch.testing.assert_close(raw["logits"], logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(raw["boxes"], boxes, rtol=1e-4, atol=1e-4)
    found = sparse.detections(raw, SIZES)
    for one, scores, (height, width) in zip(found, logits[-1].sigmoid(), SIZES.tolist()):
        best, places = scores.flatten().topk(6)
        torch.testing.assert_close(one["scores"], best, rtol=1e-4, atol=1e-4)
        assert one["labels"].tolist() == (places % CLASSES).tolist()
        assert (one["boxes"] <= torch.tensor([width, height] * 2)).all()


def test_sparse_rcnn_losses(sparse):
    """Focal loss of all predictions, L1 and generalised IoU of the matched ones, by the number of objects."""
    raw, wanted = sparse(padded("random"), SIZES), targets(False)
    parts = sparse.losses(raw, wanted)
    expected = dict.fromkeys(("classification", "boxes", "giou"), torch.zeros(()))
    for layer in range(3):
        for i, (target, (height, width)) in enumerate(zip(wanted, SIZES.tolist())):
            logits, boxes = raw["logits"][layer, i], raw["boxes"][layer, i]
            objects = target["boxes"] / torch.tensor([width, height] * 2)
            _, places, matched = sparse.match(logits[None], boxes[None], objects, target["labels"])
            classes = torch.zeros_like(logits)
            classes[places, target["labels"][matched]] = 1
            expected["classification"] = expected["classification"] + 2 * sigmoid_focal_loss(logits, classes).sum() / 4
            for place, j in zip(places, matched):
                expected["boxes"] = expected["boxes"] + 5 * (boxes[place] - objects[j]).abs().sum() / 4
                overlap = generalized_box_iou(boxes[place][None], objects[j][None])[0, 0]
                expected["giou"] = expected["giou"] + 2 * (1 - overlap) / 4
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-4)


def test_sparse_rcnn_starts_from_whole_pictures():
    model: Any = build("sparse_rcnn", "test_mat", 3, num_proposals=4, num_stages=1, dim_feedforward=16)
    model.stages[0].deltas.weight.data.zero_()
    model.stages[0].deltas.bias.data.zero_()
    model.stages[0].logits.weight.data.zero_()
    raw = model(torch.randn(1, 3, 64, 96))
    torch.testing.assert_close(raw["boxes"], torch.tensor([0.0, 0, 1, 1]).expand(1, 1, 4, 4))
    assert raw["logits"].sigmoid().mean().item() == pytest.approx(0.01)
