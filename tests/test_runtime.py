"""Exported files in ONNX Runtime, with numpy and Pillow alone, beside the same models in PyTorch."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torchvision.models.detection.roi_heads import paste_masks_in_image

import foveal
from conftest import randomize
from foveal import runtime
from foveal._errors import UserError
from foveal.cli import main
from foveal.data import BadImage, BoxTransform, JointTransform, load_split, stack_bodies
from foveal.export import KEY, LAYOUTS, check_free
from foveal.export._source import load_source
from foveal.keypoints import STRIDE, Estimator
from foveal.runtime._pictures import classified, enlarged, whole
from foveal.runtime.detection import pasted
from foveal.runtime.keypoints import decoded, smoothed
from foveal.runtime.segmentation import likeliest
from foveal.tasks import SegmentationArgs
from foveal.tasks.keypoints import predict
from test_predict_detection import save_run as save_detector
from test_predict_keypoints import save
from test_predict_keypoints import save_run as save_keypoints

MEAN, STD = (0.5, 0.4, 0.6), (0.2, 0.3, 0.25)
TASKS = ("classification", "detection", "segmentation", "keypoints")


@pytest.fixture(scope="module")
def pictures():
    """Real ones, at odd sizes."""
    scenes: Any = load_split("scenes:80x200", kind="detection")
    sizes = [(250, 200), (201, 133), (90, 301), (64, 64), (30, 41)]
    return [scenes.picture(i).resize(size) for i, size in enumerate(sizes)]


# From pictures to images


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (224, 224)])
def test_a_classifier_sees_what_timm_shows(pictures, mode, size):
    for kind in ("bilinear", "bicubic", "lanczos", "nearest"):
        for crop_pct in (0.875, 1.0):
            seen: dict[str, Any] = dict(crop_pct=crop_pct, crop_mode=mode, interpolation=kind, mean=MEAN, std=STD)
            theirs: Any = create_transform((3, *size), **seen)
            for picture in pictures:
                ours = classified(picture, seen | {"input_size": (3, *size)})
                assert ours.dtype == np.float32
                assert np.abs(ours - theirs(picture).numpy()).max() < 1e-5


@pytest.mark.parametrize("square", [False, True])
def test_a_detector_and_a_segmenter_see_what_they_are_trained_on(pictures, square):
    """torchvision's bilinear filter of bytes is Pillow's up to one level of 255, for it rounds its weights."""
    config = dict(image_size=96, max_size=150, square=square, pad=1)
    size: dict[str, Any] = dict(size=96, max_size=150, square=square)
    theirs = BoxTransform(**size, mean=MEAN, std=STD, augment=None, masks=False)
    for picture in pictures:
        ours, (h, w) = whole(picture, config, None, MEAN, STD)
        expected = theirs({"image": picture, "name": "", "target": {}}, dict)
        assert expected["size"].tolist() == [h, w]
        levels = np.abs(ours - expected["image"].numpy()) * 255 * np.array(STD)[:, None, None]
        assert levels.max() < 1.01
        assert (levels > 0.01).mean() < 0.2


def test_a_fixed_size_shows_the_whole_picture(pictures):
    config = dict(image_size=96, max_size=150, square=False, pad=1)
    for picture in pictures:
        image, (h, w) = whole(picture, config, (64, 96), MEAN, STD)
        assert image.shape == (3, 64, 96)
        assert h == 64 or w == 96
        assert h / w == pytest.approx(picture.height / picture.width, rel=0.05)
        assert not image[:, h:].any()
        assert not image[:, :, w:].any()


def test_a_fixed_size_is_that_of_squeezed_pictures(pictures):
    config = dict(image_size=96, max_size=96, square=True, pad=1)
    for picture in pictures:
        image, part = whole(picture, config, (64, 80), MEAN, STD)
        assert image.shape == (3, 64, 80)
        assert part == (64, 80)


def test_a_keypoint_estimator_of_another_size_than_it_was_trained_at(pictures, tmp_path, capsys):
    save_keypoints(tmp_path / "run")
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "run"), "--fixed", "--size", "96", "64", "--out", str(out)]) == 0
    (file,) = out.glob("*.onnx")
    model = runtime.load(str(file), "keypoints")
    assert model.size == (96, 64)
    (found,) = model.estimate(pictures[0], [[0, 0, 60, 90]])
    assert np.isfinite(found["keypoints"]).all()


def test_a_keypoint_estimator_sees_what_it_is_trained_on(pictures, files):
    model = runtime.load(str(files / "keypoints.onnx"))
    theirs = JointTransform(size=model.size, mean=model.mean, std=model.std, joints=model.joints, augment=None)
    for picture, box in zip(pictures, ([10, 20, 60, 150], [-5, 0.5, 180, 120], [3, 3, 8, 8], [0, 0, 64, 64])):
        sample = {"image": picture, "name": "", "target": {"box": np.array(box, np.float32)}}
        ours, expected = model.transform()(sample, dict), theirs(sample, dict)
        assert np.abs(ours["image"] - expected["image"].numpy()).max() < 1e-5
        assert np.abs(ours["matrix"] - expected["matrix"].numpy()).max() < 1e-5


# From outputs to predictions


@given(
    old=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    new=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_logits_in_between(old, new, seed):
    logits = np.random.default_rng(seed).normal(size=(4, *old)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(logits)[None], new, mode="bilinear")[0]
    ours = np.stack([enlarged(values, new) for values in logits])
    assert np.abs(ours - expected.numpy()).max() < 1e-4
    first, second = expected.topk(2, dim=0).values
    clear = (first - second).numpy() > 1e-3
    assert (likeliest(logits, new) == expected.argmax(0).numpy())[clear].all()


@pytest.mark.parametrize("method", ["quarter", "dark"])
@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_keypoints_of_heatmaps(method, sigma):
    """Of noise, of peaks anywhere, of nothing; beside the estimators' own."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:24, :18]
    middles = rng.uniform(-1, 25, (40, 5, 2))
    squares = (columns - middles[..., 0, None, None]) ** 2 + (rows - middles[..., 1, None, None]) ** 2
    peaks = np.exp(-squares / (2 * sigma**2)) + 0.01 * rng.normal(size=squares.shape)
    heatmaps = np.concatenate([peaks, rng.normal(size=(20, 5, 24, 18)), np.zeros((1, 5, 24, 18))]).astype(np.float32)

    class Only(Estimator):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.sigma, self.decoding = sigma, method

        def forward(self, images):
            raise NotImplementedError

    positions, scores = decoded(heatmaps, method, sigma, STRIDE)
    theirs, theirs_scores = Only().keypoints(torch.from_numpy(heatmaps))
    assert np.abs(scores - theirs_scores.numpy()).max() < 1e-6
    off = np.abs(positions - theirs.numpy()).max(2)
    assert off[:40].max() < 1e-3
    assert np.quantile(off, 0.99) < 1e-2  # where curvature all but vanishes rounding decides
    assert smoothed(heatmaps, sigma).dtype == np.float32


