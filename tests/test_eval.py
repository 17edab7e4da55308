"""Metrics beside hand counts and independent formulations; ``foveal eval`` beside the pieces of timm's validate.py."""

import io
import json
import math
import sys
import tarfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo, RealLabelsImagenet, create_dataset, create_loader, resolve_data_config
from timm.models import save_for_hf
from timm.utils import accuracy
from torch import nn

from conftest import randomize
from foveal import runtime
from foveal.cli._eval_classification import _indices
from foveal.metrics import Accuracy, Calibration, ClassificationReport, RealLabels, draw_confusion
from foveal.tasks import ClassificationArgs
from foveal.tasks._classifier import Preprocessing, load_classifier
from runs import foveal_command

COLOURS = ["amber", "blue", "coral", "denim", "ebony", "fern", "gold"]
SEEN = dict(input_size=(3, 40, 40), crop_pct=0.8, mean=(0.5, 0.4, 0.6), std=(0.2, 0.3, 0.25), interpolation="bilinear")


def evaluated(*args):
    """The JSON object of an evaluation."""
    answer = foveal_command("eval", *args, "--json")
    assert (answer.code, answer.err) == (0, "")
    return json.loads(answer.out)


def draw(path, rng):
    """A picture of odd sides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = rng.integers(30, 90, 2)
    pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((int(width), int(height)), Image.Resampling.BICUBIC).save(path)


def save(folder, num_classes, names=None, model="test_mat", **cfg):
    """A folder of random weights of a tiny model."""
    torch.manual_seed(0)
    weights = randomize(timm.create_model(model, num_classes=num_classes))
    config = dict(pretrained_cfg=SEEN | cfg) | (dict(label_names=names) if names else {})
    save_for_hf(weights, str(folder), model_config=config, safe_serialization=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders of weights and of pictures."""
    root = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    for name in COLOURS:
        for i in range(6):
            draw(root / "data" / name / f"{i}.png", rng)
    save(root / "named", 7, COLOURS)
    save(root / "unnamed", 7)
    for number in range(1, 29):
        draw(root / "flat" / f"ILSVRC2012_val_{number:08d}.JPEG", rng)
    return root


