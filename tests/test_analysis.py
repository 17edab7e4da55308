"""Analyses of spectra, attention, similarity and tokens: against closed forms, on every kind of model, bad input."""

import json
import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from conftest import TINY, create
from foveal._errors import UserError
from foveal.analysis import Setting, attention, fourier, load_pictures, load_subject, similarity, tokens
from foveal.analysis._attention import Recorder, open_attention, read_attention
from foveal.analysis._capture import as_maps, capture_maps, capturing, find_blocks
from foveal.analysis._result import overlay, spread
from foveal.analysis.fourier import log_amplitude
from foveal.analysis.similarity import pairwise
from foveal.cli import main
from foveal.data import load_data
from foveal.engine.checkpoint import write_model
from foveal.tasks import DetectionArgs, SegmentationArgs

PEERS = {  # of each kind: tokens with a prefix, convolutions, windows [B, H, W, C], reduced keys, unfolded patches
    "deit_tiny_patch16_224": 12,
    "convnext_tiny": 18,
    "resnet50": 16,
    "swin_tiny_patch4_window7_224": 12,
    "pvt_v2_b1": 8,
    "mobilevitv2_100": 9,
}
SMALL = Setting(size=(64,), num_images=2, batch=2)


def subject(name, setting=SMALL):
    return load_subject(name, setting)


@pytest.fixture(scope="module")
def peers():
    """Models that cost a second to build, built once."""
    return {name: subject(name) for name in PEERS}


@pytest.fixture(scope="module")
def pictures():
    return load_pictures(SMALL, 2)


def images_of(found, pictures):
    return next(found.images(pictures, 2))


# capturing


@pytest.mark.parametrize("name", [*PEERS, *TINY])
def test_blocks_are_found_and_give_maps(name, peers, pictures):
    found = peers.get(name) or subject(name)
    images = images_of(found, pictures)
    blocks = find_blocks(found.model, images, name)
    assert len(blocks) == PEERS.get(name, 5)
    maps = capture_maps(found.model, blocks, images, name)
    assert list(maps) == blocks
    for x in maps.values():
        assert x.shape[0] == 2
        assert x.shape[2] == x.shape[3] in (2, 4, 8, 16, 32)


def test_tokens_become_maps_in_raster_order(peers, pictures):
    found = peers["deit_tiny_patch16_224"]
    images = images_of(found, pictures)
    with capturing(found.model, ["blocks.3"]) as seen:
        found.model(images)
    x = seen["blocks.3"]  # [2, 1 + 16, C]
    maps = capture_maps(found.model, ["blocks.3"], images, "deit")["blocks.3"]
    assert torch.equal(maps[:, :, 1, 2], x[:, 1 + 4 + 2])


def test_tokens_that_the_class_token_joins_late_become_maps(pictures):
    found = subject("cait_xxs24_224")
    images = images_of(found, pictures)
    assert find_blocks(found.model, images, "cait") == [f"blocks.{i}" for i in range(24)]  # the others give the token
    assert capture_maps(found.model, ["blocks.0"], images, "cait")["blocks.0"].shape == (2, 192, 4, 4)


def test_channels_are_told_from_sides_by_other_modules():
    model = nn.ModuleDict({"a": nn.Identity(), "b": nn.Identity(), "c": nn.Conv2d(1, 1, 1)})
    found = as_maps(
        {"a": torch.zeros(1, 8, 8, 8), "b": torch.zeros(1, 4, 4, 9), "c": torch.ones(1, 8, 8, 8)}, model, (64, 64)
    )
    assert found["a"].stride()[1] == 1  # read as [B, H, W, C], as b was
    assert found["c"].is_contiguous()
    assert as_maps({"a": torch.zeros(1, 5), "b": torch.zeros(1, 7, 3)}, model, (64, 64)) == {}


def test_capturing_runs_the_definition_and_leaves_nothing(pictures):
    found = subject("test_mat")
    images = images_of(found, pictures)
    with torch.no_grad():
        before = found.model(images)
    layers = ["stages.0.blocks.0.mlp", "stages.2.blocks.0.attn"]  # the fast path does not call the first
    maps = capture_maps(found.model, layers, images, "test_mat")
    assert all(not x.requires_grad for x in maps.values())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in found.model.modules())
    with Recorder(found.model), torch.enable_grad():
        recorded = found.model(images)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in found.model.modules())
    assert torch.allclose(recorded, before, atol=1e-5)


