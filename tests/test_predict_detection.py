"""``foveal eval`` and ``foveal predict`` of detectors: beside pycocotools and the Python way, drawn, and bad input."""

import json
import re
import shutil
import struct
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as codes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import save_file

from conftest import randomize
from foveal import load_classifier, load_detector
from foveal._draw import colour, draw_objects
from foveal._errors import UserError
from foveal.cli import main
from foveal.data import SUFFIXES, VIDEO_SUFFIXES, BoxAugment, Video, load_split, new_video
from foveal.data._video import CODECS
from foveal.tasks import DetectionArgs, DetectorModel

CLASSES = ["cat", "dog", "emu"]
CATEGORIES = {7: "emu", 30: "cat", 4: "dog"}  # of the data, in another order than the detector's


def save_run(folder, detector="retinanet", classes=CLASSES, **args):
    """The folder of a run with random weights that find much."""
    torch.manual_seed(1)
    task = DetectionArgs(model="test_mat", detector=detector, image_size=64, max_size=96, detector_args=args)
    task = task.build(SimpleNamespace(classes=classes))
    if detector == "retinanet":
        randomize(task.model.head)
        torch.nn.init.constant_(task.model.head.classification_head.cls_logits.bias, -1.0)
    (folder / "best").mkdir(parents=True)
    save_file(task.model.state_dict(), folder / "best" / "model.safetensors")
    task.write_config(folder / "best" / "config.json")