def scores_of(labels, num_classes=7, seed=0):
    """Random probabilities, right more often than not."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(len(labels), num_classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(len(labels)), labels] += 2
    return logits.softmax(dim=1)


# metrics


def test_report_beside_hand_counts():
    scores = torch.tensor(
        [
            [0.50, 0.20, 0.10, 0.08, 0.07, 0.05],  # 0 is 0
            [0.40, 0.30, 0.10, 0.08, 0.07, 0.05],  # 1 taken for 0
            [0.05, 0.90, 0.02, 0.01, 0.01, 0.01],  # 1 is 1
            [0.30, 0.25, 0.20, 0.15, 0.06, 0.04],  # 5 taken for 0, and not among five
        ],
        dtype=torch.float64,
    )
    report = ClassificationReport(6)
    report.update(scores[:3], {"label": torch.tensor([0, 1, 1])})
    report.update(scores[3:], {"label": torch.tensor([5])})
    figures = report.compute()
    assert figures["top1"] == 50
    assert figures["top5"] == 75
    assert figures["mean_class_accuracy"] == pytest.approx(100 * (1 + 0.5 + 0) / 3)
    assert figures["nll"] == pytest.approx(-sum(math.log(p) for p in (0.5, 0.3, 0.9, 0.04)) / 4)
    # bins (7/15, 8/15], (5/15, 6/15], (13/15, 14/15], (4/15, 5/15]
    assert figures["ece"] == pytest.approx(100 * (0.5 + 0.4 + 0.1 + 0.3) / 4)
    assert figures["pictures"] == 4
    confusion = torch.zeros(6, 6, dtype=torch.long)
    confusion[0, 0] = confusion[1, 0] = confusion[1, 1] = confusion[5, 0] = 1
    assert np.array_equal(report.confusion, confusion)
    assert report.class_pictures().tolist() == [1, 2, 0, 0, 0, 1]
    assert report.class_accuracies()[[0, 1, 5]].tolist() == [100, 50, 0]
    assert np.isnan(report.class_accuracies()[2])


def test_few_classes_have_no_top5():
    report = ClassificationReport(5)
    report.update(torch.eye(5), {"label": torch.arange(5)})
    assert "top5" not in report.compute()
    assert report.compute()["top1"] == 100
    for more in (ClassificationReport(6), RealLabels([], 6)):
        assert "top5" in more.compute()
    assert "top5" not in RealLabels([], 5).compute()


def independent_ece(confidence, correct):
    """Guo et al. 2017, eq. 3, picture by picture in plain Python."""
    bins = {}
    for p, right in zip(confidence, correct, strict=True):
        bins.setdefault(next(m for m in range(1, 16) if p <= m / 15), []).append((p, right))
    error = 0.0
    for members in bins.values():
        mean_confidence = sum(p for p, _ in members) / len(members)
        mean_accuracy = sum(right for _, right in members) / len(members)
        error += len(members) / len(confidence) * abs(mean_accuracy - mean_confidence)
    return 100 * error


def test_ece_beside_an_independent_formulation():
    generator = torch.Generator().manual_seed(1)
    confidence = torch.rand(3000, generator=generator, dtype=torch.float64)
    confidence[:15] = torch.arange(1, 16, dtype=torch.float64) / 15  # edges belong to the bin below
    right = 0.5 + 0.4 * (40 * confidence).sin()  # other bins would differ
    correct = torch.rand(3000, generator=generator, dtype=torch.float64) < right
    calibration = Calibration()
    for part in range(0, 3000, 700):
        calibration.add(confidence[part : part + 700], correct[part : part + 700])
    expected = independent_ece(confidence.tolist(), correct.tolist())
    assert expected > 5
    assert calibration.compute()["ece"] == pytest.approx(expected, rel=1e-12)


def test_ece_of_the_calibrated_and_of_the_sure():
    calibration = Calibration()
    calibration.add(torch.full((4,), 0.75), torch.tensor([True, True, True, False]))
    assert calibration.compute()["ece"] == pytest.approx(0, abs=1e-6)
    calibration.reset()
    calibration.add(torch.ones(3), torch.zeros(3, dtype=torch.bool))
    assert calibration.compute()["ece"] == 100


def test_three_metrics_of_one_label_a_picture_agree():
    labels = torch.randint(7, (200,))
    scores = torch.randn(200, 7, dtype=torch.float64).softmax(1)
    report, accuracy = ClassificationReport(7), Accuracy()
    real = RealLabels([[label] for label in labels.tolist()], 7)
    for metric, given in ((report, labels), (accuracy, labels), (real, torch.arange(200))):
        metric.update(scores, {"label": given})
    expected = report.compute()
    assert expected["top1"] == pytest.approx(100 * float((scores.argmax(1) == labels).double().mean()))
    assert expected["top5"] > expected["top1"] + 20
    assert accuracy.compute() == {name: expected[name] for name in ("top1", "top5")}
    assert real.compute() == {name: expected[name] for name in ("top1", "top5", "ece", "pictures")} | {"left_out": 0}


SETS = [[i % 7, (i + 1) % 7] if i % 3 else [] for i in range(50)]
METRICS = [lambda: Accuracy((1, 5)), lambda: ClassificationReport(7), lambda: RealLabels(SETS, 7)]


@pytest.mark.parametrize("make", METRICS)
def test_processes_together_equal_one(make):
    labels = torch.arange(50) % (50 if isinstance(make(), RealLabels) else 7)
    scores = scores_of(labels % 7)
    whole, parts = make(), [make() for _ in range(3)]
    whole.update(scores, {"label": labels})
    for rank, part in enumerate(parts):
        part.update(scores[rank::3], {"label": labels[rank::3]})
    merged = make()
    for part in parts:
        merged.merge(part.state())
    assert merged.compute() == pytest.approx(whole.compute())
    assert parts[0].compute() != pytest.approx(whole.compute())  # merging has not changed what a process has seen
    if isinstance(whole, ClassificationReport):
        assert np.array_equal(merged.confusion, whole.confusion)
    merged.reset()
    assert math.isnan(merged.compute()["top1"])
    merged.update(scores, {"label": labels})
    assert merged.compute() == pytest.approx(whole.compute())


@pytest.mark.parametrize("make", METRICS)
def test_nothing_seen_is_nan(make):
    assert math.isnan(make().compute()["top1"])


def test_real_labels_beside_timm(tmp_path):
    # timm's wants all 50,000 pictures
    rng = np.random.default_rng(0)
    kinds = [[], [3], [0, 5], [6, 2, 4]]
    sets = [kinds[i] for i in rng.integers(0, 4, 50_000)]
    (tmp_path / "real.json").write_text(json.dumps(sets))
    names = [f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(50_000)]
    scores = torch.rand(50_000, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(dim=1)
    theirs, ours = RealLabelsImagenet(names, str(tmp_path / "real.json")), RealLabels(sets, 7)
    theirs.add_result(scores)
    ours.update(scores, {"label": torch.arange(50_000)})
    figures = ours.compute()
    assert figures["top1"] == pytest.approx(theirs.get_accuracy(1), rel=1e-12)
    assert figures["top5"] == pytest.approx(theirs.get_accuracy(5), rel=1e-12)
    assert figures["left_out"] == sets.count([])
    assert figures["pictures"] == 50_000 - sets.count([])


# the command


def timm_validates(folder, data, **flags):
    """Top-1 and top-5 counts and the mean loss, by the pieces of timm that validate.py puts together."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = resolve_data_config(flags, model=model, use_test_size=True)
    dataset = create_dataset(name="", root=str(data), split="validation")
    chosen = {name: config[name] for name in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")}
    loader = create_loader(dataset, batch_size=16, use_prefetcher=False, num_workers=0, **chosen)
    counts, loss = [0.0, 0.0], 0.0
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # timm leaves the files to the garbage collector
        for images, target in loader:
            output = model(images)
            loss += nn.functional.cross_entropy(output, target, reduction="sum").item()
            for i, percent in enumerate(accuracy(output, target, topk=(1, 5))):
                counts[i] += percent.item() * len(target) / 100
    return [round(count) for count in counts], loss / len(dataset)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({}, True),
        ({"crop_pct": 1.0, "crop_mode": "squash"}, True),
        ({"crop_mode": "border", "interpolation": "bicubic"}, False),
        ({"input_size": (3, 64, 48)}, False),
    ],
)
def test_eval_agrees_with_timm_to_the_last_picture(place, flags, named):
    folder = place / ("named" if named else "unnamed")
    (top1, top5), loss = timm_validates(folder, place / "data", **flags)
    args = []
    for name, value in flags.items():
        args += ["--image-size", *value[1:]] if name == "input_size" else [f"--{name.replace('_', '-')}", value]
    answer = evaluated(folder, "--data", place / "data", "--batch-size", 10, *args)
    assert answer["metrics"]["pictures"] == 42
    assert answer["metrics"]["top1"] == pytest.approx(100 * top1 / 42)
    assert answer["metrics"]["top5"] == pytest.approx(100 * top5 / 42)
    assert answer["metrics"]["nll"] == pytest.approx(loss, rel=1e-4)
    assert 0 < top1 < top5 < 42


