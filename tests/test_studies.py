"""Studies: what they train, what is kept of it, and the page that shows it."""

import itertools
import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from matplotlib.figure import Figure

from conftest import TINY
from foveal._errors import UserError
from foveal.cli import main
from foveal.cli.study import placed
from foveal.necks import Pyramid
from foveal.studies import STUDIES, Study, _speed, columns, keep, kept, measure, measured, report, rows
from foveal.studies._report import write_names
from foveal.studies.classification import small
from runs import make_folder

BUILT = {name: build() for name, build in STUDIES.items()}


def test_there_are_eleven_studies():
    assert len(STUDIES) == 11
    assert {name: len(study.runs) for name, study in BUILT.items()} == {
        "cifar10": 23,
        "fashion": 23,
        "emsnet": 7,
        "mat": 6,
        "partialformer": 10,
        "detectors": 24,
        "segmenters": 10,
        "estimators": 5,
        "bccd": 12,
        "camvid": 12,
        "openfield": 6,
    }


@pytest.mark.parametrize("name", ["cifar10", "emsnet", "mat", "partialformer"])
def test_classifiers_of_a_study_can_be_built(name):
    for run in BUILT[name].runs.values():
        timm.create_model(run.task.model, num_classes=10, device="meta", **run.task.model_args)


@pytest.mark.parametrize("name", ["detectors", "segmenters", "estimators", "bccd", "camvid", "openfield"])
def test_heads_of_a_study_can_be_built(name):
    for run in BUILT[name].runs.values():
        registry, head, args = run.task.head
        with torch.device("meta"):
            registry[head](Pyramid(Path(run.task.model).name, registry[head].strides), 3, **args)


def test_a_study_names_its_peers():
    for study in BUILT.values():
        assert study.peers <= study.runs.keys()
        ours = {row for row in study.runs if row.rpartition("-")[2].startswith(("emsnet", "mat", "partialformer"))}
        if study.peers:
            assert ours | study.peers == study.runs.keys()
            assert not ours & study.peers


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Study:
    """Two rows of one epoch on a handful of pictures, which lie below a root."""
    make_folder(tmp_path / "root" / "pictures")
    run, other = (replace(small(name, {}, "pictures", epochs=1), batch_size=16) for name in TINY[:2])
    runs = {"ours": run, "peer": other}
    study = Study(name="toy", about="A toy.", figures=("top1",), runs=runs, peers=frozenset({"peer"}))
    monkeypatch.setitem(STUDIES, "toy", lambda: study)
    return study


def fake(study: Study, folder: Path, seed: int, row: str, top1: float, hardware: str = "a machine") -> Path:
    """The folder of a run that might have been trained."""
    trial = next(t for t in study.trials(seed + 1) if (t.row, t.seed) == (row, seed))
    trained = trial.folder(folder / "trained")
    trained.mkdir(parents=True)
    task = replace(trial.run.task, model=f"/somewhere/{trial.run.task.model}")
    run = replace(trial.run, task=task, data="/somewhere/pictures", out=trained, root=Path("/somewhere"))
    stored = dict(run=run.to_dict(), environment={"hardware": hardware}, cost=dict(parameters=1000, macs=2e6))
    (trained / "run.json").write_text(json.dumps(stored | {"command": "foveal train /somewhere"}))
    (trained / "metrics.jsonl").write_text(json.dumps(dict(epoch=1, top1=top1)) + "\n")
    keep(trial, trained, folder / "evidence")
    return trial.folder(folder / "evidence")


def test_what_is_kept_names_no_folder_of_the_machine(toy, tmp_path):
    folder = fake(toy, tmp_path, 0, "ours", 50.0)
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", "run.json"]
    assert "somewhere" not in (folder / "run.json").read_text()
    assert "somewhere" not in (folder / "metrics.jsonl").read_text()