def save_data(root, number=12):
    """Scenes as COCO's annotations with crowds, run-length codes, ids that have gaps, a picture without objects."""
    scenes = load_split(f"scenes:{10 * number}x128", kind="detection")
    images, annotations = [], []
    (root / "pictures").mkdir(parents=True)
    for i in range(number):
        name, image_id = f"{i}.png", 900 - 7 * i
        scenes.picture(i).save(root / "pictures" / name)
        images.append(dict(id=image_id, file_name=name, height=128, width=160))
        target = scenes.annotation(i)["target"]
        for j, (mask, label) in enumerate(zip(target["segmentations"], target["labels"].tolist())):
            code = codes.encode(np.asfortranarray(mask.astype(np.uint8)))
            entry = dict(id=len(annotations) + 1, image_id=image_id, category_id=[*CATEGORIES][label % 3])
            entry |= dict(bbox=codes.toBbox(code).tolist(), area=float(codes.area(code)), iscrowd=int(j == 3))
            if i != 2:
                annotations.append(entry | dict(segmentation=code | dict(counts=code["counts"].decode())))
    categories = [dict(id=number, name=name) for number, name in CATEGORIES.items()]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / "found.json").write_text(json.dumps(content))
    return content


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs, data and files to look at; no test changes them."""
    root = tmp_path_factory.mktemp("place")
    save_run(root / "run", detections_per_img=20)
    few = dict(rpn_post_nms_top_n_test=30, box_detections_per_img=10)
    save_run(root / "masks", "mask_rcnn", **few)
    save_run(root / "others", classes=["cat", "dog", "fox"])
    save_data(root / "data")
    scenes = load_split("scenes:80x64", kind="detection")
    (root / "files" / "sub").mkdir(parents=True)
    for i, name in enumerate(["a.png", "b.JPG", "sub/c.webp"]):
        scenes.picture(i).save(root / "files" / name)
    with new_video(root / "files" / "sub" / "v.mp4", Fraction(30000, 1001)) as add:
        for i in range(3):
            add(scenes.picture(i))
    (root / "files" / "notes.txt").write_text("text")
    return root


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """The current folder, with links to all of that."""
    for name in ("run", "masks", "others", "data", "files"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(capsys, *args):
    """What a command prints."""
    capsys.readouterr()
    assert main([str(arg) for arg in args]) == 0
    answer = capsys.readouterr()
    assert answer.err == ""
    return answer.out


def lines(capsys, *args):
    """The JSON objects of predictions."""
    return [json.loads(line) for line in command(capsys, "predict", *args, "--json").splitlines()]


def refused(capsys, *args):
    """The one line that answers bad input."""
    capsys.readouterr()
    assert main([str(arg) for arg in args]) == 2
    answer = capsys.readouterr()
    assert len(answer.err.splitlines()) == 1, answer.err
    assert answer.err.startswith("foveal: ")
    assert answer.out == ""
    return answer.err


# evaluation


@pytest.fixture
def near(monkeypatch):
    """Detectors that find the objects of the data nearly where they are, and others."""
    data = [name for _, name in sorted(CATEGORIES.items())]

    def predict(self, batch, threshold=0.0):
        found = []
        for target, size in zip(batch["target"], batch["original"].tolist()):
            random = np.random.default_rng(target["image_id"])
            H, W = size
            boxes = target["boxes"].repeat(2, 0)
            boxes = np.clip(boxes + random.normal(0, 2, boxes.shape), 0, [W, H, W, H])
            boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:] - 1).clip(0), boxes[:, 2:]], 1)
            labels = torch.tensor([self.classes.index(data[i]) for i in target["labels"].tolist()], dtype=torch.long)
            labels = labels.repeat_interleave(2)
            labels[::5] = 1
            scores = torch.from_numpy(np.sort(random.random(len(labels)))[::-1].astype(np.float32))
            one = dict(boxes=torch.from_numpy(boxes).float(), labels=labels, scores=scores)
            if self.masks:
                y, x = np.mgrid[:H, :W] + 0.5
                inside = [(x > x1) & (x < x2) & (y > y1) & (y < y2) for x1, y1, x2, y2 in boxes.tolist()]
                one["masks"] = torch.from_numpy(np.array(inside).reshape(-1, H, W))
            found.append(one)
        return found

    monkeypatch.setattr(DetectorModel, "predict", predict)


def oracle(annotations, results, kind):
    """pycocotools' stats, and AP of each category."""
    known = COCO(str(annotations))
    evaluation = COCOeval(known, known.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # of categories in the order of their ids
    per_class = [precision[:, :, i][precision[:, :, i] > -1].mean() for i in range(len(CATEGORIES))]
    return evaluation.stats, dict(zip(sorted(CATEGORIES), per_class))


@pytest.mark.parametrize("run", ["run", "masks"])
def test_eval_and_its_predictions_agree_with_pycocotools(here, near, capsys, run):
    args = ["eval", run, "--data", "data/found.json", "--root", "data/pictures", "--save-predictions", "p.json"]
    answer = json.loads(command(capsys, *args, "--batch-size", 5, "--json"))
    metrics = answer["metrics"]
    assert (metrics["pictures"], metrics["objects"]) == (12, sum(row["objects"] for row in answer["classes"]))
    assert {row["class"]: row["category_id"] for row in answer["classes"]} == {v: k for k, v in CATEGORIES.items()}
    saved = json.loads((here / "p.json").read_text())
    assert len(saved) > 30
    for kind, prefix in [("bbox", ""), ("segm", "mask_")][: 2 if run == "masks" else 1]:
        assert 5 < metrics[f"{prefix}AP"] < 95
        stats, per_class = oracle("data/found.json", str(here / "p.json"), kind)
        for name, i in (("AP", 0), ("AP50", 1), ("AP75", 2), ("AR", 8)):
            assert metrics[prefix + name] == pytest.approx(100 * stats[i], abs=1e-6), name
        if kind == "segm":  # whose sizes pycocotools takes from the boxes, if there are any
            without = [{k: v for k, v in entry.items() if k != "bbox"} for entry in saved]
            stats, per_class = oracle("data/found.json", without, kind)
        for name, i in (("APs", 3), ("APm", 4)):
            assert metrics[prefix + name] == pytest.approx(100 * stats[i], abs=1e-6), name
        for row in answer["classes"]:
            assert row[f"{prefix}AP"] == pytest.approx(100 * per_class[row["category_id"]], abs=1e-6)
    assert metrics["APl"] is None  # there is no such object, and JSON has no nan
    assert answer["settings"]["batch_size"] == 5
    assert answer["preprocessing"] == {"image_size": 64, "max_size": 96}
    assert {"torch", "timm", "foveal", "decoder"} <= set(answer["environment"])
    assert (answer["skipped"], answer["left_out"]) == ([], [])


def test_eval_prints_tables(here, capsys):
    said = command(capsys, "eval", "run", "--data", "data/found.json", "--root", "data/pictures", "--per-class")
    for word in ("AP50", "AP75", "APs", "APm", "APl", "AR", "boxes %", *CLASSES, "12 pictures", "images/s"):
        assert word in said
    assert "masks" not in said
    said = command(capsys, "eval", "masks", "--data", "data/found.json", "--root", "data/pictures")
    assert "masks %" in said
    assert "worst classes" in said


def test_eval_of_scenes(tmp_path, capsys):
    scenes = load_split("scenes:20x64", kind="detection")
    save_run(tmp_path / "run", classes=scenes.classes, detections_per_img=10)
    args = ["eval", tmp_path / "run", "--data", "scenes:20x64", "--save-predictions", tmp_path / "p.json"]
    answer = json.loads(command(capsys, *args, "--json"))
    assert answer["metrics"]["pictures"] == 2
    assert 0 <= answer["metrics"]["AP"] < 20
    saved = json.loads((tmp_path / "p.json").read_text())
    assert {entry["image_id"] for entry in saved} == {0, 1}
    (found, _) = load_detector(str(tmp_path / "run")).detect([scenes.picture(0), scenes.picture(1)])
    first = [entry for entry in saved if entry["image_id"] == 0]
    assert [entry["category_id"] - 1 for entry in first] == found["labels"].tolist()
    x, y, w, h = torch.tensor([entry["bbox"] for entry in first]).unbind(1)
    torch.testing.assert_close(torch.stack([x, y, x + w, y + h], 1), found["boxes"], rtol=0, atol=0.01)


def broken_data(root, content):
    """The data with a picture that cannot be read and an annotation that is wrong."""
    (root / "pictures" / "3.png").write_text("text")
    content["annotations"][0]["bbox"] = [1000, 0, 5, 5]
    (root / "found.json").write_text(json.dumps(content))


def test_eval_skips_and_lists_what_is_wrong(here, near, capsys, tmp_path):
    broken_data(tmp_path / "odd", save_data(tmp_path / "odd"))
    args = ["eval", "run", "--data", "odd/found.json", "--root", "odd/pictures"]
    said = refused(capsys, *args)
    assert "annotation id 1" in said
    assert "--on-bad-image skip" in said
    answer = json.loads(command(capsys, *args, "--on-bad-image", "skip", "--json"))
    assert answer["metrics"]["pictures"] == 11
    (left_out,) = answer["left_out"]
    (skipped,) = answer["skipped"]
    assert "annotation id 1" in left_out
    assert "3.png: not a picture" in skipped
    assert main([*args, "--on-bad-image", "skip"]) == 0
    listed = capsys.readouterr().err.splitlines()
    assert listed == [f"left out: {left_out}", f"skipped: {skipped}"]


def test_eval_stops_at_a_bad_picture(here, capsys, tmp_path):
    save_data(tmp_path / "odd")
    (tmp_path / "odd" / "pictures" / "3.png").write_text("text")
    said = refused(capsys, "eval", "run", "--data", "odd/found.json", "--root", "odd/pictures")
    assert "cannot read picture odd/pictures/3.png: not a picture" in said
    assert "--on-bad-image skip goes on without it" in said


def test_masks_are_measured_where_there_are_some(here, capsys, tmp_path):
    content = save_data(tmp_path / "odd")
    for entry in content["annotations"]:
        del entry["segmentation"]
    (tmp_path / "odd" / "found.json").write_text(json.dumps(content))
    assert main(["eval", "masks", "--data", "odd/found.json", "--root", "odd/pictures"]) == 0
    answer = capsys.readouterr()
    assert "masks are not measured: not every object of odd/found.json has one" in answer.err
    assert "masks %" not in answer.out


DATA = "--data data/found.json --root data/pictures"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (f"others {DATA}", "the classes differ; only others has fox; only the data emu"),
        ("run --data scenes", "the classes differ; only run has cat, dog, emu; only the data T-shirt, ankle boot"),
        ("run --data nowhere", "unknown data set or folder 'nowhere'"),
        ("run --data files", "files holds no data for detection"),
        (f"run {DATA} --labels x.txt", "--labels: no effect on a detector"),
        (f"run {DATA} --confusion x.png --crop-pct 1", "--confusion, --crop-pct: no effect on a detector"),
        (f"run {DATA} --image-size 64", "--image-size: no effect on a detector"),
        (f"run {DATA} --save-predictions p.txt", "cannot write p.txt: expected a .json file"),
        (f"run {DATA} --save-predictions no/p.json", "cannot write no/p.json: no such folder"),
        (f"run {DATA} --save-predictions data/found.json", "data/found.json exists; nothing was overwritten"),
        (f"run {DATA} --batch-size 0", "batch-size must be at least 1, got 0"),
        (f"run {DATA} --device abacus", "cannot use device 'abacus'"),
        ("resnet18.a1_in1k --data fashion --save-predictions p.json", "--save-predictions: no effect on a classifier"),
    ],
)
def test_bad_input_of_eval(here, capsys, args, said):
    before = sorted(here.iterdir())
    assert said in refused(capsys, "eval", *args.split())
    assert sorted(here.iterdir()) == before