def test_json_holds_all(place):
    answer = evaluated(place / "named", "--data", place / "data", "--image-size", 48)
    assert [row["class"] for row in answer["classes"]] == COLOURS
    assert [row["pictures"] for row in answer["classes"]] == [6] * 7
    diagonal = {label: count for label, predicted, count in answer["confusion"] if label == predicted}
    assert 100 * sum(diagonal.values()) / 42 == pytest.approx(answer["metrics"]["top1"])
    assert [row["accuracy"] for row in answer["classes"]] == [100 * diagonal.get(i, 0) / 6 for i in range(7)]
    assert answer["preprocessing"] == SEEN | dict(
        input_size=[3, 48, 48], mean=[0.5, 0.4, 0.6], std=[0.2, 0.3, 0.25]
    ) | {"crop_mode": "center"}
    assert answer["settings"]["preprocessing"]["image_size"] == [48]
    assert {"torch", "timm", "foveal", "decoder"} <= set(answer["environment"])


def test_table(place):
    answer = foveal_command("eval", place / "named", "--data", place / "data", "--per-class")
    assert answer.code == 0
    for word in ("top1", "top5", "mean class accuracy", "ece", "nll", "images/s", *COLOURS):
        assert word in answer.out


def test_worst_classes_are_named(place):
    answer = foveal_command("eval", place / "named", "--data", place / "data")
    rows = evaluated(place / "named", "--data", place / "data")["classes"]
    worst = sorted(rows, key=lambda row: row["accuracy"])[:5]
    assert all(row["class"] in answer.out for row in worst)


