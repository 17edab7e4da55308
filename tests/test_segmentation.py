"""The contract of every segmenter over our families and six of timm's; Hugging Face's and smp's beside them."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.fpn.decoder import Conv3x3GNReLU, FPNDecoder
from torch import nn
from transformers import ResNetConfig, UperNetConfig
from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

from conftest import TINY, randomize
from foveal._errors import UserError
from foveal.data import IGNORED
from foveal.segmentation import SEGMENTERS, build
from foveal.tasks import SegmentationArgs, Views
from foveal.tasks.segmentation import predict, starts
from test_detection import PEERS

SIZE = (64, 96)
CASES = [(segmenter, backbone) for segmenter in SEGMENTERS for backbone in TINY + PEERS]
SMALL: dict[str, dict] = {
    "semantic_fpn": dict(pyramid_channels=16, channels=12),
    "upernet": dict(channels=16, auxiliary_channels=8),
}


def make(segmenter: str, backbone: str = "test_mat", num_classes: int = 3, **args) -> Any:
    return build(segmenter, backbone, num_classes, **SMALL[segmenter] | args)


def masks() -> torch.Tensor:
    found = torch.randint(3, (2, *SIZE))
    found[0, :10] = IGNORED
    return found


def test_there_are_two_segmenters_and_nine_backbones():
    assert len(SEGMENTERS) == 2
    assert len(CASES) == 18


@pytest.mark.parametrize(("segmenter", "backbone"), CASES)
def test_forward_and_backward(segmenter, backbone):
    """At a size that is not square; every parameter gets a gradient."""
    model = make(segmenter, backbone).train()
    raw = model(torch.randn(2, 3, *SIZE))
    assert raw["logits"].shape == (2, 3, SIZE[0] // 4, SIZE[1] // 4)
    parts = model.losses(raw, masks())
    assert all(part.shape == () and part.isfinite() for part in parts.values())
    torch.stack(list(parts.values())).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("size", [(33, 47), (97, 64), (65, 129)])
@pytest.mark.parametrize("segmenter", SEGMENTERS)
def test_any_size(segmenter, size):
    model = make(segmenter).eval()
    with torch.no_grad():
        assert model.logits(torch.randn(1, 3, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("segmenter", SEGMENTERS)
def test_logits_are_enlarged_from_stride_4(segmenter):
    model = randomize(make(segmenter)).eval()
    images = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        raw = model(images)["logits"]
        expected = F.interpolate(raw, SIZE, mode="bilinear", align_corners=False)
        torch.testing.assert_close(model.logits(images), expected)


@pytest.mark.parametrize("segmenter", SEGMENTERS)
def test_bfloat16(segmenter):
    model = make(segmenter).train()
    with torch.autocast("cpu", torch.bfloat16):
        parts = model.losses(model(torch.randn(2, 3, *SIZE)), masks())
    assert all(part.dtype == torch.float32 and part.isfinite() for part in parts.values())
    torch.stack(list(parts.values())).sum().backward()


@pytest.mark.parametrize("segmenter", SEGMENTERS)
def test_the_loss_is_the_mean_over_pixels_that_count(segmenter):
    model = randomize(make(segmenter)).eval()
    images, wanted = torch.randn(2, 3, *SIZE), masks()
    parts = model.losses(model(images), wanted)
    expected = F.cross_entropy(model.logits(images), wanted, ignore_index=IGNORED)
    torch.testing.assert_close(parts["pixels"], expected)
    nothing = model.losses(model(images), torch.full_like(wanted, IGNORED))
    assert all(part == 0 for part in nothing.values())


def test_upernet_without_auxiliary_head():
    model = make("upernet", auxiliary_weight=0.0)
    assert model.losses(model(torch.randn(2, 3, *SIZE)), masks()).keys() == {"pixels"}
    assert not [name for name, _ in model.named_parameters() if name.startswith("auxiliary")]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (dict(name="upernett", backbone="test_mat"), "nearest: upernet"),
        (dict(name="upernet", backbone="mat_22"), "nearest: mat_2"),
        (dict(name="upernet", backbone="vit_tiny_patch16_224"), r"strides \[4, 8, 16, 32\] are needed"),
        (dict(name="upernet", backbone="test_mat", num_classes=0), "num-classes must be 1 or more"),
        (dict(name="semantic_fpn", backbone="test_mat", wrong=1), "unexpected keyword argument 'wrong'"),
    ],
)
def test_what_is_refused(args, message):
    with pytest.raises(UserError, match=message):
        build(**{"num_classes": 2} | args)


def copied(block: nn.Sequential) -> dict[str, torch.Tensor]:
    """Our convolution and norm, as Hugging Face's block names them."""
    conv, norm, _ = block
    return {f"conv.{k}": v for k, v in conv.state_dict().items()} | {
        f"batch_norm.{k}": v for k, v in norm.state_dict().items()
    }