# prediction


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize("run", ["run", "masks"])
def test_predictions_are_those_of_python(here, capsys, run):
    paths = ["files/a.png", "files/b.JPG"]
    model = load_detector(run)
    every = model.detect([Image.open("files/a.png")])[0]
    threshold = round(float(every["scores"].mean()), 4)
    answers = lines(capsys, run, *paths, "--threshold", threshold)
    found = model.detect([Image.open(path) for path in paths], threshold)
    for path, one, answer in zip(paths, found, answers, strict=True):
        assert answer["picture"] == path
        assert (answer["height"], answer["width"]) == (64, 80)
        assert answer["labels"] == [CLASSES[label] for label in one["labels"]]
        assert all(score >= threshold for score in answer["scores"])
        torch.testing.assert_close(torch.tensor(answer["boxes"]).view(-1, 4), one["boxes"], rtol=0, atol=0.01)
        assert answer["scores"] == pytest.approx(one["scores"].tolist(), abs=1e-4)
        assert ("masks" in answer) is (run == "masks")
        if run == "masks":
            for code, mask in zip(answer["masks"], one["masks"].numpy(), strict=True):
                assert np.mean(codes.decode(code) != mask) < 0.01
    kept = every["scores"] >= threshold
    assert 0 < kept.sum() < len(kept)
    torch.testing.assert_close(found[0]["boxes"], every["boxes"][kept], rtol=1e-4, atol=1e-3)


