"""Every family and every switch against the literal sequence of the equations in tests/literal.py.

The definition is held to it in float64 with all gradients, the fast path in float32.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath

import literal
from conftest import close, create
from foveal.backbones import emsnet, mat, partialformer
from foveal.layers import _conv, _fast

ORACLES = {"test_emsnet": literal.emsnet, "test_mat": literal.mat, "test_partialformer": literal.partialformer}
CASES = [
    ("test_emsnet", {}),
    *[("test_emsnet", dict(mixer=mixer)) for mixer in emsnet.MIXERS[:-1]],
    ("test_emsnet", dict(static_split=(0.5, 0.25, 0.25))),
    ("test_emsnet", dict(static_split=(0.25, 0.25, 0.5))),
    ("test_emsnet", dict(channel_split=False)),
    ("test_emsnet", dict(fusion=False)),
    ("test_emsnet", dict(whiten_axis="channel")),
    ("test_mat", {}),
    *[("test_mat", dict(mixers=("none",) * i + ("mat",) * (4 - i))) for i in (0, 1, 3)],
    ("test_mat", dict(mixers=("none", "none", "window", "window"))),
    ("test_mat", dict(mixers=("none",) * 4, mlp_dwconv=False)),
    *[("test_mat", dict(patch_embed=kind)) for kind in mat.PATCH_EMBEDS[1:]],
    ("test_mat", dict(pe_dwconv=False)),
    ("test_mat", dict(abstract_kv=True)),
    ("test_mat", dict(window_size=4)),
    ("test_partialformer", {}),
    ("test_partialformer", dict(reading="tables")),
    *[("test_partialformer", dict(attention=kind)) for kind in partialformer.ATTENTIONS[1:]],
    *[("test_partialformer", dict(query=kind)) for kind in partialformer.QUERIES[1:]],
    ("test_partialformer", dict(score="l2")),
    ("test_partialformer", dict(head_expand=0)),
    ("test_partialformer", dict(channel_reduction=0)),
    ("test_partialformer", dict(proj_tokens="all")),
    ("test_partialformer", dict(sqa_residual=False)),
    ("test_partialformer", dict(stem="conv7")),
    ("test_partialformer", dict(peg_kernel=7, mlp_dwconv=False)),
    ("test_partialformer", dict(fg_div=(16, 8, 4, 2))),
    ("test_partialformer", dict(head_hidden=0)),
]
BG_MEAN = dict(attention="bg_mean")
IDS = [f"{name}-{','.join(f'{k}={v}' for k, v in args.items())}" for name, args in CASES]


def oracle(name: str, args: dict, model, images):
    extra = dict(whiten_axis=args["whiten_axis"]) if "whiten_axis" in args else {}
    return ORACLES[name](model, images, **extra)


def test_all_switches_are_here():
    assert len(CASES) == 39
    assert {name for name, _ in CASES} == set(ORACLES)


@pytest.mark.parametrize("name", ["emsnet_xxtiny", "mat_2", "partialformer_b1"])
def test_training_in_float32(monkeypatch, name):
    """Linear layers as convolutions where they are large: loss and gradients against plain ones."""
    model, images, calls, convolution = create(name), torch.randn(4, 3, 64, 64), [], _fast.conv_linear
    monkeypatch.setattr(_fast, "mkl_lags", lambda: True)
    monkeypatch.setattr(_fast, "conv_linear", lambda x, *args: (calls.append(x.shape), convolution(x, *args))[1])

    def gradients():
        model.zero_grad()
        model(images).square().sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters()}

    found = gradients()
    assert len(calls) >= 8
    assert {shape[:-1].numel() % _fast.GROUPS for shape in calls} == {0}
    assert min(shape[:-1].numel() for shape in calls) >= _fast.ONEDNN_TOKENS
    monkeypatch.setattr(_fast, "ONEDNN_MACS", 2**62)
    before, expected = len(calls), gradients()
    assert len(calls) == before
    largest = max(gradient.abs().max() for gradient in expected.values())
    for parameter, gradient in expected.items():  # that of the key bias is rounding
        scale = gradient.abs().max().clamp(min=1e-4 * largest)
        assert (found[parameter] - gradient).abs().max() <= 1e-3 * scale, parameter


@pytest.fixture
def as_on_gpu(monkeypatch):
    """Layers compute as they do on a GPU; how often they asked."""
    asked = []
    for module in (emsnet, mat):
        monkeypatch.setattr(module, "on_gpu", lambda x: not asked.append(x.shape))
    return asked


@pytest.mark.parametrize(("name", "args"), CASES, ids=IDS)
def test_definition(name, args):
    """Outputs and the gradient of every parameter, in float64."""
    check_definition(name, args)


@pytest.mark.parametrize("mixer", emsnet.MIXERS[2:])
def test_definition_on_a_gpu(as_on_gpu, mixer):
    check_definition("test_emsnet", dict(mixer=mixer))
    assert as_on_gpu


@pytest.mark.parametrize("mixer", emsnet.MIXERS[2:])
def test_autocast_on_a_gpu_keeps_maps_small(as_on_gpu, mixer):
    """No weight in float32 makes a map of half precision one of float32."""
    model, types = create("test_emsnet", mixer=mixer), []
    for module in model.modules():
        if isinstance(module, (emsnet.Propagation, emsnet.CoordinateDWConv)):
            module.register_forward_hook(lambda module, args, out: types.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert set(types) == {torch.bfloat16}
    assert as_on_gpu


def test_one_window_on_a_gpu(as_on_gpu, monkeypatch):
    attention = create("test_mat").double().stages[3].blocks[0].attn
    x, softmaxes, attend = torch.randn(2, 3, 5, 64, dtype=torch.float64), [], attention.attend
    monkeypatch.setattr(attention, "attend", lambda *args: (softmaxes.append(1), attend(*args))[1])
    expected = attention(x)
    assert len(softmaxes) == 2  # within the window and between the abstract tokens
    seen = []
    for module in (attention.mix_qkv, attention.mix_proj, attention.fuse_kv):  # adapters and hooks are not passed by
        module.register_forward_hook(lambda *args: seen.append(1))
    with torch.no_grad():
        assert close(attention(x), expected.detach(), 1e-12)
    assert len(softmaxes) == len(seen) == 3


def check_definition(name, args):
    model = create(name, num_classes=7, **args).double()
    images = torch.randn(2, 3, 72, 100, dtype=torch.float64)
    weights = torch.randn(2, 7, dtype=torch.float64)

    def run(forward):
        model.zero_grad()
        logits = forward()
        (logits * weights).sum().backward()
        return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    logits, gradients = run(lambda: model(images))
    expected, expected_gradients = run(lambda: oracle(name, args, model, images))
    assert close(logits, expected, 1e-10)
    assert gradients.keys() == expected_gradients.keys()
    for parameter, gradient in expected_gradients.items():
        scale = gradient.abs().max().clamp(min=1e-6 * logits.abs().max())  # the key bias has none but rounding
        assert (gradients[parameter] - gradient).abs().max() <= 1e-8 * scale, parameter


@pytest.mark.parametrize(("name", "args"), CASES, ids=IDS)
@pytest.mark.parametrize("size", [(224, 224), (33, 130)])
def test_fast_path(name, args, size):
    if args.get("attention") == "full" and size == (224, 224):
        size = (64, 96)  # all tokens attend to all: 3136 of them with a HeadMLP take seconds
    model = create(name, num_classes=7, **args)
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        fast, expected = model(images), oracle(name, args, model, images)
    assert close(fast, expected, 1e-5)
    assert close(model(images).detach(), expected, 1e-5)


@pytest.mark.parametrize("name", ["emsnet_xxtiny", "mat_2", "partialformer_b1"])
@pytest.mark.parametrize("onednn", [True, False])
def test_real_variants(monkeypatch, name, onednn):
    """Maps large enough for oneDNN's fused operators, and the way without them."""
    calls = []
    if not onednn:
        for module in (_fast, _conv):
            monkeypatch.setattr(module, "has_onednn", lambda: calls.append(0))
    model = create(name)
    oracle = ORACLES["test_" + name.split("_")[0]]
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert close(model(images), oracle(model, images), 1e-5)
    assert bool(calls) is not onednn


