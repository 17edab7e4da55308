"""The engine with detectors: resumption to the last bit, averaged weights, several processes, ways to compute."""

import functools
import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal.cli import main
from foveal.data import Batches, load_data
from foveal.detection import DETECTORS, build
from foveal.metrics.coco import CocoAP
from foveal.tasks import load_detector
from runs import execute, execute_all, lines, same, state, weights

DATA = "scenes:24x64"
NARROW = {"channels": 64}
FEW_BOXES = {"rpn_post_nms_top_n_train": 32, "rpn_post_nms_top_n_test": 32, "box_batch_size_per_image": 16}
SMALL = {  # arguments that make the large ones fast
    "retinanet": NARROW,
    "fcos": NARROW,
    "atss": NARROW,
    "faster_rcnn": FEW_BOXES,
    "mask_rcnn": FEW_BOXES,
    "sparse_rcnn": {"num_proposals": 8, "num_stages": 2, "dim_feedforward": 64, "dim_dynamic": 8},
    "detr": {
        "num_queries": 8,
        "embed_dim": 32,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
        "dim_feedforward": 64,
    },
}
ALL_BOXES = {"rpn_batch_size_per_image": 10_000, "box_batch_size_per_image": 10_000}
PLAIN = {"faster_rcnn": ALL_BOXES, "mask_rcnn": ALL_BOXES, "detr": {"dropout": 0.0}}  # that nothing is drawn


def small_run(detector: str, out: Path, *extra: str) -> list[str]:
    """Arguments of a run of two epochs of six steps with all that is random in it."""
    model = ["--model", "test_mat", "--model-args", '{"drop_path_rate":0.1}', "--mosaic", "0.5"]
    return [*_run(detector, out, SMALL.get(detector, {})), *model, "--batch-size", "4", *extra]


def plain_run(detector: str, out: Path, *extra: str) -> list[str]:
    """A run without BatchNorm in the backbone, dropout and sampled boxes: steps do not depend on how a batch is cut."""
    args = SMALL.get(detector, {}) | PLAIN.get(detector, {})
    model = ["--model", "test_partialformer", "--model-args", '{"stem":"conv7"}', "--opt", "sgd", "--lr", "0.01"]
    return [*_run(detector, out, args), *model, *extra]


def _run(detector: str, out: Path, args: dict) -> list[str]:
    size = ["--image-size", "64", "--max-size", "80", "--epochs", "2", "--warmup-epochs", "0.5", "--ema-decay", "0.9"]
    names = ["--detector", detector, "--detector-args", json.dumps(args)]
    return ["quickstart_detection", *names, *size, "--data", DATA, "--out", str(out)]


# Resumption