def test_capturing_keeps_what_is_written_over():
    """resnet18 computes in place: a norm's output is gone behind the activation, and so is the activation's input."""
    model = timm.create_model("resnet18").eval()
    torch.nn.init.ones_(model.layer1[0].bn1.bias)
    images, norm = torch.randn(2, 3, 64, 64), []
    handle = model.layer1[0].bn1.register_forward_hook(lambda module, args, out: norm.append(out.clone()))
    with torch.no_grad(), capturing(model, ["layer1.0.bn1", "layer1.0.bn2", "layer1.0.act1:input"]) as seen:
        model(images)
    handle.remove()
    assert norm[0].min() < 0
    assert torch.equal(seen["layer1.0.bn1"], norm[0])
    assert torch.equal(seen["layer1.0.act1:input"], norm[0])
    assert not seen["layer1.0.bn2"].any()  # as timm begins with it


def test_a_given_model_stays_as_it_was():
    model = timm.create_model("test_mat").train()
    fourier([model], setting=SMALL)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


# fourier


def module_subject(module, size=(16, 16)):
    """A module that takes images, as an analysis takes it."""
    return SimpleNamespace(**{**vars(subject("test_mat")), "model": module, "size": size})


@pytest.mark.parametrize(("u", "v"), [(0, 0), (0, 3), (5, 0), (8, 8), (2, 7)])
def test_a_wave_has_one_frequency(u, v):
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    wave = torch.cos(2 * math.pi * (u * y + v * x) / 16)
    amplitude = torch.fft.fft2(wave).abs()
    assert amplitude[u, v] == pytest.approx(256 if (u, v) in ((0, 0), (8, 8)) else 128, rel=1e-4)
    curve = log_amplitude(amplitude[None, None])
    assert curve[0] == 0
    assert len(curve) == 9
    if u == v == 8:
        assert curve.argmax() == 8


def test_white_noise_is_flat_and_convolution_multiplies():
    """The curve of a depthwise convolution is that of its input plus the logarithm of the kernel's transform."""
    torch.manual_seed(0)
    noise = torch.randn(64, 8, 16, 16)
    before = log_amplitude(torch.fft.fft2(noise).abs()) / 64
    assert before[1:-1].std() < 0.05  # 0 and pi are real, so their logarithms have another mean
    assert abs(before[-1]) < 0.15
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).expand(8, 1, 3, 3)
    padded = nn.functional.pad(noise, (1, 1, 1, 1), mode="circular")
    after = log_amplitude(torch.fft.fft2(nn.functional.conv2d(padded, kernel, groups=8)).abs()) / 64
    w = torch.linspace(0, math.pi, 9, dtype=torch.float64)[:-1]  # at pi the kernel is 0
    expected = 2 * torch.log((2 + 2 * w.cos()) / 4)
    assert torch.allclose((after - before)[:-1], expected, atol=1e-3)


@pytest.mark.parametrize("name", [*PEERS, *TINY])
def test_fourier_of_every_model(name, peers):
    result = fourier([peers.get(name) or subject(name)], setting=SMALL)
    data = result.data()
    layers = result.settings()["layers"][name]
    assert len(layers) == PEERS.get(name, 5)
    for layer in layers:
        f, curve = data[f"{name}/{layer}/frequency"], data[f"{name}/{layer}/log_amplitude"]
        assert len(f) == len(curve)
        assert (f[0], f[-1], curve[0]) == (0, 1, 0)
        assert np.isfinite(curve).all()
        spectrum = data[f"{name}/{layer}/spectrum"]
        side = len(spectrum)
        assert np.allclose(spectrum[1:, 1:], spectrum[1:, 1:][::-1, ::-1], atol=1e-4)  # real maps: symmetric about 0
        assert spectrum.shape == (side, side)


def test_branches_of_emsnet_by_name():
    mixer = "stages.0.blocks.0.mixer"
    parts = [
        "static.pw_in",
        "static.dwconv",
        "static.branch2",
        "dynamic.conv_branch",
        "dynamic.global_branch",
        "dynamic",
    ]
    result = fourier(["test_emsnet"], layers=tuple(f"{mixer}.{part}" for part in parts), setting=SMALL)
    assert {row["layer"] for row in result.rows()} == {f"{mixer}.{part}" for part in parts}
    figures = result.figures()
    assert set(figures) == {"", "spectrum"} == set(result.captions())