@given(
    box=st.tuples(st.floats(0, 79), st.floats(0, 59), st.floats(0, 60), st.floats(0, 60)),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_masks_in_their_pictures(box, seed):
    x, y, w, h = box
    corners = np.array([x, y, x + w, y + h], np.float32)
    mask = np.random.default_rng(seed).random((28, 28)).astype(np.float32)
    theirs = paste_masks_in_image(torch.from_numpy(mask)[None, None], torch.from_numpy(corners)[None], (60, 80))[0, 0]
    clear = (theirs - 0.5).abs().numpy() > 1e-3
    assert (pasted(mask, corners, (60, 80)) == (theirs > 0.5).numpy())[clear].all()


# Files


def about(task: str, classes: list[str], **more: Any) -> dict[str, Any]:
    """Metadata as ``foveal export`` writes them."""
    seen: dict[str, Any] = dict(mean=MEAN, std=STD, image_size=64, max_size=96, square=False, pad=1)
    return dict(version=1, task=task, classes=classes, preprocessing=seen, decoding={}) | more


def write(path: Path, nodes: list, outputs: dict[str, Any], said: Any, constants: dict[str, np.ndarray]) -> None:
    """An ONNX file with images of any size."""
    made, kinds = onnx.helper, {np.dtype(np.int64): onnx.TensorProto.INT64}
    images = made.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 3, "height", "width"])
    values = [
        made.make_tensor_value_info(name, kinds.get(np.dtype(kind), onnx.TensorProto.FLOAT), shape)
        for name, (kind, shape) in outputs.items()
    ]
    held = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = made.make_graph(nodes, "graph", [images], values, held)
    model = made.make_model(graph, opset_imports=[made.make_opsetid("", 17)], ir_version=10)
    made.set_model_props(model, {} if said is None else {KEY: said if isinstance(said, str) else json.dumps(said)})
    onnx.save(model, path)


