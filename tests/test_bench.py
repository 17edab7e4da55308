"""Bench: interleaving, ratios, memory, training steps, and one counter of multiply-adds against closed forms."""

import csv
import io
import json
import math
import os
import time
from dataclasses import asdict
from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from foveal._errors import UserError
from foveal.bench import (
    Setting,
    bench,
    count_macs,
    environment,
    interleave,
    models,
    num_threads,
    peak_memory,
    ratio,
    throughput,
)
from foveal.bench._apart import Apart
from foveal.bench.models import training_step
from foveal.cli import main

CPU = torch.device("cpu")


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
    assert size <= peak_memory(function, CPU) < 3 * size


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only where a test says so."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(("rounds", "timed"), [(2, 2), (9, 3)])
def test_throughput_counts_images_behind_the_first_batch(clock, rounds, timed):
    def batches():
        for seconds in (100, 0.5, 0.5, 0.5):  # the first waits for the workers
            clock[0] += seconds
            yield [0] * 16

    done = []
    assert throughput(batches(), len, rounds, done.append) == 32
    assert done == list(range(1, timed + 1))


def test_throughput_needs_two_batches():
    with pytest.raises(UserError, match="a single batch"):
        throughput([[0]], len, 5, lambda done: None)


def test_num_threads():
    before = torch.get_num_threads()
    with num_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


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
        ("test_mat", Setting(mode="train", size=(16, 16)), "test_mat does not run at this setting: expected images"),
        ("resnet18", Setting(mode="train", size=(32, 32)), "resnet18 does not run at this setting: Expected more than"),
        (
            "dla46x_c",
            Setting(mode="train", grad_checkpointing=True),
            "dla46x_c does not .*: gradient checkpointing not",
        ),
    ],
)
def test_bench_refuses(model, setting, said):
    threads = torch.get_num_threads()
    with pytest.raises(UserError, match=said):
        bench([model], setting)
    assert torch.get_num_threads() == threads


def test_layers_can_be_fused_before():
    (whole,), (fused,) = (bench(["test_emsnet"], Setting(size=(64, 64), rounds=2, reparam=on)) for on in (False, True))
    assert fused.macs < whole.macs