def test_python_takes_any_picture(place):
    model = load_detector(str(place / "run"))
    scene = Image.open(place / "files" / "a.png")
    assert model.detect([]) == []
    (colour, grey, alpha) = (model.detect([scene.convert(mode)])[0] for mode in ("RGB", "L", "RGBA"))
    assert torch.equal(alpha["boxes"], colour["boxes"])
    assert not torch.equal(grey["boxes"], colour["boxes"])
    for size in ((1, 1), (500, 3)):
        (found,) = model.detect([scene.resize(size)])
        assert found["boxes"].ndim == 2
        assert not len(found["boxes"]) or found["boxes"].amax(0)[2] <= size[0]
    with pytest.raises(UserError, match=r"threshold must be in \[0, 1\], got 2"):
        model.detect([scene], threshold=2)


def test_table(here, capsys):
    said = command(capsys, "predict", "run", "files", "--threshold", 0.1)
    names = ["files/a.png", "files/b.JPG", "files/sub/c.webp", "files/sub/v.mp4"]
    assert [name for name in names if name in said] == names
    assert "notes.txt" not in said
    assert "in 3 pictures: " in said
    assert re.search(r"(cat|dog|emu) 0\.\d\d", said)
    assert command(capsys, "predict", "run", "files/a.png", "--threshold", 1).count("none") == 1