WEIGHT = np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32)
BOXES = np.array([[4, 8, 40, 32], [10, 10, 60, 60], [0, 0, 300, 20]], np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each task: convolutions of pixels, means of pixels, boxes that are always the same."""
    place = tmp_path_factory.mktemp("files")
    node = onnx.helper.make_node
    conv = node("Conv", ["images", "weight"], ["logits"])
    full = {"logits": (np.float32, ["batch", 4, "height", "width"])}
    segmenter = about("segmentation", ["a", "b", "c", "d"], decoding={"full_size": True})
    write(place / "segmentation.onnx", [conv], full, segmenter, {"weight": WEIGHT})
    write(place / "raw.onnx", [conv], full, segmenter | dict(decoding={"full_size": False}), {"weight": WEIGHT})
    pool = node("AveragePool", ["images"], ["small"], kernel_shape=[4, 4], strides=[4, 4])
    maps = [pool, node("Conv", ["small", "weight"], ["heatmaps"])]
    bodies = about(
        "keypoints",
        ["nose", "left_eye", "right_eye", "tail"],
        preprocessing=dict(mean=MEAN, std=STD, input_size=[3, 64, 48], padding=1.25),
        decoding=dict(method="dark", sigma=2.0, stride=4, sigmas=[0.1] * 4, skeleton=[[0, 1], [0, 2]])
        | dict(mirror=[0, 2, 1, 3], flip_test=True, categories=["cat"]),
    )
    heatmaps = {"heatmaps": (np.float32, ["batch", 4, "h", "w"])}
    write(place / "keypoints.onnx", maps, heatmaps, bodies, {"weight": WEIGHT})
    constants = {"boxes": BOXES, "scores": np.array([0.9, 0.6, 0.3], np.float32), "labels": np.array([1, 0, 1])}
    constants |= {"pictures": np.zeros(3, np.int64), "masks": np.ones((3, 28, 28), np.float32)}
    nodes = [node("Identity", [f"{name}_"], [name]) for name in constants]
    outputs = {name: (value.dtype, list(value.shape)) for name, value in constants.items()}
    held = {f"{name}_": value for name, value in constants.items()}
    detector = about("detection", ["cat", "dog"], decoding={"decoded": True, "threshold": 0.05})
    write(place / "detection.onnx", nodes, outputs, detector, held)
    mean = [node("GlobalAveragePool", ["images"], ["means"]), node("Flatten", ["means"], ["logits"])]
    three = {"logits": (np.float32, ["batch", 3])}
    seen = dict(input_size=[3, 32, 32], crop_pct=0.9, crop_mode="center", interpolation="bicubic", mean=MEAN, std=STD)
    colours = about("classification", ["r", "g", "b"], titles={"r": "red"}, preprocessing=seen)
    write(place / "classification.onnx", mean, three, colours, {})
    write(place / "bare.onnx", mean, three, None, {})
    for name, said in [
        ("text", "text"),
        ("list", "[1]"),
        ("deep", "[" * 100_000),
        ("newer", colours | dict(version=2)),
        ("poet", colours | dict(task="poetry")),
        ("sightless", about("segmentation", ["a"], preprocessing={}, decoding={"full_size": True})),
        ("odd", colours | dict(preprocessing=seen | dict(interpolation="magic"))),
        ("two", colours | dict(classes=["r", "g"])),
        ("outputless", detector | dict(classes=["r", "g", "b"])),
    ]:
        write(place / f"{name}.onnx", mean, three, said, {})
    (place / "broken.onnx").write_bytes((place / "segmentation.onnx").read_bytes()[:100])
    (place / "data").mkdir()
    for name, colour in (("r", (200, 30, 30)), ("g", (20, 190, 30)), ("b", (10, 40, 220))):
        (place / "data" / name).mkdir()
        Image.new("RGB", (50, 40), colour).save(place / "data" / name / "0.png")
    Image.new("RGB", (80, 60), (90, 120, 200)).save(place / "a.png")
    (place / "b.png").write_text("text")
    return place


def lines(capsys, *args) -> list[Any]:
    capsys.readouterr()
    assert main([str(arg) for arg in args]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_segment(files, pictures):
    model = runtime.load(str(files / "segmentation.onnx"), "segmentation")
    found = model.segment(pictures)
    for picture, classes in zip(pictures, found):
        assert classes.shape == (picture.height, picture.width)
        image, _ = whole(picture, model.config, None, MEAN, STD)
        logits = F.conv2d(torch.from_numpy(image)[None], torch.from_numpy(WEIGHT))
        logits = F.interpolate(logits, classes.shape, mode="bilinear")[0]
        assert (classes == logits.argmax(0).numpy()).mean() > 0.999
    assert model.segment([]) == []


def test_masks_are_read_as_in_training(tmp_path):
    """By what the file says: 0 does not count and the first class is 1, or as without it."""
    save_segmenter(tmp_path / "run", ignore_index=7, reduce_zero_label=True)
    seen = load_source(str(tmp_path / "run")).preprocessing
    assert (seen["ignore_index"], seen["reduce_zero_label"]) == (7, True)
    conv = onnx.helper.make_node("Conv", ["images", "weight"], ["logits"])
    full = {"logits": (np.float32, ["batch", 3, "height", "width"])}
    said = about("segmentation", ["a", "b", "c"], preprocessing=seen, decoding={"full_size": True})
    write(tmp_path / "file.onnx", [conv], full, said, {"weight": WEIGHT[:3]})
    mask = np.repeat(np.array([[0, 1, 2, 3, 7]], np.uint8), 8, axis=0).repeat(8, axis=1)
    model = runtime.load(str(tmp_path / "file.onnx"))
    sample = {"image": Image.new("RGB", (40, 8)), "mask": mask, "name": "a.png"}
    assert model.transform()(dict(sample))["mask"][0, ::8].tolist() == [255, 0, 1, 2, 255]
    with pytest.raises(BadImage, match="its mask has the value 4, and classes are 1 to 3"):
        model.transform()(sample | {"mask": np.where(mask == 3, 4, mask)})
    with pytest.raises(BadImage, match="its mask is 39x8, the picture 40x8"):
        model.transform()(sample | {"mask": mask[:, :39]})


def test_detect(files, pictures):
    model = runtime.load(str(files / "detection.onnx"))
    found = model.detect(pictures, threshold=0.5)
    for picture, one in zip(pictures, found):
        _, (h, w) = whole(picture, model.config, None, MEAN, STD)
        scale = np.array([picture.width / w, picture.height / h] * 2)
        np.testing.assert_allclose(one["boxes"], np.minimum(BOXES[:2], [w, h, w, h]) * scale, rtol=1e-5)
        assert one["labels"].tolist() == [1, 0]
        assert one["masks"].shape == (2, picture.height, picture.width)
        x1, y1, x2, y2 = one["boxes"][0].round().astype(int)
        assert one["masks"][0][y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].all()
    (everything,) = model.detect(pictures[:1])
    assert everything["boxes"][2, 2] == pictures[0].width
    (nothing,) = model.detect(pictures[:1], threshold=1.0)
    assert nothing["masks"].shape == (0, pictures[0].height, pictures[0].width)
    with pytest.raises(UserError, match="threshold must be in"):
        model.detect(pictures, threshold=2)


def test_estimate(files, pictures):
    """As the task does it, mirrored look included."""
    model = runtime.load(str(files / "keypoints.onnx"))
    boxes = [[10, 20, 60, 150], [30, 5, 200, 180]]
    found = model.estimate(pictures[0], boxes)

    class Pooled(Estimator):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.sigma, self.decoding = 2.0, "dark"

        def forward(self, images):
            return {"heatmaps": F.conv2d(F.avg_pool2d(images, 4), torch.from_numpy(WEIGHT))}

    theirs = JointTransform(size=(64, 48), mean=MEAN, std=STD, joints=model.joints, augment=None)
    samples = [{"image": pictures[0], "name": "", "target": {"box": np.array(b, np.float32)}} for b in boxes]
    batch = stack_bodies([theirs(sample, dict) for sample in samples])
    expected = predict(Pooled(), batch, model.joints, flip_test=True)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one["scores"], other["scores"].numpy(), atol=1e-5)
        np.testing.assert_allclose(one["keypoints"], other["keypoints"].numpy(), atol=0.02)
    with pytest.raises(UserError, match="a box must have width and height"):
        model.estimate(pictures[0], [[5, 5, 5, 9]])


def test_predict_and_eval_of_every_task(files, tmp_path, capsys):
    picture = files / "a.png"
    (answer,) = lines(capsys, "predict", files / "classification.onnx", picture, "--json")
    assert {row["class"] for row in answer["labels"]} == {"red", "g", "b"}
    (answer,) = lines(capsys, "predict", files / "detection.onnx", picture, "--json", "--out", tmp_path / "d")
    assert answer["labels"] == ["dog", "cat"]
    assert len(answer["masks"]) == 2
    (answer,) = lines(capsys, "predict", files / "segmentation.onnx", picture, "--json", "--out", tmp_path / "s")
    assert sum(answer["shares"].values()) == pytest.approx(1, abs=1e-5)
    boxes = ["--boxes", files / "detection.onnx", "--out", tmp_path / "k"]
    (answer,) = lines(capsys, "predict", files / "keypoints.onnx", picture, "--json", *boxes)
    assert answer["labels"] == ["cat"]
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")}
    assert made == {"d/a.png", "k/a.png", "s/masks/a.png", "s/overlays/a.png"}
    for workers in (0, 2):
        args = ["--data", files / "data", "--json", "--workers", workers]
        (answer,) = lines(capsys, "eval", files / "classification.onnx", *args)
        assert answer["metrics"]["top1"] == 100
        assert answer["metrics"]["pictures"] == 3
        assert answer["environment"]["onnxruntime"]
        assert "torch" not in answer["environment"]


# without PyTorch


FORBIDDEN = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm", "safetensors", "yaml"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
sys.meta_path.insert(0, Forbid())
from foveal.cli import main
for line in sys.stdin.read().splitlines():
    print(main(line.split("\\t")), flush=True)
"""


def test_files_need_no_torch(files, tmp_path):
    picture, out = files / "a.png", tmp_path / "out"
    (tmp_path / "masks" / "images").mkdir(parents=True)
    commands = [["predict", files / f"{task}.onnx", picture, "--json"] for task in TASKS]
    commands += [["predict", files / f"{task}.onnx", picture, "--out", out / task] for task in TASKS[1:]]
    commands += [["eval", files / "classification.onnx", "--data", files / "data"]]
    commands += [["eval", files / "detection.onnx", "--data", "scenes:40x64"]]  # its classes differ
    commands += [["predict", files, picture], ["train"], ["predict", files / "broken.onnx", picture]]
    asked = "\n".join("\t".join(map(str, command)) for command in commands)
    result = subprocess.run([sys.executable, "-c", FORBIDDEN], input=asked, capture_output=True, text=True)
    codes = [line for line in result.stdout.splitlines() if line in ("0", "2")]
    assert codes == ["0"] * 8 + ["2"] * 4, result.stdout + result.stderr
    said = result.stderr.splitlines()
    assert "the classes differ" in said[0]
    assert said[1].startswith("foveal: without ")
    assert said[1].endswith("there are predict, eval and demo of .onnx files alone: pip install foveal")
    assert "cannot load" in said[3]
    assert len(said) == 4


# bad input


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("predict broken.onnx a.png", "cannot load broken.onnx"),
        ("predict none.onnx a.png", "no such file: none.onnx"),
        ("predict text.onnx a.png", "text.onnx has malformed metadata"),
        ("predict list.onnx a.png", "list.onnx has malformed metadata"),
        ("predict deep.onnx a.png", "deep.onnx has malformed metadata"),
        ("predict newer.onnx a.png", "newer.onnx has metadata of version 2, expected 1"),
        ("predict poet.onnx a.png", "poet.onnx has malformed metadata: unknown task 'poetry'"),
        ("predict sightless.onnx a.png", "sightless.onnx has malformed metadata: 'mean' is missing"),
        (
            "predict odd.onnx a.png",
            "odd.onnx has malformed metadata: interpolation is 'magic'",
        ),
        ("predict two.onnx a.png", "two.onnx names 2 classes but gives 3 scores"),
        ("predict outputless.onnx a.png", "outputless.onnx has no output boxes, scores, labels, pictures"),
        ("predict raw.onnx a.png", "raw.onnx gives logits at a quarter of the size: export it without --raw"),
        ("predict bare.onnx a.png", "bare.onnx does not say how it was trained to see; give --image-size --crop-pct"),
        ("predict segmentation.onnx b.png", "cannot read picture b.png: not a picture in BMP"),
        ("predict segmentation.onnx c.png", "cannot read picture c.png: no such file"),
        ("predict segmentation.onnx a.png --hflip", "segmentation.onnx looks at a picture once"),
        ("predict segmentation.onnx a.png --crop-pct 0.5", "--crop-pct: no effect on a segmenter"),
        ("predict segmentation.onnx a.png --device cuda", "--device and --precision have no effect"),
        (
            "predict keypoints.onnx a.png --boxes segmentation.onnx",
            "expected a model for detection",
        ),
        ("eval segmentation.onnx --data data --labels x.txt", "--labels: no effect on a segmenter"),
        ("eval detection.onnx --data scenes:40x64", "the classes differ; only detection.onnx has cat, dog"),
    ],
)
def test_bad_input_is_answered_in_one_line(files, monkeypatch, capsys, args, said):
    monkeypatch.chdir(files)
    capsys.readouterr()
    assert main(args.split()) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("foveal: ")
    assert said in err


