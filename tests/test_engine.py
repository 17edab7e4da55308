"""Training: a run as data, the schedule, resumption to the last bit, several processes, and what may go wrong."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config
from timm.scheduler import CosineLRScheduler, PolyLRScheduler

from foveal._errors import UserError
from foveal.cli import main
from foveal.data import Batches, load_data
from foveal.engine import Optim, Processes, Run, RunLog, learning_rate, loop, prepare, train_step
from foveal.engine.checkpoint import replacing, settle
from foveal.recipes import RECIPES
from foveal.tasks import Classification
from runs import execute, execute_all, lines, make_folder, same, small_run, state, weights, without_compiler


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("pictures") / "data")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nothing disturbs, by its further arguments."""
    made: dict[tuple[str, ...], Path] = {}

    def train(*extra: str) -> Path:
        if extra not in made:
            made[extra] = tmp_path_factory.mktemp("whole") / "run"
            assert execute(small_run(data, made[extra], *extra)) == 0
        return made[extra]

    return train


# A run as data


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_goes_to_json_and_back(name):
    run = RECIPES[name]()
    assert Run.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    assert RECIPES[name].__doc__


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_of_a_run(terminal, tmp_path, monkeypatch):
    """Without a terminal: now and then a line with what is left at the pace so far. Figures have four digits."""
    monkeypatch.setattr("foveal.engine.progress.PLAIN_SECONDS", -1.0)
    out = io.StringIO()
    with RunLog(tmp_path, 20, Console(file=out, force_terminal=terminal, width=200), done=2) as log:
        log.started -= 100
        log.step(12, "3/5", {"loss": 0.123456, "lr": 0.1, "images_per_second": 50.4})
        log.metrics({"epoch": 3, "top1": 12.345678}, "top1", 12)
        log.say("[bold]as it is[/bold]")
    said = ["epoch 3  top1 12.35", "[bold]as it is[/bold]"]
    if terminal:
        assert [line in out.getvalue() for line in (*said, "s left")] == [True, True, False]
    else:
        assert out.getvalue().splitlines() == ["epoch 3/5  loss 0.1235  50 images/s  80 s left", *said]


def test_number_of_recipes():
    assert len(RECIPES) == 23


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_and_runs_a_step(name, data, whole):
    """With its own optimiser, augmentation and loss; small pictures, and a CPU's precision."""
    recipe = RECIPES[name]()
    classifies = recipe.task.data == "classification"
    changed = dict(image_size=32 if classifies else 64, pretrained=False)
    changed |= {"teacher": str(whole())} if getattr(recipe.task, "teacher", "") else {}
    run = replace(recipe, task=replace(recipe.task, **changed), device="cpu", precision="fp32", accumulate=2)
    built_in = {"detection": "scenes:8x64", "segmentation": "scenes:8x64", "keypoints": "figures:8x64"}
    pictures, _ = load_data(built_in.get(recipe.task.data, str(data)), kind=recipe.task.data)
    task = run.task.build(pictures)
    training = prepare(run, task, Processes())
    before = {key: value.clone() for key, value in task.model.state_dict().items()}
    with (
        Batches(pictures, task.transform(train=True), 2, seed=0, stack=task.stack) as loader,
        RunLog(None, 1, Console()) as log,
    ):
        figures = train_step(training, loader.epoch(), 10, log)
    assert figures["pictures"] == 4
    assert figures["lr"] == learning_rate(run, 0.05, 10)
    moved = [key for key, value in task.model.state_dict().items() if not torch.equal(value, before[key])]
    assert len(moved) > len(before) / 2


def test_the_thesis_recipes_say_what_the_thesis_says():
    """Section 3.4.1, Table 4.10, section 5.4.1."""
    runs = [RECIPES[f"{name}_in1k"]() for name in ("emsnet", "mat", "partialformer")]
    mat = runs[1]
    assert [run.batch_size * run.accumulate for run in runs] == [512, 4096, 1024]
    assert [run.optim.weight_decay for run in runs] == [0.03, 0.05, 0.05]
    for run in runs:
        assert (run.epochs, run.optim.lr, run.optim.opt, run.task.image_size) == (300, 1e-3, "adamw", 224)
        assert (run.optim.warmup_epochs, run.optim.schedule, run.ema_decay) == (5, "cosine", 0)
    assert (mat.optim.warmup_lr, mat.optim.min_lr) == (1e-7, 1e-6)
    assert (mat.task.augment.mixup, mat.task.augment.cutmix, mat.task.augment.random_erasing) == (0.1, 1.0, 0.25)
    assert mat.task.smoothing == 0.1


