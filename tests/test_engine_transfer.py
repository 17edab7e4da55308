"""The engine with models over a backbone: resumption, averaged weights, several processes, ways to compute."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from foveal.cli import main
from foveal.data import Batches, load_data
from foveal.detection import DETECTORS
from foveal.keypoints import ESTIMATORS
from foveal.metrics.coco import CocoAP
from foveal.necks import Registry
from foveal.segmentation import SEGMENTERS
from foveal.tasks import DetectionArgs, load_detector
from runs import execute, execute_all, lines, same, state, weights, without_compiler

FIGURES = {"scenes:24x64": "figures:15x64", "scenes:16x64": "figures:10x64"}  # as many bodies, or one more
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
    "semantic_fpn": {"pyramid_channels": 32, "channels": 16},
    "upernet": {"channels": 32, "auxiliary_channels": 16},
    "simple_baseline": {"channels": 32},
}
ALL_BOXES = {"rpn_batch_size_per_image": 10_000, "box_batch_size_per_image": 10_000}
DROP_NOTHING = {"dropout": 0.0}
PLAIN = {  # that nothing is drawn
    "faster_rcnn": ALL_BOXES,
    "mask_rcnn": ALL_BOXES,
    "detr": DROP_NOTHING,
    "semantic_fpn": DROP_NOTHING,
    "upernet": DROP_NOTHING,
}
KINDS: dict[str, tuple[str, Registry]] = {  # the task of each model, and where it is found
    **dict.fromkeys(DETECTORS, ("detection", DETECTORS)),
    **dict.fromkeys(SEGMENTERS, ("segmentation", SEGMENTERS)),
    **dict.fromkeys(ESTIMATORS, ("keypoints", ESTIMATORS)),
}


def data_for(name: str, scenes: str) -> str:
    """What a model is trained on where others are on some scenes."""
    return FIGURES[scenes] if name in ESTIMATORS else scenes


def small_run(name: str, out: Path, *extra: str) -> list[str]:
    """Arguments of a run of two epochs of four steps with all that is random in it."""
    model = ["--model", "test_mat", "--model-args", '{"drop_path_rate":0.1}']
    model += ["--mosaic", "0.5"] if name in DETECTORS else []
    return [
        *_run(name, out, SMALL.get(name, {})),
        *model,
        "--data",
        data_for(name, "scenes:16x64"),
        "--batch-size",
        "4",
        *extra,
    ]


def plain_run(name: str, out: Path, *extra: str) -> list[str]:
    """A run without BatchNorm in the backbone, dropout and sampled boxes: steps do not depend on how a batch is cut."""
    args = SMALL.get(name, {}) | PLAIN.get(name, {})
    model = ["--model", "test_partialformer", "--model-args", '{"stem":"conv7"}', "--opt", "sgd", "--lr", "0.01"]
    return [*_run(name, out, args), *model, *extra]


def _run(name: str, out: Path, args: dict) -> list[str]:
    size = ["--image-size", "64", "--max-size", "80", "--epochs", "2", "--warmup-epochs", "0.5", "--ema-decay", "0.9"]
    kind, registry = KINDS[name]
    names = [f"--{registry.kind}", name, f"--{registry.kind}-args", json.dumps(args)]
    return [f"quickstart_{kind}", *names, *size, "--data", data_for(name, "scenes:24x64"), "--out", str(out)]


# Resumption


@pytest.mark.parametrize("name", KINDS)
def test_kills_in_one_epoch_change_nothing(name, tmp_path):
    """Weights, averaged weights, optimiser, schedule, order, augmentation, sampled boxes: all to the last bit."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    extra = ["--epochs", "1"] if name in ("faster_rcnn", "mask_rcnn") else []  # which are slow
    assert execute(small_run(name, whole, *extra)) == 0
    argv = small_run(name, cut, *extra, "--save-steps", "2", "--resume")
    assert execute(argv, die_at=3, number=signal.SIGKILL) == -signal.SIGKILL
    assert state(cut)["step"] == 2
    assert execute(argv) == 0
    same_runs(cut, whole)