def test_upernet_is_hugging_faces():
    """Both heads with the same weights, on random maps of a real backbone."""
    ours = randomize(make("upernet", num_classes=5)).eval()
    config = UperNetConfig(
        backbone_config=ResNetConfig(), hidden_size=16, num_labels=5, auxiliary_channels=8, pool_scales=[1, 2, 3, 6]
    )
    head, auxiliary = UperNetHead(config, ours.backbone.channels).eval(), UperNetFCNHead(config, ours.backbone.channels)
    auxiliary = auxiliary.eval()
    state = {f"classifier.{k}": v for k, v in ours.classes[1].state_dict().items()}
    blocks = {"bottleneck": ours.pooling.bottleneck, "fpn_bottleneck": ours.bottleneck}
    blocks |= {f"psp_modules.{i}.1": pool[1] for i, pool in enumerate(ours.pooling.pools)}
    blocks |= {f"lateral_convs.{i}": block for i, block in enumerate(ours.lateral)}
    blocks |= {f"fpn_convs.{i}": block for i, block in enumerate(ours.smooth)}
    for name, block in blocks.items():
        state |= {f"{name}.{k}": v for k, v in copied(block).items()}
    names = set(head.state_dict())
    head.load_state_dict({k: v for k, v in state.items() if k in names})
    own = {f"convs.0.{k}": v for k, v in copied(ours.auxiliary[0]).items()}
    auxiliary.load_state_dict(own | {f"classifier.{k}": v for k, v in ours.auxiliary[1][1].state_dict().items()})
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        maps, raw = ours.backbone(images), ours(images)
        torch.testing.assert_close(raw["logits"], head(maps), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.auxiliary(raw["map"]), auxiliary(maps), rtol=1e-4, atol=1e-4)
    assert raw["logits"].std() > 0.1


def test_semantic_fpn_is_smps_where_they_agree():
    """smp has GroupNorm, aligned corners, and no convolution that smooths the pyramid; those are put right here."""
    ours = randomize(make("semantic_fpn", num_classes=5)).eval()
    for smooth in ours.neck.layers.layer_blocks:
        conv = smooth[0]
        conv.bias.data.zero_()
        conv.weight.data = torch.zeros_like(conv.weight)
        conv.weight.data[range(16), range(16), 1, 1] = 1
    theirs = FPNDecoder(list(ours.backbone.channels), 4, 16, 32).eval()
    convs = dict(zip(("p2", "p3", "p4", "p5"), ours.neck.layers.inner_blocks))
    for name, conv in convs.items():
        block = getattr(theirs, name)
        (block if name == "p5" else block.skip_conv).load_state_dict(conv[0].state_dict())
    for block, level in zip(theirs.seg_blocks, reversed(list(ours.levels)), strict=True):
        layers = (
            [layer for layer in level if not isinstance(layer, nn.Upsample)] if level is not ours.levels[0] else [level]
        )
        for step, layer in zip(block.block, layers, strict=True):
            assert isinstance(step, Conv3x3GNReLU)
            up = nn.Upsample(scale_factor=2, mode="bilinear") if step.upsample else nn.Identity()
            step.block, step.upsample = nn.Sequential(*copy.deepcopy(layer), up), False
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        expected = ours.classes[1](theirs(ours.backbone(images)))
        torch.testing.assert_close(ours(images)["logits"], expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


class Local(nn.Module):
    """A segmenter whose classes depend on the pixel alone, so that every way of looking gives the same."""

    num_classes = 3

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return 3 * images


def batch_of(images: torch.Tensor, sizes: list, originals: list) -> dict:
    return {"image": images, "size": torch.tensor(sizes), "original": torch.tensor(originals)}


@pytest.mark.parametrize("views", [Views(), Views(slide=32), Views(slide=32, stride=7), Views(hflip=True, slide=48)])
def test_ways_of_looking_agree_on_a_local_model(views):
    images = torch.randn(2, 3, *SIZE)
    found = predict(Local(), batch_of(images, [SIZE, (50, 70)], [SIZE, (50, 70)]), views)
    torch.testing.assert_close(found[0], (3 * images[0]).softmax(0))
    torch.testing.assert_close(found[1], (3 * images[1, :, :50, :70]).softmax(0))


def test_scales_and_sizes():
    """Of a smooth picture, at the size of the original."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 96), indexing="ij")
    images = torch.stack([y, x, -x - y])[None]
    found = predict(Local(), batch_of(images, [SIZE], [(128, 192)]), Views(scales=(0.5, 1.0, 1.75), hflip=True))[0]
    expected = (3 * F.interpolate(images, (128, 192), mode="bilinear")[0]).softmax(0)
    assert found.shape == (3, 128, 192)
    assert (found - expected).abs().max() < 0.05
    torch.testing.assert_close(found.sum(0), torch.ones(128, 192))


@pytest.mark.parametrize(("length", "side", "stride"), [(100, 32, 21), (33, 32, 21), (64, 32, 32), (20, 32, 5)])
def test_windows_cover_everything(length, side, stride):
    found = starts(length, side, stride)
    covered = {i for start in found for i in range(start, min(start + side, length))}
    assert covered == set(range(length))
    assert max(found) == max(0, length - side)
    assert len({*found}) == len(found)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (dict(stride=5), "--stride has no effect without --slide"),
        (dict(slide=20, stride=40), "stride must not exceed slide 20, got 40"),
        (dict(scales=()), "scales must be above 0, got none"),
        (dict(scales=(0.5, -1)), "scales must be above 0"),
        (dict(slide=-1), "must not be below 0"),
    ],
)
def test_views_that_are_refused(args, message):
    with pytest.raises(UserError, match=message):
        Views(**args)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (dict(segmenter="upnet"), "nearest: upernet"),
        (dict(image_size=0), "image-size must be above 0"),
        (dict(image_size=64, max_size=32), "max-size must not be below"),
        (dict(segmenter_args={"num_classes": 3}), "number of classes is that of the data"),
    ],
)
def test_arguments_that_are_refused(args, message):
    with pytest.raises(UserError, match=message):
        SegmentationArgs(model="test_mat", **args)