def test_own_test_time_size_counts(tmp_path):
    save(tmp_path / "m", 7, test_input_size=(3, 56, 56), test_crop_pct=1.0)
    config = load_classifier(str(tmp_path / "m")).config
    assert (config["input_size"], config["crop_pct"]) == ((3, 56, 56), 1.0)


def test_bfloat16_is_close(place):
    exact = evaluated(place / "named", "--data", place / "data")["metrics"]["nll"]
    rounded = evaluated(place / "named", "--data", place / "data", "--precision", "bf16")["metrics"]["nll"]
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.1)


def test_bad_picture(place, tmp_path):
    draw(tmp_path / "data" / "amber" / "0.png", np.random.default_rng(0))
    (tmp_path / "data" / "amber" / "1.png").write_text("text")
    for name in COLOURS[1:]:
        draw(tmp_path / "data" / name / "0.png", np.random.default_rng(1))
    args = ["eval", place / "named", "--data", tmp_path / "data"]
    stopped = foveal_command(*args)
    assert (stopped.code, stopped.out) == (2, "")
    assert "1.png: not a picture" in stopped.err
    skipped = foveal_command(*args, "--on-bad-image", "skip", "--json")
    assert skipped.code == 0
    assert json.loads(skipped.out)["metrics"]["pictures"] == 7
    assert len(json.loads(skipped.out)["skipped"]) == 1


# which class is which


def test_names_are_matched_whatever_their_order(place, tmp_path):
    order = [3, 0, 6, 2, 5, 1, 4]
    (tmp_path / "other").mkdir()
    weights = load_file(place / "named" / "model.safetensors")
    heads = [key for key, value in weights.items() if value.shape[:1] == (7,)]
    assert heads
    for key in heads:
        weights[key] = weights[key][order].contiguous()
    save_file(weights, tmp_path / "other" / "model.safetensors")
    config = json.loads((place / "named" / "config.json").read_text())
    config["label_names"] = [COLOURS[i] for i in order]
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    one = evaluated(place / "named", "--data", place / "data")["metrics"]
    other = evaluated(tmp_path / "other", "--data", place / "data")["metrics"]
    assert other == pytest.approx(one)


def test_folders_of_indices_are_in_numeric_order(tmp_path):
    # as ImageNet-V2's; "10" comes before "2" in the alphabet
    save(tmp_path / "m", 12)
    classifier = load_classifier(str(tmp_path / "m"))
    assert classifier.positions(sorted(map(str, range(12)))) == [int(name) for name in sorted(map(str, range(12)))]
    named = SimpleNamespace(**vars(classifier))
    named.classes = [f"class {i}" for i in range(12)]
    assert type(classifier).positions(named, ["10", "2", *map(str, (0, 1, 3, 4, 5, 6, 7, 8, 9, 11))])[:2] == [10, 2]


def test_folders_of_synsets(tmp_path):
    synsets = [f"n0{i:07d}" for i in (3, 1, 2)]
    save(tmp_path / "none", 3)
    assert load_classifier(str(tmp_path / "none")).positions(synsets) == [2, 0, 1]
    save(tmp_path / "words", 3, ["tench", "goldfish", "shark"])  # as many, in the order of their synsets
    assert load_classifier(str(tmp_path / "words")).positions(synsets) == [2, 0, 1]


