"""The command line: the main job, its result, and one line for every bad input."""

import csv
import io
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

import foveal.data
from foveal._machine import machine
from foveal.cli import COMMANDS, main
from foveal.data import load_data, open_image
from foveal.data.fashion_mnist import FashionMNIST
from foveal.engine import Run
from runs import foveal_command

ROOT = Path(__file__).parents[1]
COLOURS = {"blue": (40, 60, 220), "green": (30, 200, 60), "red": (220, 40, 40), "white": (230, 230, 230)}
SHORT = ["--epochs", "2", "--batch-size", "8", "--image-size", "32"]


def draw(folder, count, seed=0):
    """A class folder per colour, each with ``count`` pictures of stripes."""
    rng = np.random.default_rng(seed)
    for period, (name, colour) in enumerate(COLOURS.items(), start=2):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            stripes = (np.arange(32) + rng.integers(8)) // period % 2
            pixels = stripes[:, None, None] * np.array(colour) + rng.integers(0, 25, (32, 32, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:02d}.png")
    return folder


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("pictures"), 12)


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "first"
    answer = foveal_command("train", "--out", run, "--data", pictures, *SHORT)
    return SimpleNamespace(run=run, **vars(answer))


# the main job


def test_figures_name_the_commit_of_a_checkout(tmp_path):
    """In a checkout of foveal, and not in the one of another project that holds its environment."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")  # but the unpacked source distribution, which has no commit
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert machine()["commit"].removesuffix("+") == head.strip()
    copy = Path(shutil.copy(ROOT / "src" / "foveal" / "_machine.py", tmp_path))
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    assert runpy.run_path(str(copy))["commit"]() == ""


def test_version_names_what_it_rests_on(capsys):
    assert main(["--version"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"foveal {foveal.__version__}, python 3.")
    assert f"torch {torch.__version__.partition('+')[0]}" in said


def test_train_leaves_a_run(trained, pictures):
    assert (trained.code, trained.err) == (0, "")
    made = sorted(path.name for path in trained.run.iterdir())
    assert made == ["best", "last", "metrics.jsonl", "run.json", "tensorboard"]
    made = sorted(path.name for path in (trained.run / "best").iterdir())
    assert made == ["README.md", "config.json", "model.safetensors", "run.json"]
    stored = json.loads((trained.run / "run.json").read_text())
    run = Run.from_dict(stored["run"])
    assert (run.out, run.data, run.epochs, run.task.image_size) == (trained.run, str(pictures), 2, 32)
    assert stored["environment"]["decoder"] == foveal.data.decoder()
    lines = metrics(trained.run)
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert line["loss"] > 0
        assert 0 <= line["top1"] <= 100
        assert line["images_per_second"] > 0


def test_train_says_what_to_do_next(trained):
    assert f"foveal predict {trained.run}" in trained.out
    assert f"local-dir:{trained.run}/best" in trained.out
    assert "44 training and 4 validation pictures, 4 classes" in trained.out


@torch.inference_mode()
def test_predict_agrees_with_timm(trained, pictures):
    paths = [pictures / name / "03.png" for name in COLOURS]
    answer = foveal_command("predict", trained.run, *paths, "--json")
    assert (answer.code, answer.err) == (0, "")
    lines = [json.loads(line) for line in answer.out.splitlines()]
    assert [line["picture"] for line in lines] == [str(path) for path in paths]
    model = timm.create_model(f"local-dir:{trained.run / 'best'}", pretrained=True).eval()
    names = model.pretrained_cfg["label_names"]
    assert names == list(COLOURS)
    transform = create_transform(**resolve_model_data_config(model))
    for path, line in zip(paths, lines, strict=True):
        scores, classes = model(transform(open_image(path))[None]).softmax(-1)[0].topk(3)
        assert [label["class"] for label in line["labels"]] == [names[i] for i in classes]
        assert [label["score"] for label in line["labels"]] == pytest.approx(scores.tolist(), rel=1e-4)


def test_best_gives_the_validation_accuracy(trained, pictures):
    _, val = load_data(str(pictures))
    answer = foveal_command("predict", trained.run, *val.paths, "--top", 1, "--json")
    found = [json.loads(line)["labels"][0]["class"] for line in answer.out.splitlines()]
    right = sum(name == path.parent.name for name, path in zip(found, val.paths, strict=True))
    assert 100 * right / len(val) == max(line["top1"] for line in metrics(trained.run))


def test_eval_of_what_a_run_was_trained_on_takes_the_part_that_it_held_out(trained, pictures, tmp_path, capsys):
    assert main(["eval", str(trained.run), "--data", str(pictures), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    answer = said["metrics"]
    best = max(metrics(trained.run), key=lambda line: line["top1"])
    assert answer["pictures"] == len(load_data(str(pictures))[1]) < 48
    assert answer["top1"] == pytest.approx(best["top1"], abs=0.1)
    assert said["notes"] == [f"{pictures}: the 4 pictures on which {trained.run} was not trained"]
    other = shutil.copytree(pictures, tmp_path / "other")  # of which it knows nothing
    run = shutil.copytree(trained.run, tmp_path / "run")
    assert main(["eval", str(run), "--data", str(other), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["metrics"]["pictures"], answer["notes"]) == (48, [])
    stored = json.loads((run / "run.json").read_text())
    stored["run"]["data"] = str(other)
    (run / "run.json").write_text(json.dumps(stored | {"pictures": [40, 4]}))  # it has grown since
    assert main(["eval", str(run), "--data", str(other)]) == 0
    said = capsys.readouterr()
    assert re.search(r"pictures +48 ", said.out)
    assert said.err == f"{other}: all of it, also what {run} was trained on, when it had 44\n"


def test_predict_prints_a_table(trained, pictures):
    answer = foveal_command("predict", trained.run / "best", pictures / "red" / "00.png", "--top", 9)
    assert answer.code == 0
    assert all(f"{name} " in answer.out for name in COLOURS)


def test_predict_takes_folders(trained, pictures):
    answer = foveal_command("predict", trained.run, pictures / "blue", pictures / "red" / "00.png", "--json")
    named = [json.loads(line)["picture"] for line in answer.out.splitlines()]
    assert named == [*map(str, sorted((pictures / "blue").iterdir())), str(pictures / "red" / "00.png")]


def test_training_is_deterministic(trained, pictures, tmp_path):
    losses = [line["loss"] for line in metrics(trained.run)]
    for seed, same in [(0, True), (1, False)]:
        run = tmp_path / str(seed)
        assert foveal_command("train", "--out", run, "--data", pictures, *SHORT, "--seed", seed).code == 0
        assert ([line["loss"] for line in metrics(run)] == losses) is same


def test_train_and_val_folders(tmp_path):
    draw(tmp_path / "data" / "train", 4)
    draw(tmp_path / "data" / "val", 2, seed=1)
    args = ["--data", tmp_path / "data", "--image-size", 32, "--epochs", 1, "--batch-size", 8]
    answer = foveal_command("train", "--out", tmp_path / "run", "--model", "test_mat", *args)
    assert answer.code == 0
    assert "test_mat" in answer.out
    assert "16 training and 8 validation pictures, 4 classes" in answer.out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["run"]["task"]["model_args"] == {}


def test_built_in_pictures(monkeypatch, tmp_path):
    fashion = foveal.data.DATASETS["classification"]["fashion"]

    def few(root):
        return tuple(
            FashionMNIST(part.pictures[:n], part.labels[:n]) for part, n in zip(fashion(root), (256, 64), strict=True)
        )

    monkeypatch.setitem(foveal.data.DATASETS["classification"], "fashion", few)
    answer = foveal_command("train", "--out", tmp_path / "run", "--epochs", 1, "--image-size", 32)
    assert answer.code == 0
    assert "256 training and 64 validation pictures, 10 classes" in answer.out
    assert set(metrics(tmp_path / "run")[0]) >= {"epoch", "loss", "top1", "top5", "images_per_second"}


# bad input


def refused(capsys, *args):
    """The one line that answers bad input."""
    assert main([str(arg) for arg in args]) == 2
    answer = capsys.readouterr()
    lines = answer.err.splitlines()
    assert len(lines) == 1, answer.err
    assert lines[0].startswith("foveal: ")
    assert "Traceback" not in answer.err
    return lines[0]


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def place(tmp_path, monkeypatch, pictures):
    """The current folder, with all that the bad inputs name."""
    draw(tmp_path / "one", 1)
    draw(tmp_path / "empty", 2)
    (tmp_path / "empty" / "red2").mkdir()
    (tmp_path / "flat").mkdir()
    draw(tmp_path / "odd" / "train", 1)
    draw(tmp_path / "odd" / "val", 1)
    (tmp_path / "odd" / "val" / "red").rename(tmp_path / "odd" / "val" / "rad")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.jsonl").write_text("mine")
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "good").symlink_to(pictures)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("trian", "unknown command 'trian'; nearest: train"),
        ("train quikstart", "unknown recipe 'quikstart'; nearest: quickstart"),
        ("train --data good --model partialformr_b0", "unknown model 'partialformr_b0'; nearest: partialformer_b0"),
        ("train --data fasion", "unknown data set or folder 'fasion'; nearest: fashion"),
        ("train --data no/such", "no such folder: no/such"),
        ("train --data flat", "flat has no class folders"),
        ("train --data empty", "class folder empty/red2 has no pictures"),
        ("train --data one", "class folder one/blue needs two pictures"),
        ("train --data odd", "differ in their classes: rad, red"),
        ("train --data good --root flat", "--root has no effect"),
        ("train --data good --batch-size 8 --out old", "old exists; nothing was overwritten"),
        ("train --data good --batch-size 8 --out file.txt", "file.txt exists; nothing was overwritten"),
        ("train --data good --batch-size 8 --out file.txt/run", "cannot write file.txt/run"),
        ("train --data good --device abacus", "cannot use device 'abacus'"),
        ("train --data good --image-size 16", "at least 32x32 pixels, got 16x16"),
        ("train --data good --model vit_tiny_patch16_224 --image-size 64", "vit_tiny_patch16_224 does not run"),
        ('train --data good --model-args {"num_heads":[5,5,5,5]}', "num_heads must divide"),
        ("train --image-size 0", "image-size must be above 0, got 0"),
        ("train --epochs -1", "epochs must be above 0, got -1"),
        ("train --smoothing 1", "smoothing must be in [0, 1), got 1"),
        ("train --workers -1", "workers must not be below 0, got -1"),
        ("train --root flat", "--root has no effect on the built-in data 'fashion'"),
        ("train --data fashion-mnist", "needs --root"),
        ("train --data fashion-mnist --root flat", "missing flat/train-images-idx3-ubyte"),
        ("train --data fashion-mnist --root nowhere", "missing nowhere/train-images-idx3-ubyte"),
        ("predict flat good/red/00.png", "flat is no run"),
        ("predict nowhere good/red/00.png", "nowhere is no run"),
        ("tables 9.9", "unknown table '9.9'"),
        ("tables --markdown --json", "exclude each other"),
        ("bench", "no model given"),
        ("bench mat_22", "unknown model 'mat_22'; nearest: mat_2"),
        ("bench mat_1 --batch 0", "batch must be at least 1"),
        ("bench twins_pcpvt_small --size 100", "twins_pcpvt_small does not run"),
        ("bench mat_1 --rounds 1", "rounds must be at least 2"),
        ("bench mat_1 --size 0", "size must be at least 1"),
        ("bench mat_1 --size 1 2 3", "size takes one or two numbers, got 3"),
        ("bench mat_1 --device abacus", "cannot use device 'abacus'"),
        ("bench mat_1 --csv --json", "exclude each other"),
        ("bench mat_1 --reparam --train", "--reparam and --train exclude each other"),
        ("bench test_mat --size 16", "test_mat does not run at this setting: expected images of at least 32x32"),
    ],
)
def test_bad_input_is_answered_in_one_line(place, capsys, args, said):
    before = contents(place)
    assert said in refused(capsys, *args.split())
    assert contents(place) == before


@pytest.mark.parametrize(
    "args",
    ["train --nope", "train --epochs many", "train --on-bad-image maybe", "predict", "bench mat_1 --dtype int3"],
)
def test_misread_options(place, capsys, args):
    before = contents(place)
    with pytest.raises(SystemExit) as exit_:
        main(args.split())
    assert exit_.value.code == 2
    answer = capsys.readouterr()
    assert "Traceback" not in answer.out + answer.err
    assert args.split()[-1] in answer.err
    assert contents(place) == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("nowhere.png", "cannot read picture nowhere.png: no such file"),
        ("file.txt", "cannot read picture file.txt: not a picture"),
        ("flat", "flat has no file that ends in .bmp, "),
        ("--threshold 0.5 --out new good/red/00.png", "--threshold, --out: no effect on a classifier"),
        ("--top 0 good/red/00.png", "top must be at least 1"),
        ("", "no picture given"),
    ],
)
def test_predict_bad_input(trained, place, capsys, args, said):
    before = contents(place)
    assert said in refused(capsys, "predict", trained.run, *args.split())
    assert contents(place) == before


def test_predict_skips_bad_pictures(trained, place, capsys):
    args = ["predict", str(trained.run), "file.txt", "good/red/00.png", "--json", "--on-bad-image", "skip"]
    assert main(args) == 0
    answer = capsys.readouterr()
    assert [json.loads(line)["picture"] for line in answer.out.splitlines()] == ["good/red/00.png"]
    assert answer.err.startswith("skipped: cannot read picture file.txt")


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_picture_stops_training(tmp_path, capsys, workers):
    # it is met in the middle of a run, whose folder stays with what was there by then
    data = tmp_path / "data"
    draw(data / "train", 3)
    draw(data / "val", 1)
    (data / "train" / "red" / "bad.png").write_text("text")
    args = ["train", "--out", tmp_path / "run", "--data", data, "--model", "test_mat", *SHORT, "--workers", workers]
    said = refused(capsys, *args, "--batch-size", 13)
    assert f"cannot read picture {data}/train/red/bad.png: not a picture" in said
    assert "--on-bad-image skip" in said
    assert not (tmp_path / "run" / "best").exists()


def test_bad_picture_is_skipped_and_listed(tmp_path, capsys):
    data = draw(tmp_path / "data", 3)
    for name in ("red", "blue"):
        (data / name / "bad.png").write_text("text")
    args = ["train", "--out", tmp_path / "run", "--data", data, "--model", "test_mat", *SHORT]
    assert main([*map(str, args), "--on-bad-image", "skip", "--batch-size", "8"]) == 0
    answer = capsys.readouterr()
    assert answer.err == ""
    for name in ("red", "blue"):
        assert answer.out.count(f"cannot read picture {data}/{name}/bad.png: not a picture") == 1
    assert "2 pictures could not be read and were left out" in answer.out
    assert (tmp_path / "run" / "best").is_dir()


def test_nothing_but_bad_pictures(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "data" / name / f"{i}.png").write_text("text")
    args = ["train", "--out", tmp_path / "run", "--data", tmp_path / "data", "--model", "test_mat", *SHORT]
    said = refused(capsys, *args, "--batch-size", "2", "--on-bad-image", "skip")
    assert "epoch 1, step 1: no picture of a batch could be read" in said
    assert not (tmp_path / "run").exists()


def test_diverging_run_stops(pictures, tmp_path, capsys):
    args = ["train", "--out", tmp_path / "run", "--data", pictures, "--model", "test_mat", *SHORT]
    assert "try a smaller --lr" in refused(capsys, *args, "--lr", "1e30", "--warmup-epochs", "0")


# around it


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_usage(capsys, args):
    assert main(args) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help(capsys, command):
    try:
        code = main([command, "--help"])
    except SystemExit as exit_:
        code = exit_.code
    assert code == 0
    assert f"foveal {command}" in capsys.readouterr().out


def test_bench_prints_json_and_csv(capsys):
    args = ["bench", "test_mat", "--size", "32", "--rounds", "2"]
    assert main([*args, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"environment", "setting", "results"}
    assert answer["setting"]["size"] == [32, 32]
    assert answer["results"][0]["model"] == "test_mat"
    assert main([*args, "--csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["size"] == "32x32"
    assert {name: row[name] for name in answer["environment"]} == answer["environment"]
    assert row["parameters"] == str(answer["results"][0]["parameters"])
    assert main(args) == 0
    shown = capsys.readouterr().out
    assert "32x32, batch 1, float32, 1 thread(s), eager, 2 rounds" in shown


def test_module_is_the_command():
    answer = subprocess.run([sys.executable, "-m", "foveal", "tables", "9.9"], capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith("foveal: unknown table '9.9'")


def test_a_reader_that_has_read_enough():
    """As ``foveal data | head -1``: what was read is there, and nothing is said."""
    command = [sys.executable, "-c", "import sys; from foveal.cli import main; sys.exit(main(['data']))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        process.stdout.close()  # before the command writes
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait() == 141