def test_whitening_takes_frequency_0_alone():
    name = "stages.0.blocks.0.mixer.static.whiten"
    result = fourier(["test_emsnet"], layers=(f"{name}:input", name), setting=SMALL)
    before, after = (result.spectra["test_emsnet"][layer] for layer in (f"{name}:input", name))
    assert before[8, 8] > after[8, 8] == pytest.approx(0, abs=1e-4)
    before[8, 8] = after[8, 8]
    assert np.allclose(before, after, atol=1e-4)


# attention


@pytest.mark.parametrize("masked", [None, "bool", "float", "causal"])
def test_open_attention_is_the_fused_one(masked):
    q, k, v = torch.randn(3, 2, 4, 7, 8)
    args = {None: {}, "causal": {"is_causal": True}}.get(masked)
    if args is None:
        mask = torch.rand(7, 7) < 0.7
        mask[:, 0] = True
        args = {"attn_mask": mask if masked == "bool" else mask.float()}
    weights, values = open_attention(q, k, v, **args)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 7))
    fused = nn.functional.scaled_dot_product_attention(q, k, v, **args)
    assert torch.allclose(weights @ values, fused, atol=1e-5)


@pytest.mark.parametrize("name", [*PEERS, *TINY])
def test_rows_of_attention_sum_to_one(name, peers, pictures):
    found = peers.get(name) or subject(name)
    if name in ("convnext_tiny", "resnet50"):
        with pytest.raises(UserError, match=f"{name} has no attention"):
            attention([found], setting=SMALL)
        return
    images = images_of(found, pictures)
    layers, unread = read_attention(found, images)
    assert not unread
    assert layers
    for kinds in layers.values():
        for one in kinds:
            assert one.weights.ndim == 5
            assert len(one.weights) == len(one.received) == 2
            if not one.mixed:
                total = one.weights.sum(-1)
                assert torch.allclose(total, torch.ones_like(total), atol=1e-5)


def test_attention_between_channels_is_left_out(pictures):
    found = subject("xcit_nano_12_p16_224")
    layers, unread = read_attention(found, images_of(found, pictures))
    assert [*layers] == ["cls_attn_blocks.0.attn", "cls_attn_blocks.1.attn"]
    assert len(unread) == 12


def test_attention_of_deit_by_hand(peers, pictures):
    found = peers["deit_tiny_patch16_224"]
    images = images_of(found, pictures)
    module = found.model.blocks[2].attn
    inputs = []
    handle = module.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    layers, _ = read_attention(found, images, ("blocks.2",))
    handle.remove()
    q, k, _ = module.qkv(inputs[0]).view(2, 17, 3, 3, 64).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) / 8).softmax(-1)
    assert list(layers) == ["blocks.2.attn"]
    assert torch.allclose(layers["blocks.2.attn"][0].weights[:, 0], weights, atol=1e-6)
    result = attention([found], layers=("blocks.2",), queries=(0.3, 0.8), setting=SMALL)
    row = weights[:, :, 1 + 1 * 4 + 3, 1:].mean(1).view(2, 4, 4)
    assert np.allclose(result.data()["deit_tiny_patch16_224/blocks.2.attn/query at 0.3 0.8"], row, atol=1e-6)


def test_abstraction_of_mat_by_hand():
    """Each window's part of the map is the abstract token's softmax over that window, partial windows too."""
    setting = Setting(size=(160, 128), num_images=2, batch=2)
    found = subject("test_mat", setting)
    images = next(found.images(load_pictures(setting, 2), 2))
    module = found.model.stages[2].blocks[0].attn
    inputs = []
    handle = module.register_forward_hook(lambda module, args, output: inputs.append((args[0], output)))
    layers, _ = read_attention(found, images)
    handle.remove()
    one, fusion = layers["stages.2.blocks.0.attn"]
    assert (one.kind, fusion.kind) == ("abstraction", "fusion")
    x = inputs[0][0]  # [2, 10, 8, C]
    assert x.shape[1:3] == one.received.shape[1:] == (10, 8)
    k = module.qkv(x).chunk(3, -1)[1].view(2, 10, 8, module.num_heads, -1)
    for rows, cols in [(slice(0, 7), slice(0, 7)), (slice(7, 10), slice(7, 8)), (slice(7, 10), slice(0, 7))]:
        keys = k[:, rows, cols].flatten(1, 2).transpose(1, 2)  # [2, h, places, d]
        weights = (module.abstract @ keys.transpose(-2, -1) * module.scale).softmax(-1).mean(1)[:, 0]
        assert torch.allclose(one.received[:, rows, cols].flatten(1), weights, atol=1e-6)