def test_without_names_the_data_s_own_order_counts(tmp_path):
    """Of folders that of their numbers, of a data set of the Hub its own."""
    save(tmp_path / "none", 12)
    classifier = load_classifier(str(tmp_path / "none"))
    for classes in ([str(i) for i in range(1, 13)], [f"class {i}" for i in (3, 1, 2, *range(4, 13))]):
        assert classifier.positions(classes) == [*range(12)]


def test_imagenet_names_of_timm():
    assert ImageNetInfo("imagenet-1k").label_names() == sorted(ImageNetInfo("imagenet-1k").label_names())


# numbered pictures with labels of their own


@pytest.fixture(scope="module")
def predicted(place):
    """The class of each numbered picture, as ``foveal predict`` gives it."""
    paths = sorted((place / "flat").iterdir())
    answer = foveal_command("predict", place / "named", *paths, "--top", 1, "--json")
    assert answer.code == 0
    return [json.loads(line)["labels"][0]["class"] for line in answer.out.splitlines()]


@pytest.mark.parametrize("style", ["index", "name", "caffe"])
def test_labels_of_a_flat_folder(place, predicted, tmp_path, style):
    labels = [COLOURS.index(name) for name in predicted]
    labels[:7] = [(label + 1) % 7 for label in labels[:7]]
    text = {
        "index": [str(label) for label in labels],
        "name": [COLOURS[label] for label in labels],
        "caffe": [f"ILSVRC2012_val_{i + 1:08d}.JPEG {label}" for i, label in reversed([*enumerate(labels)])],
    }[style]
    (tmp_path / "labels.txt").write_text("\n".join(text) + "\n")
    answer = evaluated(place / "named", "--data", place / "flat", "--labels", tmp_path / "labels.txt")
    assert answer["metrics"]["top1"] == 75
    assert answer["metrics"]["pictures"] == 28


def test_labels_of_shards_go_by_the_names_of_the_pictures(place, predicted, tmp_path):
    """And not by the shard's, which ends in a number, too."""
    with tarfile.open(tmp_path / "val-1.tar", "w") as shard:
        for file in sorted((place / "flat").iterdir()):
            shard.add(file, file.name)
            entry = tarfile.TarInfo(f"{file.stem}.cls")
            entry.size = 1
            shard.addfile(entry, io.BytesIO(b"0"))
    (tmp_path / "classes.txt").write_text("\n".join(COLOURS) + "\n")
    sets = [[COLOURS.index(name)] for name in predicted]
    (tmp_path / "real.json").write_text(json.dumps(sets))
    answer = evaluated(place / "unnamed", "--data", tmp_path / "val-1.tar", "--labels", tmp_path / "real.json")
    assert (answer["metrics"]["pictures"], answer["metrics"]["top1"]) == (28, 100)


def test_labels_that_are_numbers_are_names_first():
    class Numbered:
        classes, num_classes = ["1", "2", "3"], 3

    assert _indices({"1", "3"}, Path("labels.txt"), Numbered()) == {"1": 0, "3": 2}


def test_real_labels_of_a_folder(place, predicted, tmp_path):
    sets = [[COLOURS.index(name), (COLOURS.index(name) + 3) % 7] for name in predicted]
    sets[:4] = [[]] * 4
    sets[4:10] = [[(labels[0] + 1) % 7] for labels in sets[4:10]]
    (tmp_path / "real.json").write_text(json.dumps(sets))
    answer = evaluated(place / "unnamed", "--data", place / "flat", "--labels", tmp_path / "real.json")
    assert answer["metrics"]["pictures"] == 24
    assert answer["metrics"]["left_out"] == 4
    assert answer["metrics"]["top1"] == 75
    assert "confusion" not in answer


# what can be evaluated


def note(path, **notes):
    """Write JSON into the metadata of an ONNX file."""
    stored = onnx.load(path)
    for key, value in notes.items():
        stored.metadata_props.add(key=key, value=json.dumps(value))
    onnx.save(stored, path)


