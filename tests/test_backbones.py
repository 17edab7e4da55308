"""The contract of a backbone, which is timm's, over every model of ours that timm's registry holds."""

import copy
import math

import pytest
import timm
import torch
from timm.models import group_parameters
from torch import nn

import foveal.backbones.mat
from conftest import MODELS, SMALL, TINY, close, create, randomize
from foveal.layers import ResidualDWConv

SIZES = [(32, 32), (64, 100), (193, 257), (320, 320), (800, 1333)]


def test_registry():
    assert len(MODELS) == 16
    assert len(TINY) == 3
    assert set(SMALL) <= set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_declared_shapes(name):
    """Shapes at every size, without computing values."""
    with torch.device("meta"):
        model = timm.create_model(name, features_only=True).eval()
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    for size in SIZES:
        levels = model(torch.empty(1, 3, *size, device="meta"))
        for level, channels, stride in zip(levels, model.feature_info.channels(), (4, 8, 16, 32), strict=True):
            assert level.shape == (1, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", SIZES)
def test_real_shapes(name, size):
    model = create(name, features_only=True)
    with torch.inference_mode():
        levels = model(torch.randn(1, 3, *size))
    for level, channels, stride in zip(levels, model.feature_info.channels(), (4, 8, 16, 32), strict=True):
        assert level.shape == (1, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        assert level.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_batch_of_one_is_a_slice(name):
    model = create(name).double()  # deep networks of unit-scale weights amplify the rounding of float32
    images = torch.randn(2, 3, 64, 100, dtype=torch.float64)
    with torch.inference_mode():
        logits = model(images)
        assert logits.shape == (2, 1000)
        assert not close(logits[:1], logits[1:], 1e-3)  # the images matter
        assert close(model(images[1:]), logits[1:], 1e-10)


def silent(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("name", [*TINY, *SMALL])
def test_every_parameter_gets_a_gradient(name):
    model = create(name)
    size = (260, 300) if "mat" in name else (64, 96)  # one window alone leaves the mixing of MAT without a gradient
    model(torch.randn(2, 3, *size)).square().sum().backward()
    assert silent(model) == []


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("level", range(4))
def test_backward_from_each_level_alone(name, level):
    model = create(name, features_only=True)
    size = (260, 300) if "mat" in name else (64, 96)
    features = model(torch.randn(2, 3, *size))[level]
    (features * torch.randn_like(features)).sum().backward()
    for quiet in silent(model):
        part = quiet.removeprefix("model.").split(".")
        assert part[0] in ("stages", "tap_norms", "final")
        if part[0] == "stages":
            assert int(part[1]) > level
        if part[0] == "tap_norms":
            assert int(part[1]) != level
    assert any(p.grad is not None for n, p in model.named_parameters() if "stem" in n)


@pytest.mark.parametrize("abstract_kv", [False, True])
def test_padding_does_not_leak(monkeypatch, abstract_kv):
    """A window's output does not change with what its padding holds."""
    model = create("test_mat", features_only=True, abstract_kv=abstract_kv)
    images = torch.randn(1, 3, 193, 257)
    with torch.inference_mode():
        expected = model(images)
    window_order = foveal.backbones.mat.window_order
    padding = []

    def other_padding(*args):
        order, real, back = window_order(*args)
        padding.append((~real).sum().item())
        return order * real, real, back  # the first position of the map where the last one was

    monkeypatch.setattr(foveal.backbones.mat, "window_order", other_padding)
    with torch.inference_mode():
        levels = model(images)
    assert len(padding) == 3
    assert min(padding) > 0
    for level, reference in zip(levels, expected, strict=True):
        assert close(level, reference, 1e-6)


@pytest.mark.parametrize("name", TINY)
def test_state_dict_round_trip(name, tmp_path):
    model = create(name)
    other = timm.create_model(name).eval()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert close(model(images), other(images), 1e-6)


@pytest.mark.parametrize("name", TINY)
def test_classifier_weights_serve_the_pyramid(name, tmp_path):
    """A folder that timm saves loads as a classifier and as a pyramid."""
    model = create(name, num_classes=5)
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        same = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert close(same(images), model(images), 1e-6)
        pyramid = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True).eval()
        levels = pyramid(images)
        _, intermediates = model.forward_intermediates(images, norm="partialformer" in name)
    assert close(levels[3], intermediates[3], 1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16(name):
    model = create(name).to(torch.bfloat16)
    with torch.inference_mode():
        logits = model(torch.randn(1, 3, 64, 96).bfloat16())
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", TINY)
def test_autocast_trains(name):
    model = timm.create_model(name, num_classes=4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4))
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", TINY)
def test_channels_last_changes_nothing(name):
    model = create(name)
    images = torch.randn(2, 3, 96, 130)
    with torch.inference_mode():
        expected = model(images)
        model = model.to(memory_format=torch.channels_last)
        assert close(model(images.contiguous(memory_format=torch.channels_last)), expected, 1e-5)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_channels(name, in_chans):
    model = timm.create_model(name, in_chans=in_chans).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, in_chans, 64, 64)).shape == (1, 1000)
        with pytest.raises(ValueError, match="in_chans="):
            model(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("name", TINY)
def test_wrong_images_are_refused(name):
    model = timm.create_model(name).eval()
    for shape in [(1, 3, 31, 64), (1, 3, 64, 31)]:
        with pytest.raises(ValueError, match="at least 32x32"):
            model(torch.randn(shape))
    for shape in [(3, 64, 64), (1, 1, 64, 64)]:
        with pytest.raises(ValueError, match="expected images"):
            model(torch.randn(shape))


@pytest.mark.parametrize("name", TINY)
def test_drop_path_rate(name):
    """The rate rises linearly to the last block and acts in training only."""
    model = timm.create_model(name, drop_path_rate=0.5)
    blocks = [block for stage in model.stages for block in stage.blocks]
    rates = [getattr(block.drop_path2, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.5 * i / (len(rates) - 1) for i in range(len(rates))])
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert not close(model(images), model(images), 1e-4)
        model.eval()
        assert close(model(images), model(images), 1e-6)


@pytest.mark.parametrize("name", TINY)
def test_gradient_checkpointing_changes_nothing(name):
    model = create(name, drop_path_rate=0.0).train()
    images = torch.randn(2, 3, 64, 96)

    def gradients(enable: bool) -> list[torch.Tensor]:
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images).square().mean().backward()
        return [p.grad.clone() for p in model.parameters()]

    for plain, checkpointed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_parameter_groups(name):
    """Every parameter has a place in the layer-wise order, the stem first and the head last."""
    with torch.device("meta"):
        model = timm.create_model(name)
    named = dict(model.named_parameters())
    assert set(model.no_weight_decay()) <= named.keys()
    groups = group_parameters(model, model.group_matcher())
    assert sum(len(group) for group in groups.values()) == len(named)
    assert all(n.startswith("stem") for n in groups[0])
    assert len(groups) == 2 + sum(len(stage.blocks) for stage in model.stages)
    coarse = group_parameters(model, model.group_matcher(coarse=True))
    assert len(coarse) == 6


