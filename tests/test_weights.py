"""Shipped weights: index, files, cards and logits agree, they load as any weights of timm, and faults are one line."""

import hashlib
import importlib.util
import json
from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch

from conftest import MODELS, randomize
from foveal import _weights
from foveal._errors import UserError
from foveal._weights import VARIABLE, WEIGHTS, Weights
from foveal.fidelity import TOP1
from foveal.studies import STUDIES, Study
from foveal.studies.classification import small
from foveal.tasks import load_classifier
from runs import foveal_command, make_folder, save_model

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "weights"
LOGITS = json.loads((ROOT / "tests" / "weights_logits.json").read_text())
MOST = 30e6  # bytes of all files
here = pytest.mark.skipif(not FOLDER.is_dir(), reason="the source archive is without weights")
NAME = min(WEIGHTS, key=lambda name: WEIGHTS[name].bytes)


@pytest.fixture(scope="module")
def script():
    """scripts/ship_weights.py as a module."""
    spec = importlib.util.spec_from_file_location("ship_weights", ROOT / "scripts" / "ship_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@here
def test_folder_holds_a_file_and_a_card_of_each_and_stays_small():
    assert len(WEIGHTS) >= 3
    expected = {f"{name}{suffix}" for name in WEIGHTS for suffix in (".safetensors", ".md")}
    assert {path.name for path in FOLDER.iterdir()} == expected
    assert LOGITS.keys() == WEIGHTS.keys()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MOST
    for name, weights in WEIGHTS.items():
        content = (FOLDER / f"{name}.safetensors").read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (weights.bytes, weights.sha256)
        card = (FOLDER / f"{name}.md").read_text()
        assert f"| {weights.top1:.2f} % |" in card
        assert f"{weights.bytes} bytes, SHA-256 `{weights.sha256}`" in card
        assert "no ImageNet weights" in card


@here
@pytest.mark.parametrize("name", WEIGHTS)
def test_logits_are_those_of_the_file_that_was_measured(name, script):
    assert (script.logits(load_classifier(name)) - torch.tensor(LOGITS[name])).abs().max() <= 1e-4


@here
def test_they_load_as_weights_of_timm():
    assert set(WEIGHTS) == {name for name in timm.list_pretrained() if name.partition(".")[0] in MODELS}
    model = timm.create_model(NAME, pretrained=True)
    classes = WEIGHTS[NAME].cfg["label_names"]
    assert (model.num_classes, list(model.pretrained_cfg["label_names"])) == (len(classes), classes)
    own = model.state_dict()
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in own.values())
    features = timm.create_model(NAME, pretrained=True, features_only=True).model.state_dict()
    other = timm.create_model(NAME, pretrained=True, num_classes=3).state_dict()
    for state in (features, other):
        shared = [key for key in own if key in state and not key.startswith("head.fc")]
        assert len(shared) > 0.9 * len(own)
        assert all(torch.equal(own[key], state[key]) for key in shared)


def test_without_a_tag_there_are_no_weights():
    for name in MODELS:
        cfg = timm.get_pretrained_cfg(name)
        assert (cfg.tag, cfg.num_classes, cfg.input_size) == ("untrained", 1000, (3, 224, 224))
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model(NAME.partition(".")[0], pretrained=True)


@here
def test_a_file_of_ones_own_is_taken_as_it_is(tmp_path, monkeypatch):
    own = tmp_path / "own.safetensors"
    own.write_bytes((FOLDER / f"{NAME}.safetensors").read_bytes())
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(own)})


@pytest.mark.parametrize("fault", ["no folder", "no file", "other file"])
def test_a_fault_is_one_line(fault, tmp_path, monkeypatch):
    path = tmp_path / f"{NAME}.safetensors"
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    said = f"no {path}: it is in weights/ of foveal's repository and among the files of a release; {VARIABLE} names"
    if fault == "no folder":
        monkeypatch.setattr(_weights, "folder", lambda: None)
        said = f"{NAME} needs {path.name}: it is in weights/"
    elif fault == "other file":
        path.write_bytes(b"other")
        said = f"{path} is not the file of {NAME}: its SHA-256"
    with pytest.raises(UserError) as error:
        timm.create_model(NAME, pretrained=True)
    assert str(error.value).startswith(said)
    answer = foveal_command("predict", NAME, "picture.png")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"foveal: {error.value}\n"
    answer = foveal_command("models", "--weights")
    assert (answer.code, answer.err) == (0, "")
    assert str(error.value) in answer.out
    assert "next:" not in answer.out
    timm.create_model(NAME)  # needs no file