@pytest.fixture(scope="module")
def onnx_files(place):
    """The model of a folder as ONNX files with and without metadata."""
    save(place / "folder", 7, COLOURS, model="test_resnet")
    model = timm.create_model(f"local-dir:{place / 'folder'}", pretrained=True, exportable=True).eval()
    axes = {0: torch.export.Dim("batch")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (torch.randn(2, 3, 40, 40),), dynamo=True, dynamic_shapes=(axes,), verbose=False
        )
    for name in ("told.onnx", "bare.onnx"):
        program.save(place / name)
    note(place / "told.onnx", classes=COLOURS, preprocessing=SEEN)
    return place


def test_onnx_equals_the_folder(onnx_files):
    expected = evaluated(onnx_files / "folder", "--data", onnx_files / "data")
    answer = evaluated(onnx_files / "told.onnx", "--data", onnx_files / "data", "--batch-size", 9)
    assert answer["metrics"] == pytest.approx(expected["metrics"], rel=1e-3)
    assert answer["metrics"]["top1"] == expected["metrics"]["top1"]
    assert [row["class"] for row in answer["classes"]] == COLOURS
    flags = ["--crop-pct", 0.8, "--interpolation", "bilinear", "--mean", 0.5, 0.4, 0.6, "--std", 0.2, 0.3, 0.25]
    bare = evaluated(onnx_files / "bare.onnx", "--data", onnx_files / "data", *flags)
    assert bare["metrics"] == pytest.approx(answer["metrics"], rel=1e-5)


def test_onnx_with_a_fixed_batch(tmp_path):
    # the mean of each channel, four pictures at once
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["images"], ["means"]),
        onnx.helper.make_node("Flatten", ["means"], ["logits"]),
    ]
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("images", [4, 3, 8, 6]), ("logits", [4, 3]))
    ]
    graph = onnx.helper.make_graph(nodes, "means", values[:1], values[1:])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "m.onnx")
    note(tmp_path / "m.onnx", preprocessing={**SEEN, "input_size": [3, 8, 6]})
    classifier = runtime.load(str(tmp_path / "m.onnx"))
    assert classifier.config["input_size"] == (3, 8, 6)
    images = torch.randn(9, 3, 8, 6)
    expected = images.double().mean(dim=(2, 3)).softmax(dim=1)
    assert np.allclose(classifier.scores(images.numpy()), expected, atol=1e-6)


def test_predict_takes_onnx(onnx_files):
    picture = onnx_files / "data" / "amber" / "0.png"
    lines = [
        json.loads(foveal_command("predict", onnx_files / model, picture, "--json").out)
        for model in ("folder", "told.onnx")
    ]
    assert [label["class"] for label in lines[0]["labels"]] == [label["class"] for label in lines[1]["labels"]]
    assert lines[0]["labels"][0]["score"] == pytest.approx(lines[1]["labels"][0]["score"], rel=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "test_mat"])
def test_pictures_are_cut_as_in_the_validation_of_the_run(name, tmp_path):
    """resnet18 has another crop for tests than for training, which is not what the run looked at."""
    data = SimpleNamespace(classes=["a", "b"])
    task = ClassificationArgs(model=name, image_size=32, crop_pct=0.5).build(data)
    save_file(task.model.state_dict(), tmp_path / "model.safetensors")
    task.write_config(tmp_path / "config.json")
    ours, theirs = task.transform(train=False), load_classifier(str(tmp_path)).transform()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8))
    assert torch.equal(ours({"image": picture}, dict)["image"], theirs(picture))
    assert "crop_mode" in task.data_config()


def test_scores_keep_the_order_of_logits(place):
    classifier = load_classifier(str(place / "named"))
    logits = torch.tensor([[30.0, 30.000002, 0, 0, 0, 0, 0]])
    classifier.logits = lambda images: logits
    scores = classifier.scores(torch.zeros(1, 3, 40, 40))
    assert scores[0, 1] > scores[0, 0]
    assert float(scores.sum()) == pytest.approx(1)


def test_fixed_size_model_is_made_at_the_size(tmp_path):
    model = timm.create_model("test_vit", num_classes=3)
    save_for_hf(model, str(tmp_path / "vit"), safe_serialization=True)
    classifier = load_classifier(str(tmp_path / "vit"), Preprocessing(image_size=(96, 64)))
    assert classifier.scores(torch.zeros(1, 3, 96, 64)).shape == (1, 3)