PAIRS = {  # what chapters 3 to 5 train on COCO, pictures a step, side of the pictures
    "emsnet_retinanet_1x": ("emsnet_xxtiny", "retinanet", 4, 800),
    "emsnet_mask_rcnn_1x": ("emsnet_xtiny", "mask_rcnn", 4, 800),
    "mat_ssdlite_1x": ("mat_1", "ssdlite", 192, 320),
    "mat_retinanet_1x": ("mat_2", "retinanet", 16, 800),
    "mat_mask_rcnn_1x": ("mat_2", "mask_rcnn", 16, 800),
    "partialformer_ssdlite_1x": ("partialformer_b0", "ssdlite", 192, 320),
    "partialformer_retinanet_1x": ("partialformer_b1", "retinanet", 16, 800),
    "partialformer_mask_rcnn_1x": ("partialformer_b1", "mask_rcnn", 16, 800),
    "partialformer_atss_1x": ("partialformer_b1", "atss", 16, 800),
    "partialformer_sparse_rcnn_1x": ("partialformer_b1", "sparse_rcnn", 16, 800),
}


def test_the_detection_recipes_say_what_the_thesis_says():
    """Sections 3.4.2, 4.6.2 and 5.4.2, Table 4.11; the learning rate is that of torch's own schedulers."""
    recipes = {name: recipe() for name, recipe in RECIPES.items() if name.endswith("_1x")}
    assert recipes.keys() == PAIRS.keys()
    for name, run in recipes.items():
        task, optim = run.task, run.optim
        assert (task.model, task.detector, run.batch_size * run.accumulate, task.image_size) == PAIRS[name]
        assert task.max_size == {800: 1333, 320: 320}[task.image_size]
        assert (run.epochs, optim.opt, optim.lr, optim.weight_decay) == (12, "adamw", 1e-4, 0.05)
        assert optim.betas == (0.9, 0.999)
    run = recipes["mat_retinanet_1x"]
    steps = 1000
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.001, total_iters=500)
    milestones = torch.optim.lr_scheduler.MultiStepLR(optimizer, [8 * steps, 11 * steps])
    for step in range(12 * steps):
        if step < 510 or any(abs(step - epoch * steps) < 3 for epoch in (1, 8, 11, 12)):
            theirs = optimizer.param_groups[0]["lr"]
            assert learning_rate(run, (step + 0.5) / steps, steps) == pytest.approx(theirs, abs=1.1e-7), step
        optimizer.step()
        warmup.step()
        milestones.step()
    ends = [learning_rate(run, (step + 0.5) / steps, steps) for step in (8 * steps - 1, 8 * steps, 11 * steps)]
    assert ends == pytest.approx([1e-4, 1e-5, 1e-6])


def test_the_keypoint_recipe_says_what_the_thesis_and_the_cited_works_say():
    """Table 5.6 and SimpleBaseline's code, mmpose's schedule of PVT and Swin."""
    run = RECIPES["partialformer_simple_baseline_210e"]()
    task, optim = run.task, run.optim
    assert (task.max_size, task.image_size, task.estimator_args) == (256, 192, {"decoding": "quarter"})
    assert (task.augment.rotation, task.augment.scale, task.augment.hflip, task.flip_test) == (40, 0.3, 0.5, True)
    assert (run.epochs, run.batch_size * run.accumulate, optim.opt, optim.lr) == (210, 512, "adamw", 5e-4)
    steps = 300
    ends = [learning_rate(run, (step + 0.5) / steps, steps) for step in (0, 500, 170 * steps, 200 * steps)]
    assert ends == pytest.approx([1e-6, 5e-4, 5e-5, 5e-6], abs=1e-6)


def test_differences_are_named_field_by_field():
    run = RECIPES["quickstart"]()
    other = replace(run, optim=replace(run.optim, lr=1.0), workers=3)
    assert run.differences(other) == ["optim.lr: 0.003 stored, 1.0 given", "workers: 1 stored, 3 given"]
    assert run.differences(other, ignore=("workers", "optim")) == []


def schedule(**optim) -> Run:
    return replace(RECIPES["quickstart"](), epochs=10, optim=Optim(lr=0.5, **optim))