def test_runs_and_files_have_loaders_of_their_own(files):
    with pytest.raises(UserError, match="is an exported file"):
        foveal.load_classifier(str(files / "classification.onnx"))
    with pytest.raises(UserError, match="expected a model for segmentation"):
        runtime.load(str(files / "bare.onnx"), "segmentation")
    assert runtime.KEY == KEY


# servers


TRITON = """
name: "model_config.proto" package: "inference" syntax: "proto3"
enum_type { name: "DataType"
  value { name: "TYPE_INVALID" number: 0 } value { name: "TYPE_INT64" number: 9 } value { name: "TYPE_FP32" number: 11 }
}
message_type { name: "ModelInput"
  field { name: "name" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "data_type" number: 2 label: LABEL_OPTIONAL type: TYPE_ENUM type_name: ".inference.DataType" }
  field { name: "dims" number: 4 label: LABEL_REPEATED type: TYPE_INT64 }
}
message_type { name: "ModelOutput"
  field { name: "name" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "data_type" number: 2 label: LABEL_OPTIONAL type: TYPE_ENUM type_name: ".inference.DataType" }
  field { name: "dims" number: 3 label: LABEL_REPEATED type: TYPE_INT64 }
  field { name: "label_filename" number: 4 label: LABEL_OPTIONAL type: TYPE_STRING }
}
message_type { name: "ModelDynamicBatching" }
message_type { name: "ModelParameter" field { name: "string_value" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING } }
message_type { name: "ModelConfig"
  field { name: "name" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "max_batch_size" number: 4 label: LABEL_OPTIONAL type: TYPE_INT32 }
  field { name: "input" number: 5 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".inference.ModelInput" }
  field { name: "output" number: 6 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".inference.ModelOutput" }
  field { name: "dynamic_batching" number: 11 label: LABEL_OPTIONAL type: TYPE_MESSAGE
    type_name: ".inference.ModelDynamicBatching" }
  field { name: "parameters" number: 14 label: LABEL_REPEATED type: TYPE_MESSAGE
    type_name: ".inference.ModelConfig.ParametersEntry" }
  field { name: "backend" number: 17 label: LABEL_OPTIONAL type: TYPE_STRING }
  nested_type { name: "ParametersEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".inference.ModelParameter" }
  }
}
"""