@pytest.mark.parametrize("detector", DETECTORS)
def test_kills_in_one_epoch_change_nothing(detector, tmp_path):
    """Weights, averaged weights, optimiser, schedule, order, augmentation, sampled boxes: all to the last bit."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert execute(small_run(detector, whole)) == 0
    argv = small_run(detector, cut, "--save-steps", "2", "--workers", "1", "--resume")
    assert execute(argv, die_at=3, number=signal.SIGKILL) == -signal.SIGKILL
    assert state(cut)["step"] == 2
    assert execute(argv, die_at=8, number=signal.SIGTERM) == 128 + signal.SIGTERM
    assert state(cut)["step"] == 9
    assert execute(argv) == 0
    same_runs(cut, whole)


@pytest.mark.parametrize("flags", ["--precision bf16 --ema-decay 0", "--channels-last --accumulate 2", "--frozen-bn"])
def test_other_ways_to_compute_resume_too(flags, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert execute(small_run("retinanet", whole, *flags.split())) == 0
    argv = small_run("retinanet", cut, *flags.split(), "--resume")
    assert execute(argv, die_at=4, number=signal.SIGTERM) == 143
    assert execute(argv) == 0
    same_runs(cut, whole)


def same_runs(one: Path, other: Path) -> None:
    for folder in ("last", "best"):
        assert same(weights(one / folder), weights(other / folder))
    assert lines(one) == lines(other)
    ours, theirs = state(one), state(other)
    for name in ("optimizer", "averaged", "scaler", "step", "epoch", "best", "losses"):
        assert same(ours[name], theirs[name]), name


# Averaged weights


def test_averaged_weights_are_evaluated_and_saved(tmp_path):
    out = tmp_path / "run"
    args = json.dumps(NARROW | {"score_thresh": 1e-6})
    assert main(["train", *small_run("retinanet", out, "--epochs", "1", "--detector-args", args)]) == 0
    assert same(weights(out / "best"), state(out)["averaged"])
    (figures,) = lines(out)
    found = average_precision(out / "best")
    assert found["AP50"] > 0
    assert {name: figures[name] for name in found} == pytest.approx(found, nan_ok=True)
    assert average_precision(out / "last") != pytest.approx(found, nan_ok=True)


def average_precision(folder: Path) -> dict[str, float]:
    model, (_, val) = load_detector(str(folder)), load_data(DATA, kind="detection")
    metric = CocoAP(len(model.classes), masks=model.masks)
    with Batches(val, model.transform(), 4, stack=model.stack) as loader:
        for batch in loader.epoch():
            metric.update(model.predict(batch), batch)
    return metric.compute()


# Several processes


def depends_on_the_batch(detector: str) -> bool:
    """Whether there is BatchNorm outside the backbone."""
    names = dict(build(detector, "test_partialformer", 1, **SMALL.get(detector, {})).named_modules())
    return any(isinstance(m, nn.BatchNorm2d) for name, m in names.items() if not name.startswith("backbone."))


@pytest.mark.parametrize("sharding", [[], ["--fsdp"]])
@pytest.mark.parametrize("detector", DETECTORS)
def test_two_processes_equal_one_with_twice_the_batch(detector, sharding, tmp_path):
    """Losses are divided by the objects, anchors or boxes of all processes, whichever of them has how many."""
    argv = plain_run(detector, tmp_path / "two", "--batch-size", "4", *sharding)
    assert execute_all([argv, argv]) == [0, 0]
    if depends_on_the_batch(detector):
        return
    assert execute(plain_run(detector, tmp_path / "one", "--batch-size", "8")) == 0
    for folder in ("last", "best"):
        ours, theirs = weights(tmp_path / "two" / folder), weights(tmp_path / "one" / folder)
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-5)
    for two, one in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=1e-4, nan_ok=True)


def test_one_detector_depends_on_the_batch():
    assert [name for name in DETECTORS if depends_on_the_batch(name)] == ["ssdlite"]


def test_frozen_batch_norm_makes_two_processes_equal_one(tmp_path):
    flags = ["--frozen-bn", "--frozen-stages", "1", "--model", "test_mat", "--model-args", "{}"]
    argv = plain_run("retinanet", tmp_path / "two", *flags, "--batch-size", "4")
    assert execute_all([argv, argv]) == [0, 0]
    assert execute(plain_run("retinanet", tmp_path / "one", *flags, "--batch-size", "8")) == 0
    ours, theirs = weights(tmp_path / "two" / "last"), weights(tmp_path / "one" / "last")
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-5)


def test_a_killed_pair_goes_on_as_if_nothing_had_been(tmp_path):
    argv = small_run("fcos", tmp_path / "whole")
    assert execute_all([argv, argv]) == [0, 0]
    argv = small_run("fcos", tmp_path / "cut", "--resume")
    assert execute_all([argv, argv], die_at=1, number=signal.SIGTERM) == [143, 143]
    assert state(tmp_path / "cut")["step"] == 2
    assert execute_all([argv, argv]) == [0, 0]
    same_runs(tmp_path / "cut", tmp_path / "whole")


# Ways to compute


def test_accumulation_is_a_larger_batch(tmp_path):
    """Of RetinaNet, whose losses are means of pictures; others divide by what one backward pass has of objects."""
    for name, extra in (("a", "--batch-size 8"), ("b", "--batch-size 2 --accumulate 4")):
        assert main(["train", *plain_run("retinanet", tmp_path / name, *extra.split())]) == 0
    ours, theirs = weights(tmp_path / "b" / "last"), weights(tmp_path / "a" / "last")
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_compiled_detector_learns_the_same(detector, tmp_path, monkeypatch):
    """The C++ backend is left out, since a machine may have no compiler."""
    extra = ["--epochs", "1", "--warmup-epochs", "0", "--batch-size", "8"]
    assert main(["train", *plain_run(detector, tmp_path / "plain", *extra)]) == 0
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="aot_eager"))
    assert main(["train", *plain_run(detector, tmp_path / "compiled", *extra, "--compile")]) == 0
    ours, theirs = weights(tmp_path / "compiled" / "last"), weights(tmp_path / "plain" / "last")
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("detector", DETECTORS)
def test_what_is_frozen_stays(detector, tmp_path):
    args = SMALL.get(detector, {})
    before = build(detector, "test_mat", 10, **args).state_dict()
    save_file(before, tmp_path / "start.safetensors")
    extra = ["--frozen-stages", "1", "--frozen-bn", "--weights", str(tmp_path / "start.safetensors"), "--epochs", "1"]
    assert main(["train", *small_run(detector, tmp_path / "run", *extra)]) == 0
    after = weights(tmp_path / "run" / "last")
    same = {key for key in before if torch.equal(before[key], after[key])}
    norms = {key.rpartition(".")[0] for key in before if key.startswith("backbone.") and key.endswith("running_mean")}
    assert {key for key in before if key.rpartition(".")[0] in norms} <= same
    assert {key for key in before if key.startswith("backbone.body.stem")} <= same
    assert not {key for key in same if key.startswith("backbone.body.stages_3") and key.endswith("fc1.weight")}


def test_an_error_of_batch_norm_is_one_line(tmp_path, capsys):
    small = ["--data", "scenes:8x32", "--image-size", "32", "--max-size", "32", "--batch-size", "1"]
    assert main(["train", *small_run("retinanet", tmp_path / "run", "--mosaic", "0", *small)]) == 2
    assert "1 picture(s) a batch: Expected more than 1 value per channel" in capsys.readouterr().err