@pytest.mark.parametrize("name", ["cosine", "poly"])
def test_schedules_are_those_of_timm(name):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    common = dict(lr_min=0.01, warmup_t=20, warmup_lr_init=0.001, warmup_prefix=True, t_in_epochs=False)
    theirs = {
        "cosine": lambda: CosineLRScheduler(optimizer, t_initial=80, **common),
        "poly": lambda: PolyLRScheduler(optimizer, t_initial=80, power=0.9, **common),
    }[name]()
    run = schedule(schedule=name, warmup_epochs=2, warmup_lr=0.001, min_lr=0.01)
    for step in range(100):
        theirs.step_update(step)
        assert learning_rate(run, step / 10, 10) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), step


def test_step_schedule():
    run = schedule(schedule="step", decay_epochs=(4, 8), warmup_epochs=0)
    assert [learning_rate(run, epoch, 10) for epoch in (3.9, 4.1, 8.1)] == pytest.approx([0.5, 0.05, 0.005])


# Resumption


def test_kills_in_one_epoch_change_nothing(data, tmp_path, whole):
    """Weights, averaged weights, optimiser, schedule, order, augmentation, dropout: all to the last bit."""
    extra = ["--precision", "fp32", "--ema-decay", "0.9", "--workers", "1"]
    undisturbed = whole(*extra)
    out = tmp_path / "run"
    argv = small_run(data, out, *extra, "--save-steps", "2", "--resume")
    assert execute(argv, die_at=3, number=signal.SIGKILL) == -signal.SIGKILL
    assert state(out)["step"] == 2
    assert execute(argv, die_at=6, number=signal.SIGTERM) == 128 + signal.SIGTERM
    assert state(out)["step"] == 7
    assert execute(argv, die_at=10, number=signal.SIGKILL) == -signal.SIGKILL
    assert state(out)["step"] == 10
    assert execute(argv, die_at=11, number=signal.SIGTERM) == 128 + signal.SIGTERM
    assert (state(out)["step"], lines(out)) == (12, [])  # in the last step of an epoch, which is evaluated later
    assert execute(argv) == 0
    assert same(weights(out / "last"), weights(undisturbed / "last"))
    assert same(weights(out / "best"), weights(undisturbed / "best"))
    assert lines(out) == lines(undisturbed)
    ours, theirs = state(out), state(undisturbed)
    for name in ("optimizer", "averaged", "scaler", "step", "epoch", "best", "losses"):
        assert same(ours[name], theirs[name]), name
    assert theirs["averaged"] is not None


def test_the_number_of_workers_changes_nothing(data, tmp_path, whole):
    assert same(weights(whole() / "last"), weights(whole("--workers", "1") / "last"))


def test_ctrl_c_saves_and_says_how_to_go_on(data, tmp_path):
    out = tmp_path / "run"
    assert execute(small_run(data, out), 4, signal.SIGINT, tmp_path / "said") == 128 + signal.SIGINT
    shown = (tmp_path / "said").read_text()
    assert "stopped behind step 5 of 12 in epoch 1" in shown
    assert shown.strip().endswith(f"go on with: foveal train --from {out}/run.json --resume")
    assert execute(["--from", str(out / "run.json"), "--resume"]) == 0
    assert [line["step"] for line in lines(out)] == [12, 24]


def test_a_finished_run_is_not_trained_again(data, tmp_path, whole, capsys):
    out = whole()
    before = weights(out / "last")
    assert main(["train", "--from", str(out / "run.json"), "--resume"]) == 0
    assert "was finished before" in capsys.readouterr().out
    assert same(weights(out / "last"), before)


def test_a_run_without_a_checkpoint_is_not_begun_again(data, whole, tmp_path, capsys):
    out = Path(shutil.copytree(whole(), tmp_path / "kept"))
    before = weights(out / "best")
    shutil.rmtree(out / "last")
    assert main(["train", "--from", str(out / "run.json"), "--resume", "--out", str(out)]) == 2
    assert "has no last/ to go on from, and best/ would be lost" in capsys.readouterr().err
    assert same(weights(out / "best"), before)


def test_a_run_that_was_moved_goes_on_where_it_is(whole, tmp_path, capsys):
    out = Path(shutil.copytree(whole(), tmp_path / "moved"))
    assert main(["train", "--from", str(out / "run.json"), "--resume", "--epochs", "2"]) == 0
    assert f"{out} was finished before" in " ".join(capsys.readouterr().out.split())


def test_the_name_of_the_recipe_s_model_means_that_model(data, tmp_path, capsys):
    argv = f"--data {data} --image-size 32 --batch-size 4 --out {tmp_path / 'run'} --dry-run"
    for given, parameters in (([], "0.47 M"), (["--model", "partialformer_b0"], "4.0")):
        assert main(["train", *argv.split(), *given]) == 0
        assert parameters in capsys.readouterr().out