@pytest.mark.parametrize("name", ORACLES)
def test_fast_path_is_left_where_it_must_be(monkeypatch, name):
    """Autograd, autocast and other types take the definition."""
    for module in (_fast, _conv):
        monkeypatch.setattr(module, "fused_linear", lambda *args, **kwargs: pytest.fail("fast path"))
    model, images = create(name), torch.randn(1, 3, 64, 64)
    model(images)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(images)
    with torch.inference_mode():
        model.double()(images.double())


class Adapter(torch.nn.Module):
    """A linear layer with a product of rank one beside it, which passes on the layer's weights as peft's do."""

    def __init__(self, base: torch.nn.Linear):
        super().__init__()
        self.base, self.weight, self.bias = base, base.weight, base.bias
        self.down = torch.nn.Parameter(torch.randn(1, base.in_features) / base.in_features)
        self.up = torch.nn.Parameter(torch.randn(base.out_features, 1))

    def forward(self, x):
        return self.base(x) + F.linear(F.linear(x, self.down), self.up)


@pytest.mark.parametrize(("name", "args"), [*((name, {}) for name in ORACLES), ("test_partialformer", BG_MEAN)])
def test_adapters_are_not_passed_by(name, args):
    """With them, in training and on the fast path, a model is what it is with them added to its weights."""
    model, images = create(name, **args), torch.randn(2, 3, 64, 96)
    for module in [*model.modules()]:
        for child, layer in module.named_children():
            if isinstance(layer, torch.nn.Linear):
                setattr(module, child, Adapter(layer))
    merged = copy.deepcopy(model)
    for module in [*merged.modules()]:
        for child, layer in module.named_children():
            if isinstance(layer, Adapter):
                layer.base.weight.data += layer.up @ layer.down
                setattr(module, child, layer.base)
    expected = merged(images).detach()
    assert close(model(images).detach(), expected, 1e-5)
    with torch.inference_mode():
        assert close(merged(images), expected, 1e-5)
        assert close(model(images), expected, 1e-5)