def test_windows_of_swin_are_rolled_back():
    """A map of windows puts each key where its token is: attention to a bright spot moves with the spot."""
    setting = Setting(size=(112,), num_images=1)
    found = subject("swin_tiny_patch4_window7_224", setting)
    found.model.layers[0].blocks[1].norm1 = nn.Identity()
    module = found.model.layers[0].blocks[1].attn
    with torch.no_grad():
        module.qkv.weight.zero_()
        module.qkv.bias[:96] = 1  # all queries are the same, and a key is the sum of its token
        module.qkv.weight[96:192] = 0.05
        module.relative_position_bias_table.zero_()
    images = torch.randn(1, 3, 112, 112)
    with capturing(found.model, ["layers.0.blocks.0"]) as seen:
        layers, _ = read_attention(found, images, ("layers.0.blocks.1",))
    received = layers["layers.0.blocks.1.attn"][0].received[0]
    total = seen["layers.0.blocks.0"][0].sum(-1)  # [28, 28]
    inside = (slice(3, 10), slice(10, 17))  # a window of the shifted grid, which no mask cuts
    assert torch.corrcoef(torch.stack((received[inside].log().flatten(), total[inside].flatten())))[0, 1] > 0.999


def test_overlapping_windows_of_cmhsa(pictures):
    found = subject("test_emsnet")
    layers, _ = read_attention(found, images_of(found, pictures), ("stages.0.blocks.0",))
    (one,) = (kinds[0] for kinds in layers.values() if kinds[0].kind == "C-MHSA")
    weights = one.weights.mean((2, 3)).view(2, 2, 2, 3, 3)  # heads and queries; windows 2x2 on a map of 4x4
    slow, count = torch.zeros(2, 4, 4), torch.zeros(4, 4)
    for i in range(2):
        for j in range(2):
            for y in range(3):
                for x in range(3):
                    row, col = 2 * i + y - 1, 2 * j + x - 1
                    if 0 <= row < 4 and 0 <= col < 4:
                        slow[:, row, col] += weights[:, i, j, y, x]
                        count[row, col] += 1
    assert torch.allclose(one.received, slow / count, atol=1e-6)


def test_partial_attention_is_where_its_tokens_are(pictures):
    found = subject("test_partialformer")
    chosen = tokens([found], setting=SMALL).chosen["test_partialformer"]
    layers, _ = read_attention(found, images_of(found, pictures))
    assert list(chosen) == list(layers)
    for name, (foreground, query) in layers.items():
        mask = torch.from_numpy(chosen[name])
        assert torch.equal(foreground.received.isfinite(), mask)
        assert torch.equal(query.received.isfinite(), ~mask)
        assert query.weights[:, 0, 0, 0][mask.flatten(1)].max() == 0


def test_full_attention_of_partialformer():
    model = create("test_partialformer", attention="full").requires_grad_(False)
    result = similarity([model], setting=SMALL)
    assert len(result.rows()) == 5
    assert attention([model], queries=(0.5, 0.5), setting=SMALL).maps


# similarity and tokens


def test_pairwise_is_the_slow_double_loop():
    rows = torch.rand(2, 3, 6, 9, dtype=torch.float64)
    cosine = nn.functional.cosine_similarity
    pairs = [cosine(rows[..., i, :], rows[..., j, :], dim=-1) for i in range(6) for j in range(i)]
    assert torch.allclose(pairwise(rows), torch.stack(pairs).mean(0))
    assert torch.allclose(pairwise(rows[..., :1, :].expand(-1, -1, 4, -1)), torch.ones(2, 3, dtype=torch.float64))
    assert pairwise(rows[..., :1, :]).isnan().all()