def test_a_model_of_maps_is_no_classifier(data, tmp_path, capsys):
    run = small_run(data, tmp_path / "run", "--model-args", '{"global_pool": ""}')
    assert "expected a score for each class" in refused(run, capsys)
    assert not (tmp_path / "run").exists()


def test_an_end_between_the_two_renames_loses_nothing(tmp_path):
    folder = tmp_path / "last"
    with replacing(folder) as fresh:
        (fresh / "file").write_text("first")
    folder.rename(tmp_path / "last.old")
    settle(folder)
    assert (folder / "file").read_text() == "first"
    assert not (tmp_path / "last.old").exists()


def test_a_full_disk_keeps_the_checkpoint_before(data, tmp_path):
    out = tmp_path / "run"
    argv = small_run(data, out, "--save-steps", "2", "--resume")
    assert execute(argv, die_at=5) == -signal.SIGKILL
    before = weights(out / "last")
    assert execute(argv, said=tmp_path / "said", space=40_000) == 2
    error = (tmp_path / "said").read_text().strip()
    assert error.startswith(f"foveal: cannot write checkpoint {out}/last, the one before it is whole")
    assert "\n" not in error
    assert same(weights(out / "last"), before)
    assert state(out)["step"] == 4
    assert not list(out.glob("*.writing"))


def refused(argv: list[str], capsys) -> str:
    assert main(["train", *argv]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("foveal: ")
    assert "\n" not in error
    return error


def test_resuming_with_another_recipe_names_the_fields(data, whole, capsys):
    out = whole()
    error = refused(small_run(data, out, "--resume", "--lr", "0.1", "--smoothing", "0"), capsys)
    assert "optim.lr: 0.003 stored, 0.1 given" in error
    assert "task.smoothing: 0.1 stored, 0.0 given" in error


def test_resuming_with_other_classes_names_them(data, tmp_path, whole, capsys):
    other = make_folder(tmp_path / "data", classes=("cat", "horse"))
    out = tmp_path / "run"
    assert main(["train", *small_run(other, out)]) == 0
    (other / "train" / "horse").rename(other / "train" / "zebra")
    (other / "val" / "horse").rename(other / "val" / "zebra")
    error = refused(["--from", str(out / "run.json"), "--resume"], capsys)
    assert "horse, zebra" in error


def test_resuming_with_other_pictures_a_step_says_what_would_fit(data, whole, capsys):
    error = refused(small_run(data, whole(), "--resume", "--batch-size", "8"), capsys)
    assert "a step had 4 pictures and would have 8" in error
    assert "= 4" in error


def test_resuming_with_other_pictures_is_refused(data, tmp_path, capsys):
    own = make_folder(tmp_path / "data")
    out = tmp_path / "run"
    assert execute(small_run(own, out, "--save-steps", "2"), die_at=5) == -signal.SIGKILL
    (own / "train" / "cat" / "0.png").unlink()
    error = refused(["--from", str(out / "run.json"), "--resume"], capsys)
    assert "had 48 training pictures when the run was started, and has 47" in error


def test_a_bad_validation_picture_costs_no_epoch(data, tmp_path, capsys):
    own = make_folder(tmp_path / "data")
    (own / "val" / "cat" / "0.png").write_text("text")
    out = tmp_path / "run"
    assert "--on-bad-image skip" in refused(small_run(own, out), capsys)
    assert state(out)["step"] == 12
    assert main(["train", "--from", str(out / "run.json"), "--resume", "--on-bad-image", "skip"]) == 0
    assert [line["epoch"] for line in lines(out)] == [1, 2]


@pytest.mark.parametrize(
    "content", [b"", b"hello world", b"PK\x03\x04", {}, [], {"run": 3}, {"run": {}, "step": "x"}], ids=str
)
def test_a_damaged_checkpoint_is_one_line(content, tmp_path, whole, capsys):
    out = tmp_path / "run"
    shutil.copytree(whole(), out)
    if isinstance(content, bytes):
        (out / "last" / "state.pt").write_bytes(content)
    else:
        torch.save(content, out / "last" / "state.pt")
    refused(["--from", str(out / "run.json"), "--resume", "--out", str(out)], capsys)


def test_going_on_from_weights_of_another_model_names_them(tmp_path, whole, capsys):
    out = tmp_path / "run"
    shutil.copytree(whole(), out)
    file = out / "last" / "model.safetensors"
    stored = load_file(file)
    stored["renamed"] = stored.pop(key := min(stored))
    save_file(stored, file)
    error = refused(["--from", str(out / "run.json"), "--resume", "--out", str(out)], capsys)
    assert "written by another version" in error
    assert f'Missing key(s) in state_dict: "{key}"' in error
    assert 'Unexpected key(s) in state_dict: "renamed"' in error


@pytest.mark.parametrize(
    "changed",
    [
        {"precision": "fp8"},
        {"epochs": 1.5},
        {"optim": 3},
        {"task": None},
        {"data": 5},
        {"channels_last": "no"},
        {"x": 1},
    ],
    ids=str,
)
def test_a_malformed_run_is_one_line(changed, tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"run": RECIPES["quickstart"]().to_dict() | changed}))
    refused(["--from", str(path)], capsys)