def test_memory_that_suffices_for_each_but_not_for_all(monkeypatch):
    def in_turn(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("foveal.bench.models.in_turn", in_turn)
    with pytest.raises(UserError, match="cpu has no memory for 2 models at once; try fewer, --batch or --jobs 1"):
        bench(["test_mat", "test_emsnet"], Setting(size=(32, 32)))


def test_models_are_made_ready_apart(monkeypatch, capsys):
    made = []
    monkeypatch.setattr(
        models, "Apart", lambda make, names, jobs: made.append((names, jobs)) or Apart(make, names, jobs)
    )
    results = bench(["test_mat", "test_emsnet", "resnet18"], Setting(size=(32, 32), rounds=2, jobs=2))
    here = bench(["test_mat", "test_emsnet", "resnet18"], Setting(size=(32, 32), rounds=2))
    for a, b in zip(results, here, strict=True):
        assert (a.model, a.runtime, a.parameters, a.macs) == (b.model, b.runtime, b.parameters, b.macs)
        assert a.peak_memory_mib == pytest.approx(b.peak_memory_mib, rel=0.1)
        assert 0 < a.latency_low_ms <= a.latency_ms <= a.latency_high_ms
    assert results[0].ratio == 1
    assert main(["bench", "test_mat", "--size", "32", "--rounds", "2", "--jobs", "3"]) == 0
    assert made == [(["test_mat", "test_emsnet", "resnet18"], 2), (["test_mat"], 3)]


def test_what_fails_apart_is_said_here(capfd):
    setting = Setting(mode="train", size=(32, 32), batch=2, grad_checkpointing=True, jobs=2)
    with pytest.raises(UserError, match=r"dla46x_c does not .*: gradient checkpointing not"):
        bench(["dla46x_c", "test_mat"], setting)
    assert "Traceback" not in capfd.readouterr().err


def vanish(name):
    os._exit(1)


def answer(name, folder):
    (folder / f"{name} begins").touch()
    time.sleep(0.2)
    begun = len(list(folder.iterdir()))
    calls = {"length": lambda: len(name), "pid": os.getpid, "memory": exhaust, "other": lambda: 1 / 0}
    return begun, calls


def exhaust():
    raise torch.OutOfMemoryError


def test_a_process_that_ends_is_named():
    with pytest.raises(UserError, match="the process of a ended; if memory ran out, try fewer models or --jobs 1"):
        Apart(vanish, ["a"], 2)


def test_calls_are_made_apart_until_closed(tmp_path):
    names = ["a", "bc", "def"]
    with Apart(partial(answer, folder=tmp_path), names, 1) as apart:
        assert [apart.known[name][0] for name in names] == [1, 2, 3]  # the next begins when one is ready
        calls = {name: apart.calls(name) for name in names}
        assert [calls[name]["length"]() for name in ("def", "a", "def")] == [3, 1, 3]
        assert len({os.getpid(), *(calls[name]["pid"]() for name in names)}) == 4
        with pytest.raises(torch.OutOfMemoryError):
            calls["bc"]["memory"]()
        with pytest.raises(UserError, match="def does not run at this setting: division by zero"):
            calls["def"]["other"]()
    assert not any(process.is_alive() for process in apart.processes.values())


# training steps


def test_bench_of_training_steps():
    few, many = (  # so far apart, and with a median of three, that other work on the machine does not swap their times
        bench(["test_mat", "resnet18"], Setting(mode="train", size=(64, 64), batch=batch, rounds=3))
        for batch in (2, 32)
    )
    forward = bench(["test_mat", "resnet18"], Setting(size=(64, 64), batch=32, rounds=3))
    for a, b, f, state in zip(few, many, forward, (3, 3), strict=True):
        assert all(math.isfinite(value) and value > 0 for value in list(asdict(b).values())[2:])
        assert (a.parameters, a.macs) == (b.parameters, b.macs) == (f.parameters, f.macs)
        assert b.images_per_second == pytest.approx(32000 / b.latency_ms)
        # beside the weights their gradients and AdamW's two averages
        assert f.peak_memory_mib + 4 * state * b.parameters / 2**20 < b.peak_memory_mib
        assert a.peak_memory_mib < b.peak_memory_mib
    assert many[0].ratio == 1
    assert many[1].latency_ms > few[1].latency_ms


def stepped(compile=False, **setting):
    """A model before and after a training step, the step, and its logits."""
    model = timm.create_model("test_mat", num_classes=7).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = []
    model.get_classifier().register_forward_hook(lambda module, args, output: logits.append(output))
    step, held = training_step(model, Setting(mode="train", size=(32, 32), batch=4, **setting), CPU, compile)
    return model, before, step, held, logits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_training_step_moves_float32_weights_under_autocast(dtype):
    model, before, step, held, logits = stepped(dtype=dtype)
    assert model.training
    assert [(x.dtype, tuple(x.shape)) for x in logits] == [(getattr(torch, dtype), (4, 7))]
    first = {name: value.clone() for name, value in model.state_dict().items()}
    step()
    moved = 0
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None
        moved += not torch.equal(before[name], first[name]) and not torch.equal(first[name], parameter)
    assert moved > 0.9 * len(list(model.parameters()))  # a window of one pixel has no use for its abstract token
    floats = sum(p.numel() for p in model.parameters())
    assert 12 * floats <= held < 12.5 * floats + 1000


def test_checkpointing_saves_memory():
    peaks = []
    for on in (False, True):
        setting = Setting(mode="train", size=(64, 64), batch=8, grad_checkpointing=on)
        step, _ = training_step(timm.create_model("test_mat"), setting, CPU)
        peaks.append(peak_memory(step, CPU))
    assert peaks[1] < 0.8 * peaks[0]


def test_channels_last_and_compile_reach_the_training_step(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    model, *_ = stepped(compile=True, channels_last=True)
    assert compiled == [model]
    kernels = [p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


# the command

BENCH = ["bench", "test_mat", "--size", "32", "--rounds", "2"]


def printed(capsys, *args: str) -> str:
    assert main([*BENCH, *args]) == 0
    return capsys.readouterr().out


def test_both_modes_print_the_same_columns(capsys):
    modes = [[], ["--train", "--batch", "4", "--dtype", "bfloat16", "--grad-checkpointing"]]
    answers = [json.loads(printed(capsys, *args, "--json")) for args in modes]
    rows = [next(csv.DictReader(io.StringIO(printed(capsys, *args, "--csv")))) for args in modes]
    assert list(rows[0]) == list(rows[1])
    for part in ("environment", "setting"):
        assert list(answers[0][part]) == list(answers[1][part])
    assert list(answers[0]["results"][0]) == list(answers[1]["results"][0])
    assert [answer["setting"]["mode"] for answer in answers] == [row["mode"] for row in rows] == ["inference", "train"]
    shown = printed(capsys, *modes[1])
    assert "training steps, 32x32, batch 4, bfloat16 autocast, 1 thread(s), eager, gradient checkpointing, 2" in shown


@pytest.mark.parametrize(("args", "batch"), [([], 1), (["--train"], 32), (["--train", "--batch", "2"], 2)])
def test_batch_belongs_to_the_mode(capsys, args, batch):
    assert json.loads(printed(capsys, *args, "--json"))["setting"]["batch"] == batch


def test_the_loader_stands_beside_the_models(capsys):
    args = ["--train", "--batch", "4", "--data", "fashion"]
    loader = json.loads(printed(capsys, *args, "--recipe", "emsnet_in1k", "--workers", "1", "--json"))["loader"]
    assert loader.pop("images_per_second") > 0
    assert loader == {"data": "fashion", "recipe": "emsnet_in1k", "workers": 1}
    model, row = csv.DictReader(io.StringIO(printed(capsys, *args, "--csv")))
    assert (model["model"], row["model"], row["data"], row["workers"]) == ("test_mat", "loader", "fashion", "0")
    assert float(row["images_per_second"]) > 0
    assert row["latency_ms"] == model["data"] == ""
    assert "read between the steps" in printed(capsys, *args)


def test_workers_are_faster_or_slower_than_models(capsys, monkeypatch):
    speeds = iter([1.0, 1e9])
    monkeypatch.setattr("foveal.cli.bench._speed", lambda *args: next(speeds))
    args = ["--train", "--batch", "4", "--data", "fashion", "--workers", "3"]
    assert "loader: fashion, 3 worker(s), too slow for test_mat" in printed(capsys, *args)
    assert "loader: fashion, 3 worker(s), faster than every model" in printed(capsys, *args)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("--grad-checkpointing", "--grad-checkpointing has no effect without --train"),
        ("--data fashion", "--data has no effect without --train"),
        ("--train --root .", "--root has no effect without --data"),
        ("--train --recipe mat_in1k", "--recipe has no effect without --data"),
        ("--train --workers 2", "--workers has no effect without --data"),
        ("--train --data fashion --workers -1", "workers must not be below 0, got -1"),
        ("--train --data fashion --root .", "--root has no effect on the built-in data"),
        ("--train --data fashion --recipe mat_in2k", "unknown recipe 'mat_in2k'; nearest: mat_in1k"),
        ("--train --data fashio", "unknown data set or folder 'fashio'; nearest: fashion"),
        ("--train --data fashion --size 32 48", "--data takes square pictures"),
        ("--train --data fashion --batch 10001", "larger than the 10000 training pictures"),
        ("--train --batch 0", "batch must be at least 1"),
        ("--jobs 0", "jobs must be at least 1"),
    ],
)
def test_command_refuses(capsys, args, said):
    assert main([*BENCH, *args.split()]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    (line,) = answer.err.splitlines()
    assert said in line


def test_a_bad_picture_ends_the_measurement(capsys, tmp_path):
    for part in ("train", "val"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(4):
                (tmp_path / part / name / f"{i}.png").write_bytes(b"no picture")
    assert main([*BENCH, "--train", "--batch", "2", "--data", str(tmp_path)]) == 2
    assert "cannot read picture" in capsys.readouterr().err


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


def test_runtimes_stand_side_by_side():
    setting = Setting(size=(64, 96), runtimes=("eager", "onnxruntime", "openvino"), fixed=True, rounds=2)
    results = bench(["test_mat"], setting)
    assert [(r.model, r.runtime) for r in results] == [("test_mat", name) for name in setting.runtimes]
    assert len({(r.parameters, r.macs) for r in results}) == 1
    assert [r.peak_memory_mib is None for r in results] == [False, True, True]
    assert results[0].ratio == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--runtime", "onnx"], "unknown runtime 'onnx'; nearest: onnxruntime"),
        (["--runtime", "eager,openvino", "--train"], "openvino is measured in float32 inference on the CPU"),
        (["--runtime", "onnxruntime", "--dtype", "bfloat16"], "onnxruntime is measured in float32 inference"),
        (["--train", "--data", "fashion", "--recipe", "quickstart_detection"], "a recipe of another task"),
        (["--fixed"], "--fixed has no effect without a runtime of exported models"),
        (
            ["--fixed", "--batch", "8", "--runtime", "onnxruntime"],
            "--fixed is for one image at a time",
        ),
    ],
)
def test_runtimes_that_are_refused(argv, message, capsys):
    assert main(["bench", "test_mat", *argv]) == 2
    assert message in capsys.readouterr().err