def test_drawings(here, capsys):
    before = {path: path.read_bytes() for path in Path("files").rglob("*") if path.is_file()}
    said = command(capsys, "predict", "run", "files", "--threshold", 0.1, "--out", "new/drawn")
    assert "drawn in new/drawn" in said
    made = {str(path.relative_to("new/drawn")) for path in Path("new/drawn").rglob("*") if path.is_file()}
    assert made == {"a.png", "b.JPG", "sub/c.webp", "sub/v.mp4"}
    assert all(path.read_bytes() == data for path, data in before.items())
    (found,) = lines(capsys, "run", "files/a.png", "--threshold", 0.1)
    x1, y1, x2, y2 = map(int, found["boxes"][0])  # the one on top
    with Image.open("new/drawn/a.png") as drawn:
        assert drawn.size == (80, 64)
        assert drawn.getpixel((min(x2, 79), min(y2, 63))) == colour(CLASSES.index(found["labels"][0]))
    said = refused(capsys, "predict", "run", "files", "--out", "new/drawn")
    assert "new/drawn/a.png exists; nothing was overwritten" in said


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pictures_of_every_format_are_drawn(here, capsys, suffix):
    Image.open("files/a.png").convert("RGB").save(f"one{suffix}")
    command(capsys, "predict", "run", f"one{suffix}", "--threshold", 0.1, "--out", "out")
    with Image.open(f"out/one{suffix}") as drawn, Image.open(f"one{suffix}") as picture:
        assert (drawn.size, drawn.format) == (picture.size, picture.format)
        assert np.abs(np.asarray(drawn.convert("RGB"), float) - np.asarray(picture.convert("RGB"))).mean() > 2


@pytest.mark.parametrize("size", [(64, 80), (300, 400), (900, 1200), (30, 200)])
def test_what_is_drawn_stays_in_the_picture_and_can_be_read(size):
    H, W = size
    picture = Image.new("RGB", (W, H), (90, 90, 90))
    corners = [[0, 0, W / 8, H / 8], [W * 7 / 8, H * 7 / 8, W, H], [W / 3, H / 3, W * 2 / 3, H * 2 / 3]]
    found = dict(boxes=torch.tensor(corners), labels=torch.tensor([0, 1, 0]), scores=torch.tensor([0.9, 0.8, 0.7]))
    drawn = np.asarray(draw_objects(picture, found, ["black bear", "zebra"])).astype(int)
    assert drawn.shape == (H, W, 3)
    assert np.asarray(picture).max() == 90  # the picture itself is as it was
    for label, ink in ((0, 0), (1, 0)):
        filled = (drawn == colour(label)).all(2)
        height = max(10, min(size) / 40)
        assert filled.sum() > 3 * height * height  # behind the text
        assert (np.abs(drawn - ink).max(2) < 60).sum() or (np.abs(drawn - 255).max(2) < 60).sum()
    nothing = {name: value[:0] for name, value in found.items()}
    assert np.array_equal(np.asarray(draw_objects(picture, nothing, ["black bear", "zebra"])), np.asarray(picture))


def test_masks_are_drawn():
    picture = Image.new("RGB", (60, 60), (90, 90, 90))
    masks = torch.zeros(1, 60, 60, dtype=torch.bool)
    masks[:, 30:50, 30:50] = True
    found = dict(boxes=torch.tensor([[30.0, 30, 50, 50]]), labels=torch.tensor([2]), scores=torch.tensor([0.5]))
    without, with_ = (
        np.asarray(draw_objects(picture, one, ["a", "b", "c"])) for one in (found, found | dict(masks=masks))
    )
    assert (without[40, 40] == 90).all()
    assert with_[40, 40].tolist() == pytest.approx([(90 + c) / 2 for c in colour(2)], abs=1)


def test_colours_of_classes_differ():
    assert len({colour(label) for label in range(80)}) == 80
    near = [np.abs(np.subtract(colour(label), colour(label + 1))).max() for label in range(80)]
    assert min(near) > 60


# videos


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
@pytest.mark.parametrize("size", [(64, 96), (65, 97)])
def test_videos_of_every_format(tmp_path, suffix, size):
    H, W = size
    ramp = np.linspace(0, 255, W).astype(np.uint8)[None, :, None].repeat(H, 0).repeat(3, 2)
    with new_video(tmp_path / f"v{suffix}", Fraction(30000, 1001)) as add:
        for i in range(5):
            add(Image.fromarray(np.where(np.arange(H)[:, None, None] < 10 * i, 255 - ramp, ramp).astype(np.uint8)))
    with Video(tmp_path / f"v{suffix}") as video:
        frames = [*video]
        assert video.rate == Fraction(30000, 1001)
    assert [seconds for seconds, _ in frames] == pytest.approx([i * 1001 / 30000 for i in range(5)], abs=1e-3)
    for i, (_, picture) in enumerate(frames):
        assert picture.size == (W, H)
        seen = np.asarray(picture).astype(int)[:, :, 1]
        assert abs(seen[-8:] - ramp[-8:, :, 0]).mean() < 8
        assert i == 0 or abs(seen[: 10 * i - 4] - (255 - ramp[: 10 * i - 4, :, 0])).mean() < 8
    assert suffix in CODECS