@pytest.mark.parametrize(
    "flags",
    [
        "--precision fp16",
        "--precision bf16 --ema-decay 0 --workers 1",
        "--channels-last",
        "--grad-checkpointing",
        "--layer-decay 0.7 --opt lamb",
    ],
)
def test_other_ways_to_compute_resume_too(flags, data, tmp_path):
    assert execute(small_run(data, tmp_path / "whole", *flags.split())) == 0
    argv = small_run(data, tmp_path / "cut", *flags.split(), "--resume")
    assert execute(argv, 5, signal.SIGTERM) == 143
    assert execute(argv) == 0
    assert same(weights(tmp_path / "cut" / "last"), weights(tmp_path / "whole" / "last"))
    assert same(state(tmp_path / "cut")["scaler"], state(tmp_path / "whole")["scaler"])
    assert (state(tmp_path / "cut")["averaged"] is None) == ("--ema-decay 0" in flags)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_accumulation_is_a_larger_batch(data, tmp_path):
    """Without what depends on the batch: BatchNorm, dropout, Mixup."""
    made = []
    for name, extra in (("a", "--batch-size 8"), ("b", "--batch-size 2 --accumulate 4")):
        assert main(["train", *plain_run(data, tmp_path / name), *extra.split()]) == 0
        made.append(weights(tmp_path / name / "last"))
    for key in made[0]:
        torch.testing.assert_close(made[0][key], made[1][key], rtol=1e-3, atol=1e-5)


def test_shards_go_on_where_they_stopped(data, tmp_path):
    """Two shards, two workers, shuffled raw samples: the same as without a stop, also within an epoch."""
    for part in ("train", "val"):
        for shard in range(2):
            make_shard(tmp_path / f"{part}-{shard}.tar", sorted((data / part).rglob("*.png"))[shard::2])
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    extra = ["--val-data", str(tmp_path / "val-{0..1}.tar"), "--workers", "2"]
    shards = tmp_path / "train-{0..1}.tar"
    assert execute(small_run(shards, tmp_path / "whole", *extra)) == 0
    argv = small_run(shards, tmp_path / "cut", *extra, "--resume")
    assert execute(argv, 16, signal.SIGTERM) == 143
    assert execute(argv) == 0
    assert same(weights(tmp_path / "cut" / "last"), weights(tmp_path / "whole" / "last"))
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


@pytest.mark.parametrize(("policy", "code"), [("stop", 2), ("skip", 0)])
def test_a_corrupt_record_stops_or_is_skipped(policy, code, data, tmp_path, capsys):
    paths = sorted((data / "train").rglob("*.png"))
    make_shard(tmp_path / "train.tar", paths, broken=paths[5])
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    argv = small_run(tmp_path / "train.tar", tmp_path / "run", "--val-data", str(data), "--on-bad-image", policy)
    assert main(["train", *argv]) == code
    answer = capsys.readouterr()
    assert "train.tar" in (answer.err if policy == "stop" else answer.out)
    assert f"cat-{paths[5].stem}" in (answer.err if policy == "stop" else answer.out)