@pytest.mark.parametrize("name", ORACLES)
def test_hooks_are_not_passed_by(name):
    """Of the fast path hooks see the same modules as of the definition, one at a time and all at once."""
    model, images = create(name), torch.randn(1, 3, 64, 64)
    called = {module: set() for module in model.modules() if not isinstance(module, torch.nn.ModuleList)}
    hooks = [m.register_forward_hook(lambda m, args, out: called[m].add(torch.is_grad_enabled())) for m in called]
    model(images)
    with torch.no_grad():
        model(images)
    assert all(seen in ({True, False}, set()) for seen in called.values())
    for hook in hooks:
        hook.remove()
    for module, seen in called.items():
        if seen and not isinstance(module, (torch.nn.Identity, DropPath)):
            hook = module.register_forward_hook(lambda *args, seen=seen: seen.add("alone"))
            with torch.no_grad():
                model(images)
            hook.remove()
            assert "alone" in seen


class Frozen(torch.nn.Module):
    """A norm whose statistics stay, as transformers' detectors have it: with neither ``eps`` nor ``training``."""

    def __init__(self, norm: torch.nn.BatchNorm2d):
        super().__init__()
        self.scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.shift = norm.bias - norm.running_mean * self.scale

    def forward(self, x):
        return x * self.scale[:, None, None] + self.shift[:, None, None]


@pytest.mark.parametrize("name", ORACLES)
def test_other_norms_are_not_passed_by(name):
    model, images = create(name), torch.randn(2, 3, 64, 64)
    expected = model(images).detach()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.train()  # the statistics of the batch, though the model evaluates
    by_batch = model(images).detach()
    with torch.no_grad():
        assert close(model(images), by_batch, 1e-5)
    assert not close(by_batch, expected, 1e-3)
    model = create(name)
    expected = model(images).detach()
    for module in [*model.modules()]:
        for child, layer in module.named_children():
            if isinstance(layer, torch.nn.BatchNorm2d):
                setattr(module, child, Frozen(layer))
    with torch.no_grad():
        assert close(model(images), expected, 1e-5)


@pytest.mark.parametrize("name", ORACLES)
def test_convolutions_of_training_are_left_where_they_must_be(monkeypatch, name):
    """Inference, autocast, other types and other machines take the plain linear layer."""
    calls, model, images = [], create(name), torch.randn(1, 3, 64, 64)
    for limit in ("ONEDNN_MACS", "ONEDNN_TOKENS"):
        monkeypatch.setattr(_fast, limit, 0)
    monkeypatch.setattr(_fast, "mkl_lags", lambda: True)
    monkeypatch.setattr(_fast, "conv_linear", lambda x, weight, bias: (calls.append(0), F.linear(x, weight, bias))[1])
    model(images)
    number = len(calls)
    assert number > 0
    with torch.no_grad():
        model(images)
    with torch.autocast("cpu", torch.bfloat16):
        model(images)
    copy.deepcopy(model).double()(images.double())
    for missing in ("has_onednn", "mkl_lags"):
        with monkeypatch.context() as patched:
            patched.setattr(_fast, missing, lambda: False)
            model(images)
    assert len(calls) == number


