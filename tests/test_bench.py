"""Bench: interleaving, ratios, memory, and one counter of multiply-adds against closed forms."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from foveal._errors import UserError
from foveal.bench import Setting, bench, count_macs, environment, interleave, peak_memory, ratio


def test_interleave_calls_in_turn():
    order, done = [], []
    functions = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = interleave(functions, rounds=4, warmup=2, synchronize=lambda: order.append("."), progress=done.append)
    assert "".join(order) == ".a..b..c." * 6
    assert {name: len(times) for name, times in seconds.items()} == {"a": 4, "b": 4, "c": 4}
    assert all(t >= 0 for times in seconds.values() for t in times)
    assert done == [0, 0, 1, 2, 3, 4]


def test_ratio_is_a_median_over_rounds():
    # the machine slows down tenfold in the middle: a ratio of medians would be 1
    assert ratio([2, 20, 200], [1, 20, 20]) == 2
    assert ratio([3, 4], [3, 4]) == 1
    with pytest.raises(ValueError, match="shorter"):
        ratio([1, 2], [1])


@pytest.mark.parametrize("mebibytes", [1, 16])
def test_peak_memory(mebibytes):
    size = mebibytes * 2**20

    def function():
        for _ in range(3):  # one after another, so that they do not add up
            torch.ones(size // 4)

    function()
    assert size <= peak_memory(function, torch.device("cpu")) < 3 * size


def test_bench():
    done = []
    setting = Setting(size=(64, 64), rounds=2)
    threads = torch.get_num_threads()
    results = bench(["test_mat", "resnet18", "test_mat"], setting, done.append)
    assert torch.get_num_threads() == threads
    assert [result.model for result in results] == ["test_mat", "resnet18"]
    assert done[-1] == 2
    assert results[0].ratio == 1
    for result in results:
        model = timm.create_model(result.model)
        assert result.parameters == sum(p.numel() for p in model.parameters())
        assert result.macs == count_macs(model, (64, 64)).products
        assert 0 < result.latency_low_ms <= result.latency_ms <= result.latency_high_ms
        assert result.images_per_second == pytest.approx(1000 / result.latency_ms)
        assert result.peak_memory_mib > 4 * result.parameters / 2**20
    assert results[1].ratio > 0


@pytest.mark.parametrize(
    ("model", "setting", "said"),
    [
        ("resnet19", Setting(), "unknown model 'resnet19'; nearest: "),
        ("test_mat", Setting(size=(16, 16)), "test_mat does not run at this setting: expected images of at least"),
    ],
)
def test_bench_refuses(model, setting, said):
    threads = torch.get_num_threads()
    with pytest.raises(UserError, match=said):
        bench([model], setting)
    assert torch.get_num_threads() == threads


def test_environment_names_what_matters():
    where = environment(Setting())
    assert where["torch"] == torch.__version__
    assert where["timm"] == timm.__version__
    assert {"foveal", "torchvision", "python", "system", "hardware"} <= where.keys()


# the counter


class OnImages(nn.Module):
    """A module of tokens [B, N, C], on an image's pixels."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x.flatten(2).transpose(1, 2))


class Attend(nn.Module):
    """Attention of all pixels to all pixels, without weights of its own."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(1))

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)[:, None]
        return nn.functional.scaled_dot_product_attention(x, x, x)


H, W = 12, 10


@pytest.mark.parametrize(
    ("module", "in_chans", "products", "elementwise"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 3, H * W * 8 * 3 * 9, 0),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2, bias=False), 4, H * W // 4 * 8 * 2 * 9, 0),
        (nn.Conv2d(3, 8, 2, stride=2), 3, H * W // 4 * 8 * 3 * 4, 0),
        (OnImages(nn.Linear(3, 7)), 3, H * W * 3 * 7, 0),
        (OnImages(nn.Linear(3, 7, bias=False)), 3, H * W * 3 * 7, 0),
        (OnImages(nn.LayerNorm(6)), 6, 0, 5 * H * W * 6),
        (nn.BatchNorm2d(6), 6, 0, 2 * H * W * 6),
        (Attend(), 8, 2 * (H * W) ** 2 * 8, 0),
        (nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1)), 3, H * W * 15, H * W * 5),
        (nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.GELU()), 3, H * W * 15, 2 * H * W * 5),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_count_macs_in_closed_form(module, in_chans, products, elementwise):
    macs = count_macs(module, (H, W), in_chans)
    assert (macs.products, macs.elementwise) == (products, elementwise)
    assert macs.fvcore == products + elementwise


def test_count_macs_agrees_with_torch():
    model = timm.create_model("resnet18")
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, 64, 64))
    assert count_macs(model, (64, 64)).products * 2 == counter.get_total_flops()


@pytest.mark.parametrize("training", [True, False])
def test_count_macs_leaves_the_model_as_it_was(training):
    model = timm.create_model("test_mat").train(training)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, (64, 64))
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