def make_shard(file: Path, paths: list[Path], broken: Path | None = None) -> None:
    """A tar file of pictures and class numbers."""
    with tarfile.open(file, "w") as shard:
        for path in paths:
            key = f"{path.parent.name}-{path.stem}"
            label = str(["cat", "dog"].index(path.parent.name)).encode()
            for suffix, content in ((".cls", label), (".png", b"no" if path == broken else path.read_bytes())):
                info = tarfile.TarInfo(key + suffix)
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_logger_gets_the_run_and_its_figures(name, data, tmp_path, monkeypatch):
    """Both have the functions init, log and finish; this stands in for them."""
    seen = SimpleNamespace(config=None, logged=[], finished=False)

    class Remote:
        def log(self, values, step):
            seen.logged.append((step, values))

        def finish(self):
            seen.finished = True

    def init(*, project, name, config):
        seen.config = config
        return Remote()

    remote = ModuleType(name)
    remote.init = init
    remote.__spec__ = ModuleSpec(name, None)
    monkeypatch.setitem(sys.modules, name, remote)
    assert main(["train", *small_run(data, tmp_path / "run", "--logger", name)]) == 0
    assert seen.config["run"]["task"]["model"] == "test_mat"
    assert [step for step, values in seen.logged if "epoch/top1" in values] == [12, 24]
    assert seen.finished


def test_curves_are_written(data, whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole() / "tensorboard")).Reload()
    assert {"epoch/top1", "epoch/loss", "train/loss", "train/lr"} <= {*events.Tags()["scalars"]}
    assert [event.step for event in events.Scalars("epoch/top1")] == [12, 24]


# Several processes


def plain_run(data: Path, out: Path) -> list[str]:
    """A run without BatchNorm, dropout and Mixup, whose steps do not depend on how a batch is cut."""
    model = '--model test_partialformer --model-args {"stem":"conv7"}'
    fixed = "--image-size 32 --epochs 2 --opt sgd --lr 0.01 --ema-decay 0.9 --workers 0"
    return f"{model} {fixed} --data {data} --out {out}".split()


def test_a_compiled_model_learns_the_same(data, tmp_path, monkeypatch):
    extra = ["--epochs", "1", "--batch-size", "8", "--model", "test_convnext", "--model-args", "{}"]
    assert main(["train", *plain_run(data, tmp_path / "plain"), *extra]) == 0
    compiled = without_compiler(monkeypatch)
    assert main(["train", *plain_run(data, tmp_path / "compiled"), *extra, "--compile"]) == 0
    assert compiled == [Classification]
    ours, theirs = weights(tmp_path / "compiled" / "last"), weights(tmp_path / "plain" / "last")
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=2e-4)


@pytest.mark.parametrize("sharding", [[], ["--fsdp"]])
def test_two_processes_equal_one_with_twice_the_batch(sharding, data, tmp_path):
    """Also with 14 validation pictures in batches of 4 for each of two: the uneven last ones count once."""
    assert main(["train", *plain_run(data, tmp_path / "one"), "--batch-size", "8"]) == 0
    argv = [*plain_run(data, tmp_path / "two"), "--batch-size", "4", *sharding]
    assert execute_all([argv, argv]) == [0, 0]
    for folder in ("last", "best"):
        ours, theirs = weights(tmp_path / "two" / folder), weights(tmp_path / "one" / folder)
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-5)
    for two, one in zip(lines(tmp_path / "two"), lines(tmp_path / "one")):
        assert two["top1"] == one["top1"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert (two["epoch"], two["step"]) == (one["epoch"], one["step"])


@pytest.mark.parametrize("sharding", [[], ["--fsdp"]])
def test_batch_norms_statistics_are_those_that_are_saved(sharding, data, tmp_path):
    """What two processes measured is what one finds with the weights that they saved."""
    out = tmp_path / "run"
    extra = ["--epochs", "1", "--batch-size", "4", "--ema-decay", "0.9", "--channels-last", *sharding]
    assert execute_all([small_run(data, out, *extra)] * 2) == [0, 0]
    model = timm.create_model(f"local-dir:{out / 'best'}", pretrained=True).eval()
    _, val = load_data(str(data))
    transform = create_transform(**resolve_model_data_config(model))
    with torch.inference_mode():
        scores = model(torch.stack([transform(val.picture(i)) for i in range(len(val))]))
    right = int((scores.argmax(dim=1) == torch.tensor(val.labels)).sum())
    assert lines(out)[0]["top1"] == pytest.approx(100 * right / len(val))


def test_an_error_in_one_process_is_one_line(tmp_path):
    own = make_folder(tmp_path / "data")
    (own / "train" / "cat" / "3.png").write_text("text")
    argv = [*plain_run(own, tmp_path / "run"), "--batch-size", "4"]
    said = tmp_path / "said"
    assert execute_all([argv, argv], said=said) == [2, 2]
    shown = said.read_text().splitlines()
    assert len(shown) == 1
    assert "cat/3.png" in shown[0]


@pytest.mark.parametrize("sharding", [[], ["--fsdp"]])
def test_a_killed_pair_goes_on_as_if_nothing_had_been(sharding, data, tmp_path):
    argv = [*plain_run(data, tmp_path / "whole"), "--batch-size", "4", *sharding]
    assert execute_all([argv, argv]) == [0, 0]
    argv = [*plain_run(data, tmp_path / "cut"), "--batch-size", "4", "--save-steps", "2", "--resume", *sharding]
    assert execute_all([argv, argv], die_at=3, number=signal.SIGTERM) == [143, 143]
    assert state(tmp_path / "cut")["step"] == 4
    assert execute_all([argv, argv]) == [0, 0]
    assert same(weights(tmp_path / "whole" / "last"), weights(tmp_path / "cut" / "last"))


def test_one_process_goes_on_from_two(data, tmp_path):
    out = tmp_path / "run"
    argv = [*plain_run(data, out), "--resume"]
    assert execute_all([[*argv, "--batch-size", "4"]] * 2, die_at=2, number=signal.SIGTERM) == [143, 143]
    assert main(["train", *argv, "--batch-size", "4", "--accumulate", "2"]) == 0
    assert main(["train", *plain_run(data, tmp_path / "one"), "--batch-size", "8"]) == 0
    ours, theirs = weights(out / "last"), weights(tmp_path / "one" / "last")
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-5)


