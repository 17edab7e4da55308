"""The contract of every keypoint estimator over our families and six of timm's; heatmaps and decoding done slowly."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from conftest import TINY
from foveal._errors import UserError
from foveal.keypoints import ESTIMATORS, build
from foveal.keypoints._estimator import DECODINGS, dark_shifts, gaussians, peaks, quarter_shifts, smoothed
from test_detection import PEERS

SIZE = (64, 96)
NUM_JOINTS = 5
CASES = [(estimator, backbone) for estimator in ESTIMATORS for backbone in TINY + PEERS]


def make(estimator: str, backbone: str = "test_mat", num_classes: int = NUM_JOINTS, **args) -> Any:
    return build(estimator, backbone, num_classes, **dict(channels=16) | args)


def targets(number: int = 2) -> dict[str, torch.Tensor]:
    """Joints inside the images, of which one has no weight."""
    positions = torch.rand(number, NUM_JOINTS, 2) * torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0])
    weights = torch.ones(number, NUM_JOINTS)
    weights[0, 1] = 0
    return {"positions": positions, "weights": weights}


def test_there_is_one_estimator_and_nine_backbones():
    assert [*ESTIMATORS] == ["simple_baseline"]
    assert len(CASES) == 9


@pytest.mark.parametrize(("estimator", "backbone"), CASES)
def test_forward_and_backward(estimator, backbone):
    """At a size that is not square; every parameter gets a gradient."""
    model = make(estimator, backbone).train()
    raw = model(torch.randn(2, 3, *SIZE))
    assert raw["heatmaps"].shape == (2, NUM_JOINTS, SIZE[0] // 4, SIZE[1] // 4)
    parts = model.losses(raw, targets())
    assert all(part.shape == () and part.isfinite() for part in parts.values())
    torch.stack(list(parts.values())).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    check(model, raw, SIZE)


def check(model: Any, raw: dict[str, Any], size: tuple[int, int]) -> None:
    positions, scores = model.keypoints(raw["heatmaps"])
    assert positions.dtype == scores.dtype == torch.float32
    assert positions.shape == (*scores.shape, 2) == (len(raw["heatmaps"]), NUM_JOINTS, 2)
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert positions.min() >= -4
    assert (positions <= torch.tensor([size[1], size[0]]) + 4).all()


@pytest.mark.parametrize("size", [(33, 47), (97, 64), (65, 129), (256, 192)])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_any_size(estimator, size):
    model = make(estimator).eval()
    with torch.no_grad():
        raw = model(torch.randn(1, 3, *size))
    assert raw["heatmaps"].shape[2:] == tuple(math.ceil(side / 4) for side in size)
    check(model, raw, size)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_picture_of_a_batch_is_as_alone(estimator):
    model, images = make(estimator).eval(), torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        together, alone = model(images)["heatmaps"][1:], model(images[1:])["heatmaps"]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_copies_and_states(estimator):
    model, other = make(estimator).eval(), make(estimator).eval()
    other.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, *SIZE)
    for one in (other, copy.deepcopy(model)):
        assert torch.equal(one(images)["heatmaps"], model(images)["heatmaps"])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("decoding", DECODINGS)
def test_bfloat16(estimator, decoding):
    model = make(estimator, decoding=decoding).train()
    images = torch.randn(2, 3, *SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        raw = model(images)
        parts = model.losses(raw, targets())
        check(model, raw, SIZE)
        assert raw["heatmaps"].dtype == torch.bfloat16
        wanted = gaussians(targets()["positions"], 16, 24, 2.0)
        inside = model.keypoints(wanted)
    assert all(part.dtype == torch.float32 and part.isfinite() for part in parts.values())
    torch.stack(list(parts.values())).sum().backward()
    for one, other in zip(inside, model.keypoints(wanted), strict=True):  # nothing of it is rounded to bfloat16
        assert torch.equal(one, other)


def test_the_head_is_that_of_the_paper():
    """Section 2.1: three 4x4 transposed convolutions of 256 with BatchNorm and ReLU, 1x1 to the joints."""
    model = build("simple_baseline", "resnet18", 17)
    *deconvs, last = [m for m in model.modules() if isinstance(m, (torch.nn.ConvTranspose2d, torch.nn.Conv2d))][-4:]
    for deconv, width in zip(deconvs, (512, 256, 256), strict=True):
        assert deconv.weight.shape == (width, 256, 4, 4)
        assert (deconv.stride, deconv.padding, deconv.bias) == ((2, 2), (1, 1), None)
    assert (last.weight.shape, last.bias.shape) == ((17, 256, 1, 1), (17,))


# The loss


def test_loss_by_hand():
    """Half the mean over all pixels of all joints, of which those without weight have no error."""
    model, given = make("simple_baseline"), targets()
    heatmaps = torch.randn(2, NUM_JOINTS, SIZE[0] // 4, SIZE[1] // 4)
    total = 0.0
    for b in range(2):
        for k in range(NUM_JOINTS):
            x, y = ((float(v) + 0.5) / 4 - 0.5 for v in given["positions"][b, k])
            for row in range(heatmaps.shape[2]):
                for column in range(heatmaps.shape[3]):
                    wanted = math.exp(-((column - x) ** 2 + (row - y) ** 2) / 8)
                    total += float(given["weights"][b, k]) * (float(heatmaps[b, k, row, column]) - wanted) ** 2
    parts = model.losses({"heatmaps": heatmaps}, given)
    assert [*parts] == ["heatmaps"]
    assert float(parts["heatmaps"]) == pytest.approx(0.5 * total / heatmaps.numel(), rel=1e-5)


def test_joints_without_weight_have_no_gradient():
    model, given = make("simple_baseline"), targets()
    heatmaps = torch.randn(2, NUM_JOINTS, 16, 24, requires_grad=True)
    model.losses({"heatmaps": heatmaps}, given)["heatmaps"].backward()
    assert heatmaps.grad is not None
    assert not heatmaps.grad[0, 1].any()
    assert heatmaps.grad[0, 0].any()
    given["weights"].zero_()
    assert not model.losses({"heatmaps": heatmaps}, given)["heatmaps"].any()


# Decoding


def quarter(heatmap: np.ndarray) -> tuple[float, float]:
    """Column and row, by the words of the paper."""
    h, w = heatmap.shape
    y, x = divmod(int(heatmap.argmax()), w)
    dx = dy = 0.0
    if 0 < x < w - 1 and 0 < y < h - 1:
        dx = 0.25 * np.sign(heatmap[y, x + 1] - heatmap[y, x - 1])
        dy = 0.25 * np.sign(heatmap[y + 1, x] - heatmap[y - 1, x])
    return x + dx, y + dy


def dark(heatmap: np.ndarray, sigma: float) -> tuple[float, float]:
    """Column and row: equations 8 and 9, pixel by pixel."""
    h, w = heatmap.shape
    y, x = divmod(int(heatmap.argmax()), w)
    if not (2 <= x < w - 2 and 2 <= y < h - 2):
        return x, y
    reach = math.ceil(2.5 * sigma)
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(-reach, reach + 1)]

    def log(row: int, column: int) -> float:
        total = 0.0
        for i, a in enumerate(weights, start=-reach):
            for j, b in enumerate(weights, start=-reach):
                if 0 <= row + i < h and 0 <= column + j < w:
                    total += a * b * heatmap[row + i, column + j]
        return math.log(max(1e-10, total / sum(weights) ** 2))

    gradient = np.array([log(y, x + 1) - log(y, x - 1), log(y + 1, x) - log(y - 1, x)]) / 2
    dxx = (log(y, x + 2) - 2 * log(y, x) + log(y, x - 2)) / 4
    dyy = (log(y + 2, x) - 2 * log(y, x) + log(y - 2, x)) / 4
    dxy = (log(y + 1, x + 1) - log(y - 1, x + 1) - log(y + 1, x - 1) + log(y - 1, x - 1)) / 4
    hessian = np.array([[dxx, dxy], [dxy, dyy]])
    if not (np.linalg.eigvalsh(hessian) < 0).all():
        return x, y
    dx, dy = np.clip(-np.linalg.inv(hessian) @ gradient, -1, 1)
    return x + dx, y + dy


def random_maps(seed: int) -> torch.Tensor:
    """Blurred noise, lone peaks anywhere, maps of one value."""
    generator = torch.Generator().manual_seed(seed)
    noise = smoothed(torch.randn(1, 30, 12, 9, generator=generator), 1.5)
    raw = torch.rand(1, 20, 12, 9, generator=generator)
    places = torch.rand(1, 40, 2, generator=generator) * torch.tensor([36.0, 48.0])
    lone = gaussians(places, 12, 9, 1.7) + 0.02 * torch.rand(1, 40, 12, 9, generator=generator)
    return torch.cat([noise, raw, lone, torch.zeros(1, 1, 12, 9), torch.ones(1, 1, 12, 9)], dim=1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decoding", DECODINGS)
def test_decoding_equals_a_slow_one(decoding, seed):
    maps = random_maps(seed)
    model = make("simple_baseline", decoding=decoding, sigma=1.7)
    positions, scores = model.keypoints(maps)
    moved = 0
    for heatmap, position, score in zip(maps[0].double().numpy(), positions[0], scores[0], strict=True):
        x, y = quarter(heatmap) if decoding == "quarter" else dark(heatmap, 1.7)
        moved += (x, y) != (int(x), int(y))
        assert position.tolist() == pytest.approx([4 * (x + 0.5) - 0.5, 4 * (y + 0.5) - 0.5], abs=2e-3)
        assert float(score) == pytest.approx(min(1, max(0, heatmap.max())))
    assert moved > 20


@pytest.mark.parametrize(("decoding", "error"), [("quarter", 1.0), ("dark", 0.02)])
def test_a_joint_is_found_where_it_is(decoding, error):
    """Up to a quarter of a heatmap's pixel along each axis, which is one of the image; and exactly by DARK."""
    positions = 32 + torch.rand(1, 200, 2) * torch.tensor([128.0, 192.0])  # no smoothing reaches the edge
    model = build("simple_baseline", "test_mat", 200, decoding=decoding)
    found, scores = model.keypoints(gaussians(positions, 64, 48, model.sigma))
    assert (found - positions).abs().max() <= error + 1e-4
    assert scores.min() > math.exp(-(0.5**2 + 0.5**2) / 8) - 1e-6