@pytest.mark.parametrize("name", TINY)
def test_heads(name):
    model = create(name)
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        features = model.forward_features(images)
        assert features.shape == (2, model.num_features, 2, 3)
        assert close(model.forward_head(features), model(images), 1e-6)
        assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
        for pool in ("max", "avgmax"):
            assert create(name, global_pool=pool)(images).shape == (2, 1000)
        assert create(name, num_classes=0)(images).shape == (2, timm.create_model(name, num_classes=0).head_hidden_size)
        assert create(name, num_classes=0, global_pool="")(images).shape[-2:] == (2, 3)
        model.reset_classifier(7)
        assert model.num_classes == 7
        assert model.get_classifier().out_features == 7
        assert model(images).shape == (2, 7)
        model.reset_classifier(0, "", reset_other=True)
        assert close(model(images), model.forward_features(images), 1e-6)


@pytest.mark.parametrize("name", TINY)
def test_intermediates(name):
    model = create(name)
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        features, levels = model.forward_intermediates(images)
        assert close(features, model.forward_features(images), 1e-6)
        assert [level.shape[1] for level in levels] == [info["num_chs"] for info in model.feature_info]
        last_two = model.forward_intermediates(images, 2, intermediates_only=True)
        assert all(close(a, b, 1e-6) for a, b in zip(last_two, levels[2:], strict=True))
        second = model.forward_intermediates(images, [1], intermediates_only=True, stop_early=True, output_fmt="NHWC")
        assert close(second[0].permute(0, 3, 1, 2), levels[1], 1e-6)
        pruned = copy.deepcopy(model)
        assert pruned.prune_intermediate_layers([0, 1]) == [0, 1]
        assert len(pruned.stages) == 2
        kept = pruned.forward_intermediates(images, [0, 1], intermediates_only=True)
        assert all(close(a, b, 1e-6) for a, b in zip(kept, levels[:2], strict=True))
        with pytest.raises(AssertionError):
            model.forward_intermediates(images, output_fmt="NLC")