def test_videos_are_drawn(here, capsys):
    found = lines(capsys, "run", "files/sub/v.mp4", "--threshold", 0.1, "--out", "out")
    assert [(one["video"], one["frame"], one["seconds"]) for one in found] == [
        ("files/sub/v.mp4", i, pytest.approx(i * 1001 / 30000, abs=1e-3)) for i in range(3)
    ]
    assert all((one["height"], one["width"]) == (64, 80) for one in found)
    assert all(one["scores"] for one in found)
    with Video(Path("files/sub/v.mp4")) as before, Video(Path("out/v.mp4")) as after:
        assert (after.rate, after.num_frames) == (before.rate, before.num_frames)
        for one, (_, was), (_, is_) in zip(found, before, after, strict=True):
            assert is_.size == was.size
            x1, y1, x2, y2 = map(int, one["boxes"][0])
            expected = colour(CLASSES.index(one["labels"][0]))
            edge = np.asarray(is_).astype(int)[y2, x1:x2]
            assert np.abs(edge - expected).mean() < np.abs(np.asarray(was).astype(int)[y2, x1:x2] - expected).mean()


def test_a_turned_video_is_seen_upright(here, capsys):
    """As telephones write it: the pictures lie on their side, and the file says how to turn them."""
    data = bytearray(Path("files/sub/v.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    Path("turned.mp4").write_bytes(data)
    with Video(Path("files/sub/v.mp4")) as before, Video(Path("turned.mp4")) as after:
        for (_, was), (_, is_) in zip(before, after, strict=True):
            assert np.array_equal(np.asarray(is_), np.rot90(np.asarray(was), -1))
    command(capsys, "predict", "run", "turned.mp4", "--out", "out")
    with Video(Path("out/turned.mp4")) as drawn:
        assert next(iter(drawn))[1].size == (64, 80)


def test_half_a_video_leaves_nothing(here, capsys, monkeypatch):
    def stop(self):
        yield 0.0, Image.open("files/a.png").convert("RGB")
        raise UserError("stopped")

    monkeypatch.setattr(Video, "__iter__", stop)
    assert refused(capsys, "predict", "run", "files/sub/v.mp4", "--out", "out") == "foveal: stopped\n"
    assert [*Path("out").iterdir()] == []


# what is refused


@pytest.fixture
def odd(here):
    """More files, which are no good."""
    whole = Path("files/sub/v.mp4").read_bytes()
    Path("cut.mp4").write_bytes(whole[: len(whole) // 2])
    Path("text.mp4").write_text("text" * 100)
    Path("void.mkv").write_bytes(b"")
    Path("text.txt").write_text("text")
    Path("empty").mkdir()
    Path("more").mkdir()
    Path("more/a.png").write_bytes(Path("files/a.png").read_bytes())
    return here


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("run", "no picture given"),
        ("run nowhere.png", "cannot read picture nowhere.png: no such file"),
        ("run nowhere.mp4", "cannot read video nowhere.mp4: no such file"),
        ("run cut.mp4", "cannot read video cut.mp4: "),
        ("run text.mp4 --out out", "cannot read video text.mp4: Invalid data"),
        ("run void.mkv", "cannot read video void.mkv: "),
        ("run text.txt", "cannot read picture text.txt: not a picture in BMP, "),
        ("run text.txt --out out", "cannot draw text.txt: expected a name that ends in .bmp, "),
        ("run empty", "empty has no file that ends in .bmp, "),
        ("run files --threshold 1.5", "threshold must be in [0, 1], got 1.5"),
        ("run files --threshold -0.1", "threshold must be in [0, 1], got -0.1"),
        ("run files --threshold nan", "threshold must be in [0, 1], got nan"),
        ("run files --top 3", "--top: no effect on a detector"),
        ("run files --std 1 1 1 --crop-mode squash", "--crop-mode, --std: no effect on a detector"),
        ("run files --out files", "files/a.png exists; nothing was overwritten"),
        ("run files/a.png --out files/.", "files/a.png exists; nothing was overwritten"),
        ("run files/a.png more/a.png --out out", "files/a.png and more/a.png would both be drawn as out/a.png"),
        ("run files more --out out", "files/a.png and more/a.png would both be drawn as out/a.png"),
        ("run files --out text.txt", "text.txt is no folder"),
        ("run files --out text.txt/out", "cannot write text.txt/out: "),
        ("run files --device abacus", "cannot use device 'abacus'"),
        ("empty files", "empty is no run"),
        ("resnet18.a1_in1k files --threshold 0.3 --out out", "--threshold, --out: no effect on a classifier"),
        ("resnet18.a1_in1k empty", "empty has no file that ends in .bmp, "),
    ],
)
def test_bad_input_of_predict(odd, capsys, args, said):
    before = {path: path.read_bytes() for path in odd.rglob("*") if path.is_file()}
    assert said in refused(capsys, "predict", *args.split())
    assert {path: path.read_bytes() for path in odd.rglob("*") if path.is_file()} == before


def test_bad_files_are_skipped(odd, capsys):
    args = ["predict", "run", "cut.mp4", "text.txt", "files/a.png", "--json", "--on-bad-image", "skip"]
    assert main(args) == 0
    answer = capsys.readouterr()
    assert [json.loads(line)["picture"] for line in answer.out.splitlines()] == ["files/a.png"]
    first, second = answer.err.splitlines()
    assert first.startswith("skipped: cannot read video cut.mp4: ")
    assert second.startswith("skipped: cannot read picture text.txt: ")


def test_a_missing_extra_is_named(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert "videos need PyAV: pip install 'foveal[video]'" in refused(capsys, "predict", "run", "files/sub/v.mp4")
    assert len(lines(capsys, "run", "files/a.png")) == 1


def test_each_loader_names_what_it_was_given(place, tmp_path):
    with pytest.raises(UserError, match="holds no classifier, but a model for detection"):
        load_classifier(str(place / "run"))
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "config.json").write_text('{"architecture": "test_mat"}')
    (tmp_path / "best" / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="holds no detector, but a model for classification"):
        load_detector(str(tmp_path))
    shutil.copytree(place / "run" / "best", tmp_path / "older")
    save_file({"renamed": torch.zeros(1)}, tmp_path / "older" / "model.safetensors")
    with pytest.raises(UserError, match=r"another version or damaged: .* Missing key\(s\) .* \"renamed\""):
        load_detector(str(tmp_path / "older"))
    with pytest.raises(ImportError):
        exec("from foveal import load_nothing")


def test_copy_paste_needs_masks(tmp_path):
    content = save_data(tmp_path, 3)
    args = dict(model="test_mat", detector="retinanet", image_size=64, max_size=96)
    task = DetectionArgs(**args, augment=BoxAugment(copy_paste=0.5)).build(SimpleNamespace(classes=CLASSES))
    data = load_split(str(tmp_path / "found.json"), tmp_path / "pictures", kind="detection")
    task.check(data, train=True)
    first = content["annotations"][0]
    left = {key: value for key, value in first.items() if key != "segmentation"}
    (tmp_path / "found.json").write_text(json.dumps(content | {"annotations": [left, *content["annotations"][1:]]}))
    data = load_split(str(tmp_path / "found.json"), tmp_path / "pictures", kind="detection")
    with pytest.raises(UserError, match=r"needs masks, which objects in 1 pictures do not have, .*\.png among them"):
        task.check(data, train=True)
    for entry in content["annotations"]:
        del entry["segmentation"]
    (tmp_path / "found.json").write_text(json.dumps(content))
    data = load_split(str(tmp_path / "found.json"), tmp_path / "pictures", kind="detection")
    task.check(data, train=False)
    with pytest.raises(UserError, match="copy-paste needs masks, which the data does not have"):
        task.check(data, train=True)
