"""Segmenters on the command line: train, eval, predict, and what they refuse."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import load_segmenter
from foveal.cli import main
from foveal.data import load_split
from foveal.metrics import MeanIoU
from foveal.tasks import Views

TRAIN = ["train", "quickstart_segmentation", "--model", "test_mat", "--data", "scenes:40x64", "--image-size", "64"]
TRAIN += ["--max-size", "80", "--epochs", "1", "--warmup-epochs", "0", "--batch-size", "8", "--ema-decay", "0"]
TRAIN += ["--lr", "1e-5"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run, and the validation scenes as pictures and masks."""
    place = tmp_path_factory.mktemp("segmentation")
    small = '{"pyramid_channels": 16, "channels": 16}'
    assert main([*TRAIN, "--segmenter-args", small, "--out", str(place / "run")]) == 0
    scenes: Any = load_split("scenes:40x64", kind="segmentation")
    for name in ("images", "masks"):
        (place / "data" / name).mkdir(parents=True)
    (place / "data" / "classes.txt").write_text("\n".join(scenes.classes))
    for index in range(len(scenes)):
        scenes.picture(index).save(place / "data" / "images" / f"{index}.png")
        Image.fromarray(scenes.annotation(index)["mask"]).save(place / "data" / "masks" / f"{index}.png")
    return place


def run(capsys, *argv) -> str:
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 0
    return capsys.readouterr().out


def refused(capsys, *argv) -> str:
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    return message


def test_run_and_card(place):
    assert "load_segmenter" in (place / "run" / "best" / "README.md").read_text()
    config = json.loads((place / "run" / "best" / "config.json").read_text())
    assert config["segmenter"] == "semantic_fpn"
    assert len(config["label_names"]) == 11


def test_eval(place, capsys):
    """Of scenes, of the same pictures in a folder, and by hand."""
    answers = [
        json.loads(run(capsys, "eval", place / "run", "--data", data, "--json"))
        for data in ("scenes:40x64", place / "data")
    ]
    # of a folder without parts the whole is taken
    assert answers[0]["metrics"] == answers[1]["metrics"]
    assert answers[0]["metrics"]["pictures"] == 4
    model, metric = load_segmenter(str(place / "run")), MeanIoU(11)
    scenes: Any = load_split("scenes:40x64", kind="segmentation")
    for index in range(len(scenes)):
        found = model.segment([scenes.picture(index)])
        metric.update(found, {"mask": [torch.from_numpy(scenes.annotation(index)["mask"])]})
    assert metric.compute() == answers[0]["metrics"]
    shown = run(capsys, "eval", place / "run", "--data", place / "data", "--per-class")
    assert "mean IoU" in shown
    assert all(name in shown for name in model.classes)


def test_order_of_classes_is_free(place, capsys, tmp_path):
    """The first two classes exchanged, in the list and in the masks."""
    before = json.loads(run(capsys, "eval", place / "run", "--data", place / "data", "--json"))
    names = (place / "data" / "classes.txt").read_text().splitlines()
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").symlink_to(place / "data" / "images")
    (tmp_path / "classes.txt").write_text("\n".join([names[1], names[0], *names[2:]]))
    for path in (place / "data" / "masks").iterdir():
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.where(mask < 2, 1 - mask, mask).astype(np.uint8)).save(tmp_path / "masks" / path.name)
    after = json.loads(run(capsys, "eval", place / "run", "--data", tmp_path, "--json"))
    assert after["metrics"] == before["metrics"]


def test_views(place, capsys):
    plain = json.loads(run(capsys, "eval", place / "run", "--data", place / "data", "--json"))
    argv = [
        "eval",
        place / "run",
        "--data",
        place / "data",
        "--json",
        "--slide",
        "48",
        "--scales",
        "0.75",
        "1.25",
        "--hflip",
    ]
    seen = json.loads(run(capsys, *argv))
    assert seen["settings"]["views"] == {"slide": 48, "stride": 0, "scales": [0.75, 1.25], "hflip": True}
    assert seen["metrics"] != plain["metrics"]


def test_predict(place, capsys, tmp_path):
    out = tmp_path / "out"
    lines = run(capsys, "predict", place / "run", place / "data" / "images", "--out", out, "--json").splitlines()
    model = load_segmenter(str(place / "run"))
    for path, line in zip(sorted((place / "data" / "images").iterdir()), lines, strict=True):
        answer, picture = json.loads(line), Image.open(path)
        (classes,) = model.segment([picture])
        assert answer["picture"] == str(path)
        assert sum(answer["shares"].values()) == pytest.approx(1, abs=1e-4)
        assert answer["shares"][model.classes[classes.flatten().mode()[0]]] == max(answer["shares"].values())
        written = Image.open(out / "masks" / path.name)
        assert written.mode == "P"
        assert np.array_equal(np.asarray(written), classes.numpy())
        overlay = Image.open(out / "overlays" / path.name)
        assert overlay.size == picture.size
        assert not np.array_equal(np.asarray(overlay), np.asarray(picture))
    assert "exists; nothing was overwritten" in refused(
        capsys, "predict", place / "run", place / "data" / "images", "--out", out
    )
    shown = run(capsys, "predict", place / "run", place / "data" / "images" / "0.png", "--hflip")
    assert "%" in shown


def test_views_of_a_picture_in_python(place):
    model = load_segmenter(str(place / "run"))
    picture = Image.open(place / "data" / "images" / "0.png")
    plain, mirrored = model.segment([picture, picture], Views(hflip=True))
    assert torch.equal(plain, mirrored)
    assert model.segment([]) == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["eval", "RUN", "--data", "scenes", "--confusion", "a.png"], "--confusion: no effect on a segmenter"),
        (
            ["eval", "RUN", "--data", "scenes", "--save-predictions", "a.json"],
            "--save-predictions: no effect",
        ),
        (["eval", "RUN", "--data", "scenes", "--stride", "4"], "--stride has no effect without --slide"),
        (["eval", "RUN", "--data", "scene"], "nearest: scenes"),
        (["predict", "RUN", "nothing.png"], "nothing.png: no such file"),
        (["predict", "RUN", "a.png", "--threshold", "0.4"], "--threshold: no effect on a segmenter"),
        (["predict", "RUN", "clip.mp4", "--out", "OUT"], "cannot draw"),
        (["predict", "RUN"], "no picture given"),
    ],
)
def test_what_is_refused(place, capsys, tmp_path, argv, message):
    words = [{"RUN": place / "run", "OUT": tmp_path / "new"}.get(word, word) for word in argv]
    assert message in refused(capsys, *words)


def test_other_classes_are_named(place, capsys, tmp_path):
    (tmp_path / "masks").symlink_to(place / "data" / "masks")
    (tmp_path / "images").symlink_to(place / "data" / "images")
    (tmp_path / "classes.txt").write_text("\n".join(f"thing {i}" for i in range(11)))
    assert "the classes differ" in refused(capsys, "eval", place / "run", "--data", tmp_path)


def test_other_tasks_are_refused(place, capsys):
    from foveal import load_classifier, load_detector
    from foveal._errors import UserError

    with pytest.raises(UserError, match="holds no detector, but a model for segmentation"):
        load_detector(str(place / "run"))
    with pytest.raises(UserError, match="holds no classifier, but a model for segmentation"):
        load_classifier(str(place / "run"))