def test_similarity_of_all_tokens_of_partialformer(pictures):
    """The rows of all N tokens, written out: one row for every background token, and none shares a key with others."""
    found = subject("test_partialformer")
    row = similarity([found], layers=("stages.2.blocks.0",), setting=SMALL).rows()[0]
    layers, _ = read_attention(found, images_of(found, pictures), ("stages.2.blocks.0",))
    foreground, query = layers["stages.2.blocks.0.attn"]
    totals = []
    for i in range(2):
        chosen = foreground.received[i].isfinite().flatten()
        for head in range(foreground.weights.shape[2]):
            rows = query.weights[i, 0, head].expand(len(chosen), -1).clone()
            rows[chosen] = 0
            block = foreground.weights[i, 0, head]
            rows[chosen.nonzero(), chosen.nonzero().T] = block
            totals.append(pairwise(rows.double()))
    assert row["queries of all tokens"] == pytest.approx(float(torch.stack(totals).mean()), abs=1e-5)


@pytest.mark.parametrize("name", [*(name for name in PEERS if name not in ("convnext_tiny", "resnet50")), *TINY])
def test_similarity_of_every_model(name, peers):
    result = similarity([peers.get(name) or subject(name)], setting=SMALL)
    assert result.rows()
    for row in result.rows():
        assert -1 <= row["queries"] <= 1 + 1e-6
    assert set(result.figures()) == set(result.captions()) == {""}


def test_tokens_are_those_of_highest_mean(pictures):
    found = subject("test_partialformer")
    result = tokens([found], setting=SMALL)
    images = images_of(found, pictures)
    with capturing(found.model, ["stages.0.blocks.0.peg"]) as seen, torch.enable_grad():
        found.model(images)
    score = seen["stages.0.blocks.0.peg"].mean(-1).flatten(1)  # [2, 256]
    chosen = result.chosen["test_partialformer"]["stages.0.blocks.0.attn"].reshape(2, -1)
    for i in range(2):
        assert score[i][chosen[i]].min() >= score[i][~chosen[i]].max()
    jaccard = result.jaccard("test_partialformer")
    a, b = (result.chosen["test_partialformer"][f"stages.2.blocks.{i}.attn"] for i in (0, 1))
    expected = np.mean([(x & y).sum() / (x | y).sum() for x, y in zip(a, b)])
    assert jaccard["stages.2.blocks.1.attn"] == pytest.approx(expected)
    assert math.isnan(jaccard["stages.2.blocks.0.attn"])


def test_spread_keeps_the_ends():
    assert spread(range(20), 5)[0] == 0
    assert spread(range(20), 5)[-1] == 19
    assert spread([1, 2], 5) == [1, 2]


# the command


def test_analyze_alone_lists_the_analyses(capsys):
    assert main(["analyze"]) == 0
    out = capsys.readouterr().out
    for name in ("fourier", "attention", "similarity", "tokens"):
        assert f"  {name} " in out