def test_rows_have_mean_and_spread_over_seeds(toy, tmp_path):
    for seed, top1 in enumerate((50.0, 53.0, 58.0)):
        fake(toy, tmp_path, seed, "ours", top1)
    fake(toy, tmp_path, 1, "peer", 40.0)
    ours, peer = rows(toy, tmp_path / "evidence", 5)
    assert (ours.name, ours.seeds, ours.parameters, ours.macs) == ("ours", 3, 1000, 2e6)
    assert ours.mean["top1"] == pytest.approx(161 / 3)
    assert ours.spread is not None
    assert ours.spread["top1"] == pytest.approx(statistics.stdev((50, 53, 58)))
    assert (peer.seeds, peer.spread, peer.figure("top1")) == (1, None, "40.00")


def test_runs_that_did_not_end_do_not_count(toy, tmp_path):
    folder = fake(toy, tmp_path, 0, "ours", 50.0)
    (folder / "metrics.jsonl").write_text('{"epoch": 0, "top1": 9.0}\n')
    assert kept(next(toy.trials(1)), tmp_path / "evidence") is None


def test_runs_trained_otherwise_are_refused(toy, tmp_path, capsys):
    path = fake(toy, tmp_path, 0, "ours", 50.0) / "run.json"
    stored = json.loads(path.read_text())
    stored["run"]["optim"]["lr"] = 0.5
    path.write_text(json.dumps(stored))
    assert main(["study", "report", "--evidence", str(tmp_path / "evidence"), "--page", str(tmp_path / "p.md")]) == 2
    assert "trained otherwise, remove it: optim.lr: " in capsys.readouterr().err
    path.write_text("{")
    assert main(["study", "--evidence", str(tmp_path / "evidence")]) == 2
    assert "cannot read what is kept in" in capsys.readouterr().err


def test_the_page_has_every_row_and_the_remarks(toy, tmp_path, capsys):
    fake(toy, tmp_path, 0, "ours", 50.0)
    fake(toy, tmp_path, 1, "ours", 52.0, "another")
    fake(toy, tmp_path, 0, "peer", 61.5)
    (tmp_path / "evidence" / "toy" / "remarks.md").write_text("What it means.\n")
    page = tmp_path / "page.md"
    for _ in range(2):  # it is written again, to the same bytes
        assert main(["study", "report", "--evidence", str(tmp_path / "evidence"), "--page", str(page)]) == 0
        text, plot = page.read_text(), (tmp_path / "page" / "toy.svg").read_bytes()
    overview, _, table = text.partition("## toy")
    assert "\n| toy | 2 of 2 | 3 | a machine, another |  |\n" in overview
    assert "\n| cifar10 | 0 of 23 | 0 |  | all |\n" in overview
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert lines[1:] == [
        "| peer (peer) | 0.00 | 0.0020 | 61.50 | 1 | a machine |",
        "| ours | 0.00 | 0.0020 | 51.00 ± 1.41 | 2 | a machine, another |",
    ]
    assert "What it means." in text
    assert "![top1 against cost](page/toy.svg)" in text
    assert (page.read_text(), (tmp_path / "page" / "toy.svg").read_bytes()) == (text, plot)
    assert "## cifar10" not in text


def test_a_study_is_trained_and_goes_on(toy, tmp_path, capsys):
    folders = ["--root", str(tmp_path / "root"), "--out", str(tmp_path / "runs"), "--evidence", str(tmp_path / "kept")]
    assert main(["study", "toy", "--seeds", "1", "--minutes", "0", *folders]) == 0
    assert "2 runs are left" in capsys.readouterr().out
    assert main(["study", "toy", "--seeds", "1", "--rows", "ours", *folders]) == 0
    said = capsys.readouterr().out
    assert "ours, seed 0: top1 " in said
    trial = next(toy.trials(1))
    result = kept(trial, tmp_path / "kept")
    assert result is not None
    model = timm.create_model(TINY[0], num_classes=2)
    assert result.cost["parameters"] == sum(p.numel() for p in model.parameters())
    assert main(["study", "toy", "--seeds", "1", "--rows", "ours", *folders]) == 0  # nothing is trained again
    assert "ours, seed 0" not in capsys.readouterr().out