@pytest.mark.parametrize("count", [3, 60])
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_confusion_picture(tmp_path, count, suffix):
    counts = torch.arange(count * count).reshape(count, count) % 5
    names = [f"class ${i}_x^" for i in range(count)]  # no formula
    draw_confusion(counts, names, "title", tmp_path / f"c{suffix}")
    if suffix == ".png":
        with Image.open(tmp_path / "c.png") as image:
            assert min(image.size) > 500
    else:
        assert (tmp_path / "c.svg").read_text().count("<svg") == 1


# bad input


@pytest.fixture
def here(place, tmp_path, monkeypatch, onnx_files):
    """The current folder, with all that the bad inputs name."""
    for name in ("named", "unnamed", "data", "flat", "told.onnx", "bare.onnx"):
        (tmp_path / name).symlink_to(place / name)
    (tmp_path / "empty").mkdir()
    rng = np.random.default_rng(0)
    for name in ("amber", "blue", "cyan"):
        draw(tmp_path / "three" / name / "0.png", rng)
    for name in (*COLOURS[:6], "green"):
        draw(tmp_path / "green" / name / "0.png", rng)
    config = (place / "named" / "config.json").read_text()
    weights = (place / "named" / "model.safetensors").read_bytes()
    for name, text, data in [
        ("cut", config, weights[: len(weights) // 2]),
        ("garbled", "{", weights),
        ("nameless", json.dumps({"label_names": []}), weights),
        ("another", config.replace('"test_mat"', '"test_emsnet"'), weights),
        ("miscounted", config.replace('"amber",', ""), weights),
    ]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
        (tmp_path / name / "model.safetensors").write_bytes(data)
    (tmp_path / "x.pt2").write_bytes(b"")
    (tmp_path / "x.onnx").write_bytes(b"text")
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "short.txt").write_text("0\n" * 27)
    (tmp_path / "devkit.txt").write_text("7\n" * 28)
    (tmp_path / "odd.txt").write_text("amber\nmauve\n" * 14)
    (tmp_path / "twice.txt").write_text("".join(f"{name}/{i}.png {name}\n" for name in COLOURS for i in range(6)))
    (tmp_path / "void.txt").write_text("")
    (tmp_path / "short.json").write_text(json.dumps([[0]] * 27))
    (tmp_path / "flat.json").write_text(json.dumps([0] * 28))
    (tmp_path / "high.json").write_text(json.dumps([[7]] * 28))
    (tmp_path / "broken.json").write_text("[")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("empty --data data", "empty is no run: expected best/config.json"),
        ("nowhere --data data", "nowhere is no run, no folder and no model of timm; nearest: "),
        ("resnet81 --data data", "nearest: resnet18"),
        ("resnet18.a9_in1k --data data", "unknown weights of resnet18 'a9_in1k'; nearest: a"),
        ("test_mat --data data", "timm has no weights for test_mat"),
        ("file.txt --data data", "file.txt is a file; expected the folder of a run"),
        ("local-dir:nowhere --data data", "cannot load nowhere"),
        ("cut --data data", "cannot load cut, written by another version or damaged"),
        ("garbled --data data", "cannot load garbled"),
        ("nameless --data data", "cannot load nameless"),
        ("another --data data", "Missing key(s) in state_dict"),
        ("another --data data", "Unexpected key(s) in state_dict"),
        ("miscounted --data data", "miscounted"),
        ("x.pt2 --data data", "refused x.pt2: torch.export.load runs code"),
        ("x.onnx --data data", "cannot load x.onnx"),
        ("y.onnx --data data", "no such file: y.onnx"),
        ("bare.onnx --data data", "give --crop-pct --interpolation --mean --std"),
        ("told.onnx --data data --precision bf16", "--device and --precision have no effect"),
        ("told.onnx --data data --image-size 64", "told.onnx does not run at this setting"),
        ("named --data nowhere", "nowhere"),
        ("named --data no/where", "no such folder: no/where"),
        ("named --data data --root empty", "--root has no effect"),
        ("named --data three", "named has 7 classes, the data 3: amber, blue, cyan"),
        ("named --data green", "only named has gold; only the data green"),
        ("named --data data --labels twice.txt", "pictures of data are called 0.png; twice.txt goes by names without"),
        ("named --data flat", "flat has no class folders; --labels names a file"),
        ("named --data flat --labels none.txt", "no such file: none.txt"),
        ("named --data flat --labels short.txt", "short.txt has no label for flat/ILSVRC2012_val_00000028.JPEG"),
        ("named --data flat --labels devkit.txt", "devkit.txt has label 7, expected 0 to 6; the ids 1 to 1000"),
        ("named --data flat --labels odd.txt", "named has 7 classes, the data 2: amber, mauve"),
        ("named --data flat --labels void.txt", "void.txt must hold a line for each picture"),
        ("named --data flat --labels short.json", "short.json has no label for flat/ILSVRC2012_val_00000028.JPEG"),
        ("named --data flat --labels flat.json", "flat.json must hold a list of lists of class indices from 0 to 6"),
        ("named --data flat --labels high.json", "high.json must hold a list of lists of class indices from 0 to 6"),
        ("named --data flat --labels broken.json", "cannot read broken.json"),
        ("named --data flat --labels good.json --per-class", "--confusion and --per-class have no effect"),
        ("named --data data --confusion no/where.png", "cannot write no/where.png: no such folder"),
        ("named --data data --confusion where.docx", "cannot write where.docx"),
        ("named --data data --image-size 0", "image-size takes one or two numbers above 0"),
        ("named --data data --image-size 16", "named does not run at this setting: expected images of at least 32x32"),
        ("named --data data --crop-pct 1.5", "crop-pct must be in (0, 1], got 1.5"),
        ("named --data data --std 0 1 1", "std must be above 0"),
        ("named --data data --batch-size 0", "batch-size must be at least 1, got 0"),
        ("named --data data --workers -1", "workers must be at least 0, got -1"),
        ("named --data data --device abacus", "cannot use device 'abacus'"),
    ],
)
def test_bad_input_is_answered_in_one_line(here, args, said):
    (here / "good.json").write_text(json.dumps([[0]] * 28))
    answer = foveal_command("eval", *args.split())
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1, answer.err
    assert answer.err.startswith("foveal: ")
    assert said in answer.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("x.pt2 data/amber/0.png", "refused x.pt2"),
        ("nowhere data/amber/0.png", "nowhere is no run"),
        ("bare.onnx data/amber/0.png", "give --crop-pct --interpolation --mean --std"),
        ("named data/amber/0.png --crop-pct 0", "crop-pct must be in (0, 1], got 0.0"),
        ("named data/amber/9.png", "cannot read picture data/amber/9.png: no such file"),
    ],
)
def test_bad_input_of_predict(here, args, said):
    answer = foveal_command("predict", *args.split())
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1
    assert said in answer.err


def test_scores_that_are_not_finite(place, tmp_path):
    (tmp_path / "m").mkdir()
    weights = load_file(place / "named" / "model.safetensors")
    broken = {key: value * torch.nan if value.is_floating_point() else value for key, value in weights.items()}
    save_file(broken, tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "config.json").write_text((place / "named" / "config.json").read_text())
    answer = foveal_command("eval", tmp_path / "m", "--data", place / "data")
    assert answer.code == 2
    assert "gives scores that are not finite" in answer.err


@pytest.mark.parametrize(("module", "said"), [("matplotlib", "foveal[plot]"), ("onnxruntime", "foveal[runtime]")])
def test_a_missing_extra_is_named(onnx_files, monkeypatch, tmp_path, module, said):
    for name in (module, "matplotlib.colors", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    model = onnx_files / ("told.onnx" if module == "onnxruntime" else "named")
    answer = foveal_command("eval", model, "--data", onnx_files / "data", "--confusion", tmp_path / "c.png")
    assert answer.code == 2
    assert said in answer.err
    assert not Path(tmp_path / "c.png").exists()