@pytest.fixture(scope="module")
def model_config() -> Any:
    """The part of Triton's ModelConfig that is written; tritonclient, which has it all, pins an old ml-dtypes."""
    pool = descriptor_pool.DescriptorPool()
    file = text_format.Parse(TRITON, descriptor_pb2.FileDescriptorProto())
    return message_factory.GetMessages([file], pool=pool)["inference.ModelConfig"]


@pytest.mark.parametrize("task", TASKS)
def test_a_folder_for_servers(files, model_config, tmp_path, task):
    path = tmp_path / "a_name.onnx"
    path.write_bytes((files / f"{task}.onnx").read_bytes())
    check_free(path, "kserve")
    written = LAYOUTS["kserve"](path)
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == {*written}
    assert runtime.load(str(tmp_path / "a_name" / "1" / "model.onnx")).file.about["task"] == task
    config = text_format.Parse((tmp_path / "a_name" / "config.pbtxt").read_text(), model_config())
    assert (config.name, config.backend) == ("a_name", "onnxruntime")
    ours = [(value.name, [*value.dims]) for value in config.input]
    if task == "detection":  # what is found is a list over the whole batch
        assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
        assert ours == [("images", [-1, 3, -1, -1])]
        assert [config.output[i].data_type for i in range(4)] == [11, 11, 9, 9]  # float32, int64
        assert [*config.output[0].dims] == [3, 4]
    else:
        assert (config.max_batch_size, config.HasField("dynamic_batching")) == (16, True)
        assert ours == [("images", [3, -1, -1])]
    labels = tmp_path / "a_name" / config.output[0].label_filename
    assert (labels.read_text() == "red\ng\nb\n") if task == "classification" else labels.is_dir()
    assert json.loads(config.parameters[KEY].string_value)["task"] == task
    manifest = yaml.safe_load((tmp_path / "inferenceservice.yaml").read_text())
    assert manifest["metadata"]["name"] == "a-name"
    assert manifest["spec"]["predictor"]["model"]["modelFormat"] == {"name": "triton"}
    with pytest.raises(UserError, match="nothing was overwritten"):
        check_free(path, "triton")