@pytest.mark.parametrize(
    ("capability", "name", "lags"),
    [("AVX512", "AMD EPYC", True), ("AVX2", "AMD EPYC", False), ("AVX512", "Intel(R) Xeon(R) Processor", False)],
)
def test_where_mkl_lags(monkeypatch, capability, name, lags):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(_fast, "processor", lambda: name)
    assert _fast.mkl_lags.__wrapped__() is lags


def test_foreground_leaves_the_background_to_one_vector():
    """Partial attention adds the same vector to every background token (eq. 5.7)."""
    attention = create("test_partialformer").stages[1].blocks[0].attn
    x = torch.randn(1, 96, 16)
    raw = torch.randn(1, 96, 16)
    with torch.inference_mode():
        added = attention(x, raw) - x
    foreground = attention.foreground(x, raw)[0]
    background = torch.ones(96, dtype=torch.bool).index_fill(0, foreground, False)
    assert len(foreground) == 6
    rest = added[0, background]
    torch.testing.assert_close(rest, rest[:1].expand_as(rest))


def test_background_reaches_no_foreground_token():
    attention = create("test_partialformer").stages[1].blocks[0].attn
    x, raw = torch.randn(1, 96, 16), torch.randn(1, 96, 16)
    foreground = attention.foreground(x, raw)[0]
    other = next(i for i in range(96) if i not in foreground.tolist())
    changed = x.clone()
    changed[0, other] += 1
    with torch.inference_mode():
        before, after = attention(x, raw), attention(changed, raw)
    torch.testing.assert_close(before[0, foreground], after[0, foreground], rtol=0, atol=0)
    assert not torch.equal(before[0, other], after[0, other])


def test_windows_see_one_another_only_through_abstract_tokens():
    """A change in one window reaches every window with mixing, and none without."""
    x = torch.randn(1, 14, 14, 32)
    changed = x.clone()
    changed[0, 0, 0] += 1
    for mixer, reach in (("mat", True), ("window", False)):
        model = create("test_mat", mixers=("none", "none", mixer, mixer))
        attention = model.stages[2].blocks[0].attn
        with torch.inference_mode():
            difference = (attention(x) - attention(changed)).abs().amax(-1)[0]
        assert (difference[7:, 7:] > 0).all() == reach
        assert (difference[:7, :7] > 0).all()


def test_bilinear_sampling_starts_as_average_pooling():
    import timm

    embed = timm.create_model("test_mat").stages[1].downsample
    x = torch.randn(1, 8, 12, 16)
    sampled = embed.sample(x, embed.positions(x))
    torch.testing.assert_close(sampled, torch.nn.functional.avg_pool2d(x, 2))


def test_score_behind_the_norm_warns():
    with pytest.warns(UserWarning, match="rounding noise"):
        create("test_partialformer", score="mean_normed")


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("test_emsnet", dict(mixer="gmsha"), "mixer must be one of"),
        ("test_emsnet", dict(whiten_axis="pixel"), "whiten_axis"),
        ("test_emsnet", dict(static_split=(0.5, 0.5, 0.5)), "sum 1"),
        ("test_emsnet", dict(mixer="cmhsa", fusion=False), "whole block"),
        ("test_emsnet", dict(channel_split=False, fusion=False), "needs channel_split"),
        ("test_mat", dict(mixers=("none", "none", "mat", "swin")), "got swin"),
        ("test_mat", dict(patch_embed="pool"), "patch_embed"),
        ("test_mat", dict(mixers=("none", "mat")), "four entries"),
        ("test_emsnet", dict(depths=(1, 1, 1)), "four entries"),
        ("test_partialformer", dict(depths=(1, 1, 1)), "four entries"),
        ("test_emsnet", dict(embed_dims=(64, 128, 200, 300)), "100 channels would have 3 heads"),
        ("test_mat", dict(num_heads=(1, 2, 3, 4)), "num_heads must divide"),
        ("test_partialformer", dict(reading="numbers"), "reading"),
        ("test_partialformer", dict(attention="fg_only", query="learned"), "needs attention='partial'"),
        ("test_partialformer", dict(fg_div=(1, 2, 3)), "four numbers"),
        ("test_partialformer", dict(num_heads=(3, 2, 2, 4)), "num_heads must divide"),
        ("test_partialformer", dict(score="max"), "score"),
        ("test_partialformer", dict(proj_tokens="some"), "proj_tokens"),
    ],
)
def test_bad_switches_are_refused(name, args, message):
    with pytest.raises(ValueError, match=message):
        create(name, **args)