@pytest.mark.parametrize("what", ["fourier", "attention", "similarity", "tokens"])
def test_analyze_writes_data_and_figures(what, tmp_path, capsys):
    command = ["analyze", what, "test_partialformer", "--size", "64", "--num-images", "2", "--out", str(tmp_path)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "next: " in out
    with np.load(tmp_path / f"{what}.npz") as stored:
        metadata = json.loads(str(stored["metadata"]))
        assert len(stored.files) > 1
    assert metadata["models"] == [{"model": "test_partialformer", "weights": "random, seed 0", "size": [64, 64]}]
    assert metadata["num_images"] == 2
    with Image.open(tmp_path / f"{what}.png") as picture:
        assert picture.width > 300
    assert (tmp_path / f"{what}.svg").read_text().startswith("<?xml")
    assert main(command) == 2
    assert "exists; nothing was overwritten" in capsys.readouterr().err


def test_a_missing_matplotlib_is_said_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["analyze", "fourier", "test_mat", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "foveal: figures need matplotlib: pip install 'foveal[plot]'\n"


def test_pictures_of_a_folder_and_a_run(tmp_path, capsys):
    folder = tmp_path / "pictures" / "below"
    folder.mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
            folder / f"{i}.png"
        )
    timm.models.save_for_hf(timm.create_model("test_mat", num_classes=3), tmp_path / "run", safe_serialization=True)
    command = [
        "analyze",
        "fourier",
        str(tmp_path / "run"),
        "--images",
        str(tmp_path / "pictures"),
        "--size",
        "64",
        "96",
    ]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    with np.load(tmp_path / "out" / "fourier.npz") as stored:
        metadata = json.loads(str(stored["metadata"]))
    assert metadata["num_images"] == 3
    assert metadata["models"][0]["weights"] == str(tmp_path / "run")
    assert metadata["models"][0]["size"] == [64, 96]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fourrier", "test_mat"], "unknown analysis 'fourrier'; nearest: fourier"),
        (["fourier", "tset_mat"], "unknown model 'tset_mat'; nearest: test_mat"),
        (["fourier"], "no model given"),
        (
            ["fourier", "test_mat", "--layers", "stages.0.block.0"],
            "unknown layer 'stages.0.block.0'; nearest: stages.0.bl",
        ),
        (["fourier", "test_mat", "--layers", "head.fc"], "layer head.fc of test_mat gives [2, 1000], which is no map"),
        (["fourier", "test_mat", "--size", "32"], "has no frequencies; try a larger --size"),
        (["fourier", "test_mat", "test_mat"], "test_mat is given twice"),
        (["fourier", "test_mat", "--images", "EMPTY"], "has no pictures"),
        (["fourier", "test_mat", "--images", "EMPTY/none"], "no such folder"),
        (["attention", "resnet18"], "resnet18 has no attention"),
        (["attention", "test_mat", "--queries", "0.5"], "queries are pairs"),
        (["attention", "test_mat", "--queries", "0.5", "0.5"], "no layer in which every position attends to all"),
        (["tokens", "test_mat"], "test_mat chooses no tokens"),
        (["similarity", "test_mat", "--layers", "stages.0"], "test_mat has no attention over positions in stages.0"),
        (["similarity", "test_mat", "--num-images", "0"], "num-images must be at least 1"),
        (["receptive", "test_mat", "--seed", "-1"], "seed must be at least 0, got -1"),
        (["similarity", "test_mat", "--device", "abacus"], "cannot use device 'abacus'"),
    ],
)
def test_bad_input_is_one_line(args, message, tmp_path, capsys):
    (tmp_path / "EMPTY").mkdir()
    args = [arg.replace("EMPTY", str(tmp_path / "EMPTY")) for arg in args]
    size = [] if "--size" in args or len(args) < 2 else ["--size", "64"]
    count = [] if "--num-images" in args else ["--num-images", "2"]
    assert main(["analyze", *args, *size, *count, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_map_of_nothing_stays_grey():
    """Of a map of one position the background is empty."""
    picture = np.random.default_rng(0).random((8, 6, 3))
    drawn = overlay(picture, np.full((1, 1), np.nan))
    assert drawn.shape == picture.shape
    assert np.ptp(drawn, axis=2).max() == 0


@pytest.mark.parametrize(("task", "model"), [("detection", "test_mat"), ("segmentation", "test_convnext")])
def test_of_other_tasks_the_backbone_is_looked_at(task, model, tmp_path, capsys):
    sizes: Any = dict(model=model, image_size=64, max_size=96)
    args = {
        "detection": DetectionArgs(detector="fcos", detector_args={"channels": 32}, **sizes),
        "segmentation": SegmentationArgs(segmenter="semantic_fpn", **sizes),
    }[task]
    built = args.build(load_data("scenes:16", kind=task)[0])
    (tmp_path / "run").mkdir()
    write_model(built, built.model.state_dict(), tmp_path / "run")
    run = str(tmp_path / "run")
    for what in ("fourier", "receptive"):
        assert main(["analyze", what, run, "--num-images", "2", "--out", str(tmp_path / what)]) == 0
        with np.load(tmp_path / what / f"{what}.npz") as found:
            about = json.loads(str(found["metadata"]))["models"]
        assert about == [{"model": run, "weights": f"{run}, the backbone", "size": [64, 96]}]
    capsys.readouterr()
    for what in ("gradcam", "interaction"):
        assert main(["analyze", what, run, "--num-images", "2", "--out", str(tmp_path / what)]) == 2
        assert f"{run} is no classifier: it gives" in capsys.readouterr().err
