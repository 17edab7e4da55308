"""Receptive fields against closed forms."""

import numpy as np
import pytest
import torch
from torch import nn

from conftest import PEERS, TINY, randomize
from foveal._errors import UserError
from foveal.analysis import Setting, receptive
from foveal.analysis.receptive import centre, centre_gradient, square
from foveal.backbones.mat import MATBlock


def field(function, shape):
    """Of a function of images [B, C, H, W] into maps."""
    images = torch.randn(shape).requires_grad_()
    x = function(images)
    return centre_gradient(x, images, torch.randn(x.shape[:2]))[0]


def ones(kernel, stride=1, channels=1):
    conv = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, bias=False)
    nn.init.ones_(conv.weight)
    return conv


@pytest.mark.parametrize("kernels", [[3], [3, 3, 3], [5, 3], [7, 1, 3]])
def test_convolutions_with_ones(kernels):
    """The field is the product of one-dimensional ones: the kernels of ones, convolved with one another."""
    found = field(nn.Sequential(*map(ones, kernels)), (1, 1, 21, 21))
    line = np.ones(1)
    for kernel in kernels:
        line = np.convolve(line, np.ones(kernel))
    line = np.pad(line, (21 - len(line)) // 2)
    assert np.allclose(found / found.sum(), np.outer(line, line) / line.sum() ** 2)


def test_strides_spread_the_kernels():
    found = field(nn.Sequential(ones(3, 2), ones(3, 2), ones(3)), (1, 1, 32, 32))
    line = np.ones(3)
    for step in (2, 4):
        line = np.convolve(line, np.kron(np.ones(3), np.eye(1, step)[0]))
    line = np.trim_zeros(line)
    start = 4 * 4 - 1 - 2 - 4  # position 4 of the last map, less the paddings
    expected = np.zeros(32)
    expected[start : start + len(line)] = line
    assert np.allclose(found / found.sum(), np.outer(expected, expected) / line.sum() ** 2)


def test_channels_are_added():
    found = field(ones(3, channels=4), (1, 4, 9, 9))
    assert (found > 0).sum() == 9
    assert np.allclose(found / found.sum(), np.pad(np.full((3, 3), 1 / 9), 3))


def test_behind_a_norm():
    """The sum of its channels would be constant."""
    norm = nn.LayerNorm(8)
    found = field(lambda x: norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), (1, 8, 7, 7))
    assert (found > 0).sum() == found[3, 3].gt(0) == 1


def block(mixer, side):
    """One block of MAT on maps of its own."""
    block = randomize(
        MATBlock(16, 2, mixer, window_size=7, mlp_ratio=2.0, mlp_dwconv=True, abstract_kv=False, drop_path=0.0)
    )
    return field(lambda x: block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), (1, 16, side, side))


def test_one_mat_block_reaches_the_whole_map():
    """Section 4.3: abstract tokens carry information between windows, which window attention alone keeps apart."""
    assert (block("mat", 21) > 0).all()
    window = block("window", 21) > 0
    assert window[7:14, 7:14].all()
    window[6:15, 6:15] = False  # the window, and what the positional encoding's 3x3 convolution adds
    assert not window.any()


def test_squares():
    found = np.zeros((9, 9))
    found[4, 4], found[4, 1], found[4, 7] = 0.6, 0.2, 0.2
    assert centre(found) == pytest.approx((4.5, 4.5))
    assert square(found, 0.5) == 1
    assert square(found, 0.95) == 7
    assert square(np.ones((8, 8)), 0.25) == 4
    shifted = np.zeros((9, 9))
    shifted[:3, 4:8] = 1
    assert centre(shifted) == pytest.approx((1.5, 6))
    assert square(shifted, 0.95) == 4


@pytest.mark.parametrize("name", PEERS)
def test_every_model(name):
    found = receptive([name], setting=Setting(num_images=1))
    for values in found.fields[name].values():
        assert values.sum() == pytest.approx(1)
    sides = [row["50% within (px)"] for row in found.rows()]
    assert sides[-1] > sides[0]


def test_models_side_by_side(tmp_path):
    setting = Setting(num_images=3, batch=2, size=(64, 96))
    found = receptive(TINY, setting=setting)
    assert len(found.rows()) == 4 * len(TINY)
    assert found.data()[f"{TINY[0]}/stages.0/gradient"].shape == (64, 96)
    assert [file.name for file in found.write(tmp_path)] == ["receptive.npz", "receptive.png", "receptive.svg"]
    other = receptive(TINY, setting=Setting(num_images=3, size=(64, 96)))
    for name in TINY:
        assert np.allclose(found.fields[name]["stages.3"], other.fields[name]["stages.3"], atol=1e-5)


def test_layers_by_name():
    found = receptive(["test_mat"], layers=("stages.2.blocks.0",), setting=Setting(num_images=1))
    assert (found.fields["test_mat"]["stages.2.blocks.0"] > 0).all()


def test_layers_that_do_not_exist():
    with pytest.raises(UserError, match=r"unknown layer 'stages\.9'; nearest: .*stages\."):
        receptive(["test_mat"], layers=("stages.9",), setting=Setting(num_images=1))


@pytest.mark.parametrize("weight", [0.0, float("nan")])
def test_layers_without_a_gradient(weight):
    model = nn.Sequential(ones(3, channels=3))
    nn.init.constant_(model[0].weight, weight)
    with pytest.raises(UserError, match=f"adds up to {weight}, which is no field"):
        receptive([model], layers=("0",), setting=Setting(num_images=1, size=(32,)))