@pytest.mark.slow
def test_an_environment_without_torch(files, tmp_path):
    """The two lines of docs/deploy.md."""
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "numpy", "pillow", "onnxruntime", "tyro", "rich"], check=True)
    subprocess.run([*pip, "--no-deps", Path(__file__).parents[1]], check=True)
    for task in TASKS:
        command = [python, "-m", "foveal", "predict", f"{task}.onnx", "a.png"]
        result = subprocess.run(command, cwd=files, env={}, capture_output=True, text=True, check=True)
        assert "a.png" in result.stdout
    command = [python, "-c", "import importlib.util as u; print([u.find_spec(n) for n in ('torch', 'timm', 'yaml')])"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[None, None, None]"


# the files that foveal writes


def save_segmenter(folder: Path, **more: Any) -> None:
    torch.manual_seed(0)
    small = {"pyramid_channels": 16, "channels": 16}
    args = SegmentationArgs(model="test_mat", segmenter="semantic_fpn", segmenter_args=small, **more)
    args.image_size, args.max_size = 64, 96
    task = args.build(SimpleNamespace(classes=["a", "b", "c"]))
    randomize(task.model)
    save(task, folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of exporters
@pytest.mark.parametrize("kind", ["detection", "masks", "segmentation", "keypoints"])
def test_a_file_predicts_what_its_run_does(kind, tmp_path, pictures, capsys):
    few = dict(rpn_post_nms_top_n_test=30, box_detections_per_img=10)
    saving = {
        "detection": partial(save_detector, detections_per_img=20),
        "masks": partial(save_detector, detector="mask_rcnn", **few),
        "segmentation": save_segmenter,
        "keypoints": save_keypoints,
    }
    saving[kind](tmp_path / "run")
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "file")]) == 0
    (file,) = (tmp_path / "file").glob("*.onnx")
    extra = ["--threshold", 0] if kind in ("detection", "masks") else []
    answers = [
        lines(capsys, "predict", model, *sorted(tmp_path.glob("*.png")), "--json", *extra)
        for model in (tmp_path / "run", file)
    ]
    assert len(answers[0]) == len(pictures)
    for one, other in zip(*answers, strict=True):
        if kind == "segmentation":
            assert other["shares"] == pytest.approx(one["shares"], abs=2e-3)
        elif kind == "keypoints":
            places = [np.array(answer["keypoints"])[..., :2] for answer in (one, other)]
            assert np.abs(places[0] - places[1]).max() < 0.1
        else:  # images differ by a level here and there
            assert np.array(other["scores"]) == pytest.approx(np.array(one["scores"]), abs=2e-3)
            assert sorted(other["labels"]) == sorted(one["labels"])
            assert len(other.get("masks", [])) == len(one.get("masks", []))