@pytest.mark.parametrize(
    "flags", ["--precision bf16 --ema-decay 0 --workers 0", "--channels-last --accumulate 2", "--frozen-bn"]
)
def test_other_ways_to_compute_resume_too(flags, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert execute(small_run("retinanet", whole, *flags.split())) == 0
    argv = small_run("retinanet", cut, *flags.split(), "--resume")
    assert execute(argv, die_at=1, number=signal.SIGTERM) == 143
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
    assert main(["train", *small_run("ssdlite", out, "--epochs", "1", "--batch-size", "1")]) == 0
    assert same(weights(out / "best"), state(out)["averaged"])
    (figures,) = lines(out)
    found = average_precision(out / "best")
    assert found["AP50"] > 0
    assert {name: figures[name] for name in found} == pytest.approx(found, nan_ok=True)
    assert average_precision(out / "last") != pytest.approx(found, nan_ok=True)


def test_averaged_weights_of_a_short_run_forget_what_it_began_with(tmp_path):
    """BatchNorm's mean begins at zero, and is nowhere near that after eight steps."""
    out = tmp_path / "run"
    assert main(["train", *small_run("ssdlite", out, "--ema-decay", "0.9999")]) == 0
    last, averaged = weights(out / "last"), state(out)["averaged"]
    means = [name for name in last if name.endswith("running_mean")]
    ratio = sum(averaged[name].norm() for name in means) / sum(last[name].norm() for name in means)
    assert 0.6 < ratio < 0.95


def average_precision(folder: Path) -> dict[str, float]:
    model, (_, val) = load_detector(str(folder)), load_data("scenes:16x64", kind="detection")
    metric = CocoAP(len(model.classes), masks=model.masks)
    with Batches(val, model.transform(), 4, stack=model.stack) as loader:
        for batch in loader.epoch():
            metric.update(model.predict(batch), batch)
    return metric.compute()


# Several processes

SHARDED = ("atss", "mask_rcnn", "upernet", "simple_baseline")  # of each kind, and one with a second stage


def depends_on_the_batch(name: str) -> bool:
    """Whether there is BatchNorm outside the backbone."""
    model = KINDS[name][1].build(name, "test_partialformer", 1, **SMALL.get(name, {}))
    return any(isinstance(m, nn.BatchNorm2d) for key, m in model.named_modules() if not key.startswith("backbone."))


@pytest.mark.parametrize(
    ("name", "sharding"),
    [(name, []) for name in KINDS] + [(name, ["--fsdp"]) for name in SHARDED],
)
def test_two_processes_equal_one_with_twice_the_batch(name, sharding, tmp_path):
    """Losses are divided by the objects, anchors or boxes of all processes, whichever of them has how many.

    Steps of two-stage detectors multiply a difference in the last bits, which may choose another box; were counts those
    of each process, losses would differ by 0.2 to 6 %.
    """
    extra = ["--epochs", "1", *sharding]
    argv = plain_run(name, tmp_path / "two", "--batch-size", "4", *extra)
    assert execute_all([argv, argv]) == [0, 0]
    if depends_on_the_batch(name):
        if sharding:  # whole networks in both processes are the same
            argv = plain_run(name, tmp_path / "pair", "--batch-size", "4", "--epochs", "1")
            assert execute_all([argv, argv]) == [0, 0]
            nearly_same(tmp_path / "two" / "last", tmp_path / "pair" / "last")
        return
    assert execute(plain_run(name, tmp_path / "one", "--batch-size", "8", "--epochs", "1")) == 0
    for two, one in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=1e-3, nan_ok=True)
    nearly_same(tmp_path / "two" / "last", tmp_path / "one" / "last")
    nearly_same(tmp_path / "two" / "best", tmp_path / "one" / "best")