@here
def test_models_lists_them():
    answer = foveal_command("models", "--weights")
    assert (answer.code, answer.err) == (0, "")
    for name, weights in WEIGHTS.items():
        line = next(line for line in answer.out.splitlines() if line.strip().startswith(name))
        assert f"{weights.top1:.2f}" in line
        assert line.rstrip().endswith(" there")
    assert answer.out.splitlines()[-1] == f"next: foveal predict {next(iter(WEIGHTS))} PICTURE"
    rows = json.loads(foveal_command("models", "--weights", "--json").out)
    assert [(row["weights"], row["fault"]) for row in rows] == [(name, None) for name in WEIGHTS]


def test_models_lists_models(monkeypatch):
    monkeypatch.setattr("foveal.cli.models.count_macs", lambda model, size: SimpleNamespace(products=prod(size)))
    answer = foveal_command("models", "--json")
    rows = {row["model"]: row for row in json.loads(answer.out)}
    assert rows.keys() == {name for name in MODELS if not name.startswith("test_")} == TOP1.keys()
    row = rows["mat_2"]
    assert (round(row["parameters"] / 1e6, 3), row["macs"], row["reported_top1"]) == (10.767, 224 * 224, 79.0)
    assert NAME.partition(".")[2] in rows[NAME.partition(".")[0]]["weights"]


@pytest.fixture
def tiny(script, tmp_path, monkeypatch):
    """A finished run of a study of one tiny model, and the script writing elsewhere."""
    data = make_folder(tmp_path / "data")
    planned = small("test_mat", dict(drop_path_rate=0.0), "two")
    study = Study(name="two", about="A test.", figures=(), runs={"test_mat": planned})
    monkeypatch.setitem(STUDIES, "two", lambda: study)
    for name in ("FOLDER", "LOGITS", "INDEX"):
        monkeypatch.setattr(script, name, tmp_path / name)
    run, cost = tmp_path / "test_mat-0", {"parameters": 1, "macs": 1}
    cfg = dict(input_size=(3, 32, 32), interpolation="bicubic", mean=(0.5,) * 3, std=(0.2,) * 3, crop_pct=1.0)
    cfg["pool_size"] = None
    model = randomize(timm.create_model("test_mat", num_classes=2))
    run.mkdir()
    save_model(model, dict(label_names=["cat", "dog"], pretrained_cfg=cfg), run / "best")
    environment = dict(foveal="1", torch="2", timm="3", hardware="a processor")
    stored = dict(run=replace(planned, data=str(data)).to_dict(), cost=cost, environment=environment)
    (run / "run.json").write_text(json.dumps(stored))
    (run / "metrics.jsonl").write_text('{"epoch": 5, "top1": 12.34}\n')
    return run


def test_script_ships_a_run(tiny, script, tmp_path):
    said = script.ship("two", tiny, None)
    ((name, entry),) = json.loads((tmp_path / "INDEX").read_text()).items()
    weights, file = Weights(**entry), tmp_path / "FOLDER" / "test_mat.two.safetensors"
    assert (name, weights.pictures, weights.bytes) == ("test_mat.two", 14, file.stat().st_size)
    assert said.endswith(f"top-1 12.34 % before rounding, {weights.top1:.2f} % as shipped")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == weights.sha256
    card = file.with_suffix(".md").read_text()
    assert f"| {weights.top1:.2f} % |" in card
    assert str(tmp_path) not in card
    logits = torch.tensor(json.loads((tmp_path / "LOGITS").read_text())[name])
    model = load_classifier(str(tiny))
    assert (script.logits(model) - logits).abs().max() < 0.02 * logits.abs().max()  # float16 has 11 bits


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        ("metrics.jsonl", '"epoch": 5', '"epoch": 4', "is not finished"),
        ("run.json", '"smoothing": 0.1', '"smoothing": 0.2', "is not the run of a model of two as the study trains it"),
        ("run.json", "test_mat", "mat_1", "is not the run of a model of two"),
    ],
)
def test_script_refuses_what_is_no_finished_run_of_the_study(tiny, script, tmp_path, file, before, after, said):
    path = tiny / file
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(UserError, match=said):
        script.ship("two", tiny, None)
    assert not (tmp_path / "FOLDER").exists()