@pytest.mark.parametrize("name", TINY)
def test_scripts(name):
    model = create(name)
    images = torch.randn(1, 3, 64, 96)
    with pytest.warns(FutureWarning, match="deprecated"):
        scripted = torch.jit.script(timm.create_model(name, scriptable=True).eval())
    scripted.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert close(scripted(images), model(images), 1e-5)


@pytest.mark.parametrize("name", TINY)
def test_compiles_without_breaks(name):
    """The C++ backend is left out, since a machine may have no compiler."""
    torch._dynamo.reset()
    model = create(name)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    images = torch.randn(2, 3, 65, 97)
    with torch.inference_mode():
        assert close(compiled(images), model(images), 1e-5)
    model.train()
    compiled(torch.randn(2, 3, 64, 96)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize("name", TINY)
def test_exports_with_dynamic_batch_height_and_width(name, tmp_path):
    """One program for all sizes, whether the example's windows and patches fit or not; also in ONNX Runtime."""
    import onnxruntime

    model = create(name, features_only=True)
    dynamic = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, (torch.randn(2, 3, 224, 256),), dynamic_shapes=(dynamic,))
    torch.onnx.export(program, dynamo=True, opset_version=20, verbose=False).save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for shape in [(1, 3, 224, 224), (3, 3, 193, 257), (1, 3, 320, 416)]:
        images = torch.randn(shape)
        outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.inference_mode():
            for exported, output, level in zip(program.module()(images), outputs, model(images), strict=True):
                assert close(exported, level, 1e-5)
                assert close(torch.from_numpy(output), level, 1e-4)


@pytest.mark.parametrize("name", [*TINY, *SMALL])
def test_initial_outputs_are_sane(name):
    """At initialisation a batch of noise gives small logits and a loss near log(classes)."""
    model = timm.create_model(name, num_classes=10)
    loss = nn.functional.cross_entropy(model(torch.randn(8, 3, 64, 64)), torch.arange(8))
    assert abs(loss.item() - math.log(10)) < 1.0


@pytest.mark.parametrize("name", TINY)
def test_initial_spread(name):
    """By fan-out in depthwise kernels of 3x3; of the token families 0.02 in linear layers and tokens (PVTv2)."""
    torch.manual_seed(0)
    state, checked = timm.create_model(name).state_dict(), 0
    wanted = {"dwconv.weight": (2 / 9) ** 0.5}
    if name != "test_emsnet":
        wanted |= {".qkv.weight": 0.02, ".proj.weight": 0.02, ".abstract": 0.02}
    for end, std in wanted.items():
        if values := [value.flatten() for key, value in state.items() if key.endswith(end)]:
            assert torch.cat(values).std() == pytest.approx(std, rel=0.15)
            checked += 1
    assert checked == len(wanted)


@pytest.mark.parametrize("name", ["emsnet_xxtiny", "emsnet_tiny"])
def test_no_operator_of_emsnet_starts_silent(name):
    """Both operators, the block's mixer and its MLP give something of the order of what they read."""
    torch.manual_seed(0)
    model, gains = timm.create_model(name), []
    for name, module in model.named_modules():
        if name.endswith((".static", ".dynamic", ".mixer", ".mlp", ".branch2", ".conv_branch", ".global_branch")):
            module.register_forward_hook(lambda module, args, out: gains.append((out.std() / args[0].std()).item()))
    with torch.no_grad():
        model(torch.randn(4, 3, 192, 192))
    assert len(gains) > 60
    assert 0.005 < min(gains) < max(gains) < 4


def test_initial_growth():
    """However many residual depthwise convolutions a stage of MAT has, they multiply a variance by e^2 at most."""
    torch.manual_seed(0)
    for stage in timm.create_model("mat_1").stages:
        convs = [module.eval() for module in stage.modules() if isinstance(module, ResidualDWConv)]
        gain = 1.0
        for conv in convs:
            x = torch.randn(4, 32, 32, conv.conv.in_channels)
            gain *= (conv(x).var() / x.var()).item()
        assert gain == pytest.approx((1 + 2 / len(convs)) ** len(convs) if convs else 1, rel=0.3)


def test_randomize_reaches_every_branch():
    """The other tests rest on it: no parameter of a randomised model stays at a constant."""
    for name in TINY:
        for parameter in randomize(timm.create_model(name)).parameters():
            assert parameter.numel() == 1 or parameter.std() > 0