def test_speed_is_measured_kept_and_shown(toy, tmp_path, capsys):
    fake(toy, tmp_path, 0, "ours", 50.0)
    fake(toy, tmp_path, 0, "peer", 61.5)
    evidence = tmp_path / "evidence"
    assert main(["study", "toy", "--speed", "--batch", "4", "--evidence", str(evidence)]) == 0
    said = capsys.readouterr().out
    assert f"wrote {evidence / 'toy' / 'speed.json'}" in said.replace("\n", "")
    assert "latency   throughput" in said
    result = measured(toy, evidence)
    assert result is not None
    assert (result.first, result.batch, result.sizes) == ("ours", 4, [(32, 32)])
    assert result.rows["ours"] == (1.0, 1.0)
    assert result.rows["peer"].latency > 0
    page = tmp_path / "page.md"
    for _ in range(2):  # it is written again, to the same bytes
        assert main(["study", "report", "--evidence", str(evidence), "--page", str(page)]) == 0
        text, plot = page.read_text(), (tmp_path / "page" / "toy-latency.svg").read_bytes()
    assert (page.read_text(), (tmp_path / "page" / "toy-latency.svg").read_bytes()) == (text, plot)
    assert "| ours | 0.00 | 0.0020 | 1.00 | 1.00 | 50.00 | 1 | a machine |" in text
    assert "one picture of 32x32 px) and throughput (of training steps of 4) are ratios to those of `ours`;" in text
    assert "![top1 against latency](page/toy-latency.svg)" in text


def test_rows_that_were_not_measured_show_nothing(toy, tmp_path):
    fake(toy, tmp_path, 0, "ours", 50.0)
    fake(toy, tmp_path, 0, "peer", 61.5)
    kept_speed(toy, tmp_path / "evidence", ["peer"], training=None)
    made = rows(toy, tmp_path / "evidence", 1)
    assert columns(made, measured(toy, tmp_path / "evidence")) == {"latency": {"peer": "2.00"}}
    assert columns(made[:1], measured(toy, tmp_path / "evidence")) == {}
    assert columns(made, None) == {}


def kept_speed(study: Study, evidence: Path, names: list[str], training: float | None) -> Path:
    """The file of a measurement that might have been made."""
    made = {
        name: dict(model=run.task.model, model_args=run.task.model_args, head=[], size=list(run.task.largest))
        for name, run in study.runs.items()
        if name in names
    }
    speeds = {name: row | dict(latency=2.0, training=training) for name, row in made.items()}
    file = evidence / study.name / "speed.json"
    file.write_text(json.dumps(dict(first=names[0], batch=None, environment={}, rows=speeds)))
    return file


def test_a_measurement_of_fewer_rows_replaces_none_of_more(toy, tmp_path, capsys):
    fake(toy, tmp_path, 0, "ours", 50.0)
    file = kept_speed(toy, tmp_path / "evidence", ["ours", "peer"], training=1.0)
    before = file.read_text()
    assert main(["study", "toy", "--speed", "--rows", "ours", "--evidence", str(tmp_path / "evidence")]) == 2
    assert "speed.json has more rows (peer): measure all" in " ".join(capsys.readouterr().err.split())
    assert file.read_text() == before


def test_speeds_of_other_rows_are_refused(toy, tmp_path, capsys):
    fake(toy, tmp_path, 0, "ours", 50.0)
    file = kept_speed(toy, tmp_path / "evidence", ["ours"], training=1.0)
    report = ["study", "report", "--evidence", str(tmp_path / "evidence"), "--page", str(tmp_path / "p.md")]
    stored = json.loads(file.read_text())
    stored["rows"]["ours"]["size"] = [64, 64]
    file.write_text(json.dumps(stored))
    assert main(report) == 2
    assert "ours was measured otherwise; foveal study toy --speed measures again" in capsys.readouterr().err
    file.write_text('{"rows": []}')
    assert main(report) == 2
    assert "cannot read " in capsys.readouterr().err