def test_torchrun_starts_again_after_a_killed_worker(data, tmp_path):
    out = tmp_path / "run"
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, signal, sys\n"
        "from foveal.cli import main\n"
        "from foveal.engine import loop\n"
        "step = loop.train_step\n"
        "def dying(training, *args):\n"
        "    if training.step == 4 and os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(training, *args)\n"
        "loop.train_step = dying\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    argv = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    argv += ["--monitor-interval", "0.1", "--standalone", str(worker), "train", *plain_run(data, out)]
    argv += ["--batch-size", "4", "--save-steps", "2", "--resume"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # docs/scale.md
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert "going on behind step 4 of 12" in done.stdout
    assert lines(out)[-1]["step"] == 12


# What may go wrong


def test_a_loss_that_is_not_finite_names_step_batch_and_checkpoint(data, tmp_path, capsys):
    out = tmp_path / "run"
    error = refused(
        small_run(data, out, "--lr", "1e30", "--opt", "sgd", "--clip-grad", "0", "--save-steps", "1"), capsys
    )
    assert "the loss is nan at epoch 1, step " in error
    assert ".png" in error
    assert f"--weights {out}/last/model.safetensors" in error
    assert all(value.isfinite().all() for value in weights(out / "last").values())


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(data, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    check = loop.check_finite

    def poisoned(training, what, *args):
        if what == "loss" and training.step == 5:
            parameter = next(training.task.parameters())
            parameter.register_hook(lambda gradient: gradient * float("inf"))
        return check(training, what, *args)

    monkeypatch.setattr(loop, "check_finite", poisoned)
    error = refused(small_run(data, out, "--save-steps", "1"), capsys)
    assert "the gradient's norm is " in error
    assert "at epoch 1, step 6 " in error
    assert state(out)["step"] == 5


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("--batch-size 64", "a batch of 64 is larger than the 48 training pictures; --batch-size can be 48 at most"),
        ("--accumulate 20", "an epoch has 12 batch(es) and --accumulate is 20"),
        ("--batch-size 3", "Mixup and CutMix need an even batch"),
        ("--opt adamww", "optimiser adamww"),
        ("--auto-augment foo", "unknown augmentation 'foo'"),
        ("--pretrained", "timm has no weights for test_mat"),
        ("--fsdp", "torchrun --nproc-per-node N"),
        ("--sync-bn", "sync-bn needs CUDA"),
        ("--mixup -1", "mixup must not be below 0, got -1"),
        ("--crop-scale 0", "crop-scale must be in (0, 1]"),
        ("--betas 0.9", "betas takes two numbers or more"),
        ("--lr nan", "lr must be above 0, got nan"),
        ("--warmup-epochs 9", "warmup-epochs must not exceed the 2 epoch(s)"),
        ("--poly-power 2", "poly-power has no effect without the poly schedule"),
        ("--decay-rate 0.5", "decay-rate has no effect without the step schedule"),
        ("--temperature 2", "no effect without a teacher"),
        ("--mixup 0 --cutmix 0 --mix-prob 0.5", "no effect without mixup or cutmix"),
        ("--resume --dry-run", "a dry run writes nothing"),
        ('--model-args {"num_classes":3}', "leave num_classes out"),
        ('--model-args {"features_only":true}', "does not run"),
        ("--logger wandb", "wandb is not installed: pip install wandb"),
        ("--schedule step", "decay-epochs and the step schedule need each other"),
        ("--teacher nothing", "unknown model 'nothing'"),
        ("--layer-decay 2", "layer-decay must be in (0, 1]"),
        ("--ema-decay 1", "ema-decay must be in [0, 1), got 1"),
        ("--seed 2147483648", "seed must be below 2147483648, got 2147483648"),
        ("--warmup-epochs 1 --warmup-steps 2", "warmup-epochs and warmup-steps exclude each other"),
        ("--weights nothing.pt", "no such file: nothing.pt"),
        ("--model-args {", "expected a JSON object"),
        ("--from nothing.json", "no such file: nothing.json"),
    ],
)
def test_bad_arguments_are_one_line(extra, said, data, tmp_path, capsys):
    assert said in refused(small_run(data, tmp_path / "run", *extra.split()), capsys)