def nearly_same(one: Path, other: Path) -> None:
    """Weights that moved by some 1e-2 differ by 2e-4 at most."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=2e-4)


def test_what_depends_on_the_batch():
    assert len(KINDS) == 12
    dependent = [name for name in KINDS if depends_on_the_batch(name)]
    assert dependent == ["ssdlite", "semantic_fpn", "upernet", "simple_baseline"]


def test_frozen_batch_norm_makes_two_processes_equal_one(tmp_path):
    flags = ["--frozen-bn", "--frozen-stages", "1", "--model", "test_mat", "--model-args", "{}"]
    argv = plain_run("retinanet", tmp_path / "two", *flags, "--batch-size", "4")
    assert execute_all([argv, argv]) == [0, 0]
    assert execute(plain_run("retinanet", tmp_path / "one", *flags, "--batch-size", "8")) == 0
    nearly_same(tmp_path / "two" / "last", tmp_path / "one" / "last")


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
    nearly_same(tmp_path / "b" / "last", tmp_path / "a" / "last")


@pytest.mark.parametrize("name", KINDS)
def test_a_compiled_model_learns_the_same(name, tmp_path, monkeypatch):
    flags = "--epochs 1 --warmup-epochs 0 --batch-size 8 --model test_convnext --model-args {}"
    extra = [*flags.split(), "--data", data_for(name, "scenes:16x64")]
    assert main(["train", *plain_run(name, tmp_path / "plain", *extra)]) == 0
    compiled = without_compiler(monkeypatch)
    assert main(["train", *plain_run(name, tmp_path / "compiled", *extra, "--compile")]) == 0
    assert compiled == [KINDS[name][1][name]]
    nearly_same(tmp_path / "compiled" / "last", tmp_path / "plain" / "last")


@pytest.mark.parametrize("name", KINDS)
def test_what_is_frozen_stays(name, tmp_path):
    kind, registry = KINDS[name]
    classes = load_data(data_for(name, "scenes:16x64"), kind=kind)[0].classes
    before = registry.build(name, "test_mat", len(classes), **SMALL.get(name, {})).state_dict()
    save_file(before, tmp_path / "start.safetensors")
    extra = ["--frozen-stages", "1", "--frozen-bn", "--weights", str(tmp_path / "start.safetensors"), "--epochs", "1"]
    assert main(["train", *small_run(name, tmp_path / "run", *extra)]) == 0
    after = weights(tmp_path / "run" / "last")
    same = {key for key in before if torch.equal(before[key], after[key])}
    norms = {key.rpartition(".")[0] for key in before if key.startswith("backbone.") and key.endswith("running_mean")}
    assert {key for key in before if key.rpartition(".")[0] in norms} <= same
    stem = {key for key in before if key.startswith("backbone.body.model.stem.")}
    last = {key for key in before if key.startswith("backbone.body.model.stages.3.") and key.endswith("fc1.weight")}
    assert stem
    assert stem <= same
    assert last
    assert not last & same


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--layer-decay", "0.5"], "layer-decay has no effect here: timm knows no layers of this model"),
        (["--model", "DETECTOR"], "DETECTOR holds no classifier, but a model for detection; to go on from one"),
        (["--data", "nothing.json", "--val-data", "nothing.json"], "the training pictures have no objects"),
    ],
)
def test_what_a_detector_cannot_be_trained_with(extra, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = DetectionArgs(model="test_mat", image_size=64, max_size=80, detector_args=NARROW)
    task = args.build(SimpleNamespace(classes=["a", "b"]))
    (tmp_path / "DETECTOR").mkdir()
    save_file(task.model.state_dict(), tmp_path / "DETECTOR" / "model.safetensors")
    task.write_config(tmp_path / "DETECTOR" / "config.json")
    images = [dict(id=i, file_name=f"{i}.png", height=64, width=80) for i in range(4)]
    for image in images:
        Image.new("RGB", (80, 64)).save(tmp_path / image["file_name"])
    content = dict(images=images, annotations=[], categories=[dict(id=1, name="a")])
    (tmp_path / "nothing.json").write_text(json.dumps(content))
    assert main(["train", *small_run("retinanet", tmp_path / "run", "--mosaic", "0", *extra)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_warm_up_that_never_ends_is_said(tmp_path, capsys):
    extra = ["--warmup-epochs", "0", "--warmup-steps", "500", "--epochs", "1"]
    assert main(["train", *small_run("retinanet", tmp_path / "run", *extra)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the warm-up of 500 steps is longer than the run of 4" in said
    figures = json.loads((tmp_path / "run" / "metrics.jsonl").read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert None in figures.values()
    json.loads((tmp_path / "run" / "best" / "run.json").read_text(), parse_constant=pytest.fail)


def test_an_error_of_batch_norm_is_one_line(tmp_path, capsys):
    small = ["--data", "scenes:8x32", "--image-size", "32", "--max-size", "32", "--batch-size", "1"]
    assert main(["train", *small_run("retinanet", tmp_path / "run", "--mosaic", "0", *small)]) == 2
    assert "1 picture(s) a batch: Expected more than 1 value per channel" in capsys.readouterr().err