def test_detectors_are_measured_without_training(tmp_path, monkeypatch):
    """Each at its own size, from the architecture of weights that need not be there."""
    run = BUILT["bccd"].runs["ssdlite-mat_1"]
    task = replace(run.task, image_size=64, max_size=96)
    runs = {
        "ssdlite": replace(run, task=replace(task, model="weights/test_mat")),
        "fcos": replace(run, task=replace(task, model="test_mat", detector="fcos")),
    }
    study = Study(name="two", about="Two.", figures=("AP",), runs=runs)
    monkeypatch.setitem(_speed.ROUNDS, "inference", 2)
    measure(study, ("ssdlite", "fcos"), None, "cpu", tmp_path)
    result = measured(study, tmp_path)
    assert result is not None
    assert (result.batch, result.sizes) == (None, [(64, 64), (64, 96)])
    assert result.rows["ssdlite"] == (1.0, None)
    assert (
        "(the forward pass of one picture of 64x64 and 64x96 px) is a ratio to that of `ssdlite`;" in result.sentence()
    )


def test_what_lies_below_the_root_is_found(tmp_path):
    bccd, fashion = BUILT["bccd"].runs["atss-tf_efficientnet_lite0_in1k"], BUILT["fashion"].runs["mat_1"]
    (tmp_path / "bccd" / "BCCD").mkdir(parents=True)
    with pytest.raises(UserError, match=r"missing .*/weights/tf_efficientnet_lite0; scripts/study_data.py says"):
        placed(bccd, tmp_path)
    for name in ("weights/tf_efficientnet_lite0", "fashion-mnist"):
        (tmp_path / name).mkdir(parents=True)
    found = placed(bccd, tmp_path)
    assert (found.data, found.root) == (str(tmp_path / "bccd" / "BCCD"), None)
    assert found.task.model == str(tmp_path / "weights" / "tf_efficientnet_lite0")
    found = placed(fashion, tmp_path)
    assert (found.data, found.root, found.task.model) == ("fashion-mnist", tmp_path / "fashion-mnist", "mat_1")
    scenes = BUILT["detectors"].runs["fcos-mat_1"]
    assert placed(scenes, None) == scenes


def test_names_in_a_plot_meet_nothing():
    figure = Figure(figsize=(8, 5))
    axes = figure.add_subplot()
    points = {f"{'long_' * i}name": (0.1 * (i % 2) + 3 * (i // 2), i % 3) for i in range(6)}
    for point in points.values():
        axes.plot(*point, "o")
    figure.draw_without_rendering()
    write_names(axes, points)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 6
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)


def test_the_page_is_what_is_kept(tmp_path):
    """docs/evidence.md and its plots are those that ``foveal study report`` makes of evidence/."""
    root = Path(__file__).parents[1]
    page = tmp_path / "evidence.md"
    written = report([build() for build in STUDIES.values()], root / "evidence", page)
    assert page.read_text() == (root / "docs" / "evidence.md").read_text()
    plots = {file.name for file in written[1:]}
    assert plots == {file.name for file in (root / "docs" / "evidence").iterdir()}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["cifar"], "unknown study 'cifar'; nearest: cifar10"),
        (["cifar10", "--rows", "mat_9"], "unknown row of cifar10 'mat_9'; nearest: "),
        (["cifar10"], "cifar10 does not come with the package; --root names the folder that holds it"),
        (["cifar10", "--root", "nowhere"], "missing nowhere/cifar10; scripts/study_data.py says where it comes from"),
        (["fashion"], "fashion-mnist does not come with the package; --root names the folder that holds it"),
        (["cifar10", "--seeds", "0"], "seeds and jobs must be at least 1"),
        (["--speed"], "--speed has no effect without the name of a study"),
        (["report", "--speed"], "--speed has no effect without the name of a study"),
        (["cifar10", "--batch", "8"], "--batch has no effect without --speed"),
        (["cifar10", "--speed", "--minutes", "1"], "--minutes has no effect without training"),
        (["cifar10", "--speed", "--batch", "1"], "batch must be at least 2"),
        (["cifar10", "--speed", "--rows", "mat_9"], "unknown row of cifar10 'mat_9'; nearest: "),
        (["bccd", "--speed", "--batch", "8"], "batch is for training steps, which are measured of classifiers only"),
        (["report", "--evidence", "nowhere"], "no run of a study is kept in nowhere; foveal study NAME makes them"),
    ],
)
def test_what_is_refused(argv, message, capsys):
    assert main(["study", *argv]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