def test_weights_of_another_architecture_list_the_keys(data, tmp_path, capsys):
    path = tmp_path / "weights.pt"
    torch.save(timm.create_model("test_emsnet", num_classes=2).state_dict(), path)
    error = refused(small_run(data, tmp_path / "run", "--weights", str(path)), capsys)
    assert "missing:" in error
    assert "unexpected:" in error


def test_weights_with_another_classifier_are_taken(data, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": timm.create_model("test_mat", num_classes=5).state_dict()}, path)
    assert main(["train", *small_run(data, tmp_path / "run", "--weights", str(path), "--epochs", "1")]) == 0


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_a_pickle_with_code_in_it_is_refused(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, "weights.pt")
    error = refused(small_run(data, tmp_path / "run", "--weights", "weights.pt"), capsys)
    assert "refused weights.pt" in error
    assert not Path("evil").exists()


def test_a_folder_of_a_run_is_a_model(data, tmp_path, whole):
    """Its architecture, arguments and weights; with other classes a new classifier."""
    other = make_folder(tmp_path / "data", classes=("a", "b", "c"))
    argv = f"--model {whole()} --data {other} --image-size 32 --batch-size 4 --epochs 1 --lr 1e-9 --ema-decay 0"
    assert main(["train", "finetune", *argv.split(), "--out", str(tmp_path / "run")]) == 0
    ours, theirs = weights(tmp_path / "run" / "last"), weights(whole() / "best")
    for key, value in theirs.items():
        if ours[key].shape == value.shape and value.is_floating_point() and "running" not in key:
            torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-6)
    assert [key for key in theirs if ours[key].shape != theirs[key].shape]


def test_a_student_of_its_own_weights_has_nothing_to_learn(data, whole):
    teacher = str(whole())
    args = replace(RECIPES["distill"]().task, model=teacher, teacher=teacher, image_size=32)
    task = args.build(SimpleNamespace(classes=["cat", "dog"]))
    images = torch.randn(4, 3, 32, 32)
    logits = task.model.eval()(images)
    assert task.teacher.loss(logits, images, args).item() == pytest.approx(0, abs=1e-6)
    hard = task.teacher.loss(logits, images, replace(args, distill="hard"))
    expected = torch.nn.functional.cross_entropy(logits, logits.argmax(dim=1))
    torch.testing.assert_close(hard, expected)
    names = dict(task.named_parameters())
    assert all(name.startswith("model.") for name in names)


def test_a_teacher_of_other_classes_is_refused(data, whole):
    args = replace(RECIPES["distill"]().task, model="test_mat", teacher=str(whole()))
    with pytest.raises(UserError, match=r"teacher .* has 2 classes, the data 3"):
        args.build(SimpleNamespace(classes=["a", "b", "c"]))
    with pytest.raises(UserError, match=r"only teacher .* has cat"):
        args.build(SimpleNamespace(classes=["bird", "dog"]))


def test_a_teacher_may_know_the_classes_in_another_order(data, whole):
    args = replace(RECIPES["distill"]().task, model="test_mat", teacher=str(whole()), image_size=32)
    images = torch.randn(4, 3, 32, 32)
    ours, theirs = (
        args.build(SimpleNamespace(classes=classes)).teacher.logits(images)
        for classes in (["dog", "cat"], ["cat", "dog"])
    )
    assert torch.equal(ours, theirs.flip(1))
    assert not torch.equal(ours, theirs)