def test_a_mirrored_heatmap_has_its_joint_on_the_other_side():
    """At width - 1 - x, whatever the decoding, so nothing has to be shifted."""
    positions = torch.rand(1, 50, 2) * torch.tensor([95.0, 63.0])
    for decoding in DECODINGS:
        model = make("simple_baseline", decoding=decoding)
        maps = gaussians(positions, 16, 24, 2.0)
        (found, _), (mirrored, _) = model.keypoints(maps), model.keypoints(maps.flip(3))
        torch.testing.assert_close(mirrored[..., 0], 95 - found[..., 0], atol=1e-3, rtol=0)
        torch.testing.assert_close(mirrored[..., 1], found[..., 1], atol=1e-3, rtol=0)


def test_peaks_without_a_shape_stay():
    """Nothing to be learned from neighbours: at the edge, and where all are equal."""
    maps = torch.zeros(1, 3, 8, 8)
    maps[0, 0, 0, 3] = maps[0, 1, 4, 7] = 1
    places, scores = peaks(maps)
    assert places.tolist() == [[[3, 0], [7, 4], [0, 0]]]
    assert scores.tolist() == [[1, 1, 0]]
    assert not quarter_shifts(maps, places).any()
    assert not dark_shifts(maps, places, 2.0).any()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (dict(name="simple_baselin", backbone="test_mat"), "unknown estimator 'simple_baselin'; nearest: simple_base"),
        (dict(name="simple_baseline", backbone="vit_tiny_patch16_224"), r"strides \[32\] are needed"),
        (dict(name="simple_baseline", backbone="test_mat", num_classes=0), "num-classes must be 1 or more"),
        (dict(name="simple_baseline", backbone="test_mat", decoding="half"), "decoding must be one of quarter, dark"),
        (dict(name="simple_baseline", backbone="test_mat", sigma=0), "sigma must be above 0, got 0"),
        (dict(name="simple_baseline", backbone="test_mat", wrong=1), "unexpected keyword argument 'wrong'"),
    ],
)
def test_what_is_refused(args, message):
    with pytest.raises(UserError, match=message):
        build(**{"num_classes": 2} | args)
