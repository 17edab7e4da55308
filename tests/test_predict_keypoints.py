"""``foveal eval`` and ``foveal predict`` of keypoints: from picture to heatmap and back, on boxes of both kinds."""

import json
import random
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import save_file

from conftest import randomize
from foveal import load_keypoints
from foveal._draw import colour, draw_bodies
from foveal._errors import UserError
from foveal.cli import main
from foveal.data import Crop, JointAugment, Joints, load_data, load_split, new_video
from foveal.data.figures import JOINTS, figures
from foveal.keypoints._estimator import gaussians
from foveal.tasks import DetectionArgs, DetectorModel, KeypointArgs, KeypointModel, Keypoints
from foveal.tasks.keypoints import predict
from test_predict_detection import command, lines, refused

SHUFFLED = [5, 0, 3, 1, 2, 4, *range(6, 17)]  # the data's order of joints, in places of the model's


def save_run(folder, joints=JOINTS, categories=("person",)):
    """The folder of a run with random weights."""
    torch.manual_seed(0)
    args = KeypointArgs(model="test_mat", image_size=48, max_size=64, estimator_args={"channels": 16})
    task = args.build(SimpleNamespace(joints=joints, categories=[*categories]))
    randomize(task.model)
    save(task, folder)


def save_detector(folder, classes=("person", "dog")):
    torch.manual_seed(0)
    args = DetectionArgs(model="test_mat", image_size=64, max_size=96, detector_args={"detections_per_img": 40})
    task = args.build(SimpleNamespace(classes=[*classes]))
    randomize(task.model.head)
    torch.nn.init.constant_(task.model.head.classification_head.cls_logits.bias, -1.0)
    save(task, folder)


def save(task, folder):
    (folder / "best").mkdir(parents=True)
    save_file(task.model.state_dict(), folder / "best" / "model.safetensors")
    task.write_config(folder / "best" / "config.json")


def save_data(root, number=12):
    """Figures as COCO's annotations, with a crowd, a body without a joint, a picture without a body, ids with gaps."""
    data = load_split(f"figures:{10 * number}x96", kind="keypoints")
    images, annotations = [], []
    (root / "pictures").mkdir(parents=True)
    for i in range(number):
        name, image_id = f"{i}.png", 900 - 7 * i
        data.pictures.picture(i).save(root / "pictures" / name)
        images.append(dict(id=image_id, file_name=name, height=96, width=120))
        objects = data.objects(i)
        for j, (box, area, keypoints) in enumerate(zip(objects.boxes, objects.area, objects.keypoints[:, SHUFFLED])):
            x1, y1, x2, y2 = box.tolist()
            entry = dict(id=len(annotations) + 1, image_id=image_id, category_id=4, iscrowd=int(i == 3 and j == 1))
            entry |= dict(bbox=[x1, y1, x2 - x1, y2 - y1], area=area, keypoints=keypoints.flatten().tolist())
            if i == 7 and j == 0:
                entry["keypoints"] = [0] * 51
            entry["num_keypoints"] = sum(v > 0 for v in entry["keypoints"][2::3])
            if i != 2:
                annotations.append(entry)
    category = dict(id=4, name="person", keypoints=[JOINTS.names[place] for place in SHUFFLED])
    content = dict(images=images, annotations=annotations, categories=[category])
    (root / "found.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs, data and files to look at; no test changes them."""
    root = tmp_path_factory.mktemp("place")
    save_run(root / "run")
    save_run(root / "cats", categories=["cat"])
    save_run(root / "three", Joints(("a", "b", "c"), (), (), (0.1,) * 3))
    save_detector(root / "detector")
    save_detector(root / "cars", ["car", "dog"])
    save_data(root / "data")
    pictures = load_split("figures:80x64", kind="keypoints").pictures
    (root / "files" / "sub").mkdir(parents=True)
    for i, name in enumerate(["a.png", "b.JPG", "sub/c.webp"]):
        pictures.picture(i).save(root / "files" / name)
    with new_video(root / "files" / "sub" / "v.mp4", Fraction(25)) as add:
        for i in range(3):
            add(pictures.picture(i))
    return root


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """The current folder, with links to all of that."""
    for name in ("run", "cats", "three", "detector", "cars", "data", "files"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# From the picture to the heatmap and back


class Perfect(torch.nn.Module):
    """A model whose heatmaps are those that it should learn."""

    def __init__(self, model, positions):
        super().__init__()
        self.model, self.positions = model, positions

    def forward(self, images):
        return {"heatmaps": gaussians(self.positions, images.shape[2] // 4, images.shape[3] // 4, self.model.sigma)}

    def keypoints(self, heatmaps):
        return self.model.keypoints(heatmaps)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_learned_is_what_is_found(seed):
    """Joints that are turned, scaled, mirrored and cut to half a body come back to their places in the picture."""
    data, _ = figures("figures:40x256")
    task = KeypointArgs(model="test_mat", augment=JointAugment(half_body=0.5)).build(data)
    assert isinstance(task, Keypoints)
    seen, num_joints, mirrored = task.transform(train=True), 0, 0
    random.seed(seed)
    for index in range(0, len(data), 5):
        sample = {"image": data.picture(index), "name": "", **data.annotation(index)}
        batch = task.stack([seen(sample, dict)])
        (found,) = predict(Perfect(task.model, batch["positions"]), batch, JOINTS, flip_test=False)
        flipped = float(batch["matrix"][0, :, :2].det()) < 0
        mirrored += flipped
        expected = torch.from_numpy(sample["target"]["keypoints"][JOINTS.mirrored if flipped else slice(None)])
        y, x = batch["positions"][0, :, 1], batch["positions"][0, :, 0]
        inner = (x > 32) & (x < 160) & (y > 32) & (y < 224) & (batch["weights"][0] > 0)  # smoothing reaches no edge
        num_joints += int(inner.sum())
        torch.testing.assert_close(found["keypoints"][inner], expected[inner, :2], atol=0.05, rtol=0)
        assert (found["scores"][inner] > 0.9).all()
    assert num_joints > 60
    assert 0 < mirrored < 15


def test_a_mirrored_picture_has_mirrored_joints(place):
    """To rounding, for heatmaps are means of both; a joint's name goes to the other side."""
    model, picture = load_keypoints(str(place / "run")), Image.open(place / "files" / "a.png").convert("RGB")
    (one,) = model.estimate(picture, [(10, 5, 50, 60)])
    width = picture.width
    (other,) = model.estimate(ImageOps.mirror(picture), [(width - 50, 5, width - 10, 60)])
    moved = other["keypoints"][JOINTS.mirrored]
    same = (one["scores"] - other["scores"][JOINTS.mirrored]).abs() < 1e-4
    assert same.sum() > 12  # pixels of equal height may be taken for one another
    near = (moved[:, 0] - (width - 1 - one["keypoints"][:, 0])).abs() + (moved[:, 1] - one["keypoints"][:, 1]).abs()
    assert (near < 0.05).sum() > 12


def test_flip_test_averages_heatmaps(place):
    model = load_keypoints(str(place / "run"))
    batch = {"image": torch.randn(2, 3, 64, 48), "matrix": torch.eye(2, 3).expand(2, 2, 3)}
    with torch.no_grad():
        plain = model.model(batch["image"])["heatmaps"]
        mirrored = model.model(batch["image"].flip(3))["heatmaps"].flip(3)[:, JOINTS.mirrored]
        expected = model.model.keypoints((plain + mirrored) / 2)
        found = predict(model.model, batch, JOINTS, flip_test=True)
        alone = predict(model.model, batch, JOINTS, flip_test=False)
    for i in range(2):
        torch.testing.assert_close(found[i]["keypoints"], expected[0][i])
        torch.testing.assert_close(alone[i]["keypoints"], model.model.keypoints(plain)[0][i])
    assert not torch.equal(found[0]["keypoints"], alone[0]["keypoints"])


def test_predictions_of_a_loaded_run_are_those_of_training(place):
    data = load_split("figures:10", kind="keypoints")
    args = KeypointArgs(model="test_mat", image_size=48, max_size=64, estimator_args={"channels": 16})
    task, model = args.build(data).eval(), load_keypoints(str(place / "run"))
    task.model.load_state_dict(model.model.state_dict())
    batch = task.stack(
        [task.transform(train=False)({"image": data.picture(0), "name": "", **data.annotation(0)}, dict)]
    )
    for one, other in zip(task.predict(batch), model.predict(batch), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    (boxed,) = model.estimate(data.picture(0), [data.annotation(0)["target"]["box"].tolist()])
    assert torch.equal(boxed["keypoints"], task.predict(batch)[0]["keypoints"])


# Evaluation


@pytest.fixture
def near(monkeypatch):
    """Estimators that find the joints of some body nearly where they are, and detectors that find bodies twice."""

    def joints(self, batch):
        found = []
        for target in batch["target"]:
            rng, truth = np.random.default_rng(target["index"]), target["truth"]
            bodies = truth["keypoints"]
            if bodies is None or not len(bodies):
                bodies, boxes = np.zeros((1, 17, 3)), target["box"][None]
            else:
                boxes = truth["boxes"]
            body = np.abs(boxes - target["box"]).sum(1).argmin()
            places = bodies[body, :, :2] + rng.normal(0, rng.choice([0.2, 0.7, 2]), (17, 2))
            order = [SHUFFLED.index(place) for place in range(17)]  # the model's own
            one = {"keypoints": torch.from_numpy(places).float()[order]}
            found.append(one | {"scores": torch.from_numpy(rng.uniform(0.1, 1, 17)).float()})
        return found

    def boxes(self, batch, threshold=0.0):
        found = []
        for target in batch["target"]:
            rng = np.random.default_rng(target["image_id"])
            corners = target["boxes"].repeat(3, 0)[1:]  # the first one only twice
            corners = corners + rng.normal(0, 0.5, corners.shape)
            labels = torch.from_numpy(rng.integers(0, 4, len(corners)) // 3)  # a quarter are dogs
            scores = torch.from_numpy(np.sort(rng.random(len(corners)))[::-1].astype(np.float32))
            found.append(dict(boxes=torch.from_numpy(corners).float(), labels=labels, scores=scores))
        return found

    monkeypatch.setattr(KeypointModel, "predict", joints)
    monkeypatch.setattr(DetectorModel, "predict", boxes)


def oracle(results):
    known = COCO("data/found.json")
    evaluation = COCOeval(known, known.loadRes(str(results)), "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array([JOINTS.sigmas[place] for place in SHUFFLED])
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("boxes", [[], ["--boxes", "detector"]])
def test_eval_and_its_predictions_agree_with_pycocotools(here, near, capsys, boxes):
    args = ["run", "--data", "data/found.json", "--root", "data/pictures", *boxes]
    answer = json.loads(command(capsys, "eval", *args, "--save-predictions", "out.json", "--json"))
    stats = oracle(here / "out.json")
    names = ("AP", "AP50", "AP75", "APm", "APl", "AR")
    for name, value in zip(names, stats):
        shown = answer["metrics"][name]
        assert shown is None if value == -1 else shown == pytest.approx(100 * value, abs=1e-3), name
    assert 20 < answer["metrics"]["AP"] < 95
    results = json.loads((here / "out.json").read_text())
    entries = json.loads((here / "data" / "found.json").read_text())["annotations"]
    marked = [e for e in entries if e["num_keypoints"] and not e["iscrowd"]]
    if boxes:
        assert len(results) < answer["metrics"]["boxes"]  # what is found twice is left out
        assert answer["metrics"]["pictures"] == 12
        assert all(row["similarity"] is None for row in answer["joints"])
    else:
        assert len(results) == answer["metrics"]["boxes"] == len(marked)
        assert answer["metrics"]["pictures"] == len({e["image_id"] for e in marked})
        assert all(10 < row["similarity"] < 100 for row in answer["joints"])
    assert [row["joint"] for row in answer["joints"]] == [JOINTS.names[place] for place in SHUFFLED]
    assert {e["category_id"] for e in results} == {4}


def test_a_picture_in_which_nothing_is_found_is_a_miss(here, near, capsys, monkeypatch):
    args = ["run", "--data", "data/found.json", "--root", "data/pictures", "--boxes", "detector", "--json"]
    before = json.loads(command(capsys, "eval", *args))["metrics"]
    some = DetectorModel.predict

    def fewer(self, batch, threshold=0.0):
        found = some(self, batch, threshold)
        return [{name: value[: 0 if i % 2 else None] for name, value in one.items()} for i, one in enumerate(found)]

    monkeypatch.setattr(DetectorModel, "predict", fewer)
    after = json.loads(command(capsys, "eval", *args))["metrics"]
    assert after["pictures"] == before["pictures"] == 12
    assert after["AR"] < 0.8 * before["AR"]

    def none(self, batch, threshold=0.0):
        return [{name: value[:0] for name, value in one.items()} for one in some(self, batch, threshold)]

    monkeypatch.setattr(DetectorModel, "predict", none)
    assert json.loads(command(capsys, "eval", *args))["metrics"]["AP"] == 0


def test_boxes_of_a_file_are_those_of_the_detector_that_wrote_it(here, near, capsys):
    """Rounded to a thousandth of a pixel; of other pictures and kinds of things they do not count."""
    common = ["--data", "data/found.json", "--root", "data/pictures"]
    first = json.loads(command(capsys, "eval", "run", *common, "--boxes", "detector", "--json"))
    content = json.loads((here / "data" / "found.json").read_text())
    content["categories"].append(dict(id=9, name="dog"))
    (here / "both.json").write_text(json.dumps(content))
    args = ["--data", "both.json", "--root", "data/pictures", "--save-predictions", "found.json"]
    command(capsys, "eval", "detector", *args)
    results = json.loads((here / "found.json").read_text())
    assert {entry["category_id"] for entry in results} == {4, 9}
    (here / "found.json").write_text(json.dumps([*results, results[0] | {"image_id": 5}, {"image_id": "x"}]))
    second = json.loads(command(capsys, "eval", "run", *common, "--boxes", "found.json", "--json"))
    assert second["metrics"] == pytest.approx(first["metrics"], abs=0.5)
    assert second["metrics"]["boxes"] == first["metrics"]["boxes"]


BOX = '"image_id": 900, "category_id": 4'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "no JSON: Expecting value"),
        ("{}", "boxes.json holds no results of a detector: expected a list of objects"),
        ("[]", "boxes.json has no box of person in any of the pictures"),
        ('[{"image_id": 900, "category_id": 5, "bbox": [1, 2, 3, 4], "score": 1}]', "has no box of person in any"),
        (f'[{{{BOX}, "bbox": [1, 2, 3], "score": 1}}]', "result number 1: bbox must be four finite numbers"),
        (f'[{{{BOX}, "bbox": [1, 2, 3, 0], "score": 1}}]', "the latter above 0, got [1, 2, 3, 0]"),
        (f'[{{{BOX}, "bbox": [1, 2, 3, 4]}}]', "result number 1: score must be a number, got None"),
    ],
)
def test_bad_boxes_of_a_file(here, capsys, content, said):
    (here / "boxes.json").write_text(content)
    args = ["--data", "data/found.json", "--root", "data/pictures", "--boxes", "boxes.json"]
    assert said in refused(capsys, "eval", "run", *args)


def test_eval_prints_tables(here, near, capsys):
    out = command(capsys, "eval", "run", "--data", "figures:100", "--batch-size", "4")
    assert "10 pictures, 17 boxes as they are marked" in out
    assert "run: 17 joints, 64x48 px" in out
    assert "worst joints" in out
    assert len([line for line in out.splitlines() if any(name in line for name in JOINTS.names)]) == 5
    out = command(capsys, "eval", "run", "--data", "figures:100", "--per-class")
    assert len([line for line in out.splitlines() if any(name in line for name in JOINTS.names)]) == 17
    out = command(capsys, "eval", "run", "--data", "figures:100", "--boxes", "detector")
    assert "found by detector" in out
    assert "joints\n" not in out


def test_eval_skips_and_lists_what_is_wrong(here, near, capsys, tmp_path):
    content = json.loads((here / "data" / "found.json").read_text())
    content["annotations"][0]["keypoints"] = [1, 2, 2]
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    args = ["eval", "run", "--data", "wrong.json", "--root", "data/pictures"]
    assert "annotation id 1 (image id 900, file 0.png): keypoints has 3 numbers" in refused(capsys, *args)
    assert main([*args, "--on-bad-image", "skip"]) == 0
    assert "left out: wrong.json: annotation id 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("run --data scenes", "unknown data set or folder 'scenes'; nearest: figures"),
        ("three --data figures:10", "the classes differ; only three has a, b, c; only the data"),
        ("run --data figures:10 --boxes run", "run holds no detector, but a model for keypoints"),
        (
            "run --data figures:10 --boxes nowhere",
            "no such folder: nowhere; expected the folder of a run of a detector",
        ),
        (
            "run --data figures:10 --boxes cars",
            "cars finds no bodies of the data: it finds car, dog; the data has person",
        ),
        ("run --data figures:10 --confusion c.png", "--confusion: no effect on a keypoint estimator"),
        ("run --data figures:10 --slide 64", "--slide: no effect on a keypoint estimator"),
        ("detector --data figures:10 --boxes detector", "--boxes: no effect on a detector"),
        ("run --data figures:10 --save-predictions out.txt", "cannot write out.txt: expected a .json file"),
    ],
)
def test_bad_input_of_eval(here, capsys, args, said):
    assert said in refused(capsys, "eval", *args.split())


# Prediction


def test_predictions_are_those_of_python(here, capsys):
    found = lines(capsys, "run", "files/a.png", "files/b.JPG")
    model = load_keypoints("run")
    for line, name in zip(found, ["a.png", "b.JPG"], strict=True):
        picture = Image.open(f"files/{name}").convert("RGB")
        (body,) = model.estimate(picture, [(0, 0, picture.width, picture.height)])
        assert line["joints"] == list(JOINTS.names)
        assert line["boxes"] == [[0, 0, picture.width, picture.height]]
        assert (line["labels"], line["scores"]) == (["body"], [1.0])
        assert np.array(line["keypoints"][0])[:, :2] == pytest.approx(body["keypoints"].numpy(), abs=1e-3)
        assert np.array(line["keypoints"][0])[:, 2] == pytest.approx(body["scores"].numpy(), abs=1e-5)


def test_boxes_of_a_detector(here, capsys):
    (line,) = lines(capsys, "run", "files/a.png", "--boxes", "detector", "--threshold", "0.1")
    from foveal import load_detector

    picture = Image.open("files/a.png").convert("RGB")
    (found,) = load_detector("detector").detect([picture], 0.1)
    solid = (found["boxes"][:, 2:] > found["boxes"][:, :2]).all(1)
    people = (found["labels"] == 0) & solid
    assert 0 < people.sum() < solid.sum() < len(solid)
    assert np.array(line["boxes"]) == pytest.approx(found["boxes"][people].numpy(), abs=1e-3)
    assert line["labels"] == ["person"] * int(people.sum())
    bodies = load_keypoints("run").estimate(picture, found["boxes"][people].tolist())
    expected = torch.stack([body["keypoints"] for body in bodies]).numpy()
    assert np.array(line["keypoints"])[:, :, :2] == pytest.approx(expected, abs=1e-3)
    (none,) = lines(capsys, "run", "files/a.png", "--boxes", "detector", "--threshold", "1")
    assert none["boxes"] == none["keypoints"] == []


def test_drawings(here, capsys):
    out = command(capsys, "predict", "run", "files", "--boxes", "detector", "--threshold", "0.1", "--out", "drawn")
    assert "drawn in drawn" in out
    assert "person" in out
    assert sorted(str(p.relative_to(here / "drawn")) for p in (here / "drawn").rglob("*.*")) == [
        "a.png",
        "b.JPG",
        "sub/c.webp",
        "sub/v.mp4",
    ]
    assert np.asarray(Image.open("drawn/a.png")).any()
    assert not np.array_equal(np.asarray(Image.open("drawn/a.png")), np.asarray(Image.open("files/a.png")))


def test_bodies_are_drawn():
    picture = Image.new("RGB", (120, 90))
    keypoints = torch.tensor([[20.0, 20.0], [60.2, 20.4], [60.0, 70.0], [100.0, 70.0]])
    body = {"keypoints": keypoints, "scores": torch.tensor([0.9, 0.5, 0.3, 0.1])}
    drawn = np.asarray(draw_bodies(picture, [body], [(0, 1), (1, 2), (2, 3)]))
    assert tuple(drawn[20, 20]) == tuple(drawn[20, 60]) == colour(0)
    assert drawn[20, 40].all()  # the line between them
    assert not drawn[60:80, 85:].any()  # the last one is doubtful
    assert not np.asarray(picture).any()
    assert np.array_equal(np.asarray(draw_bodies(picture, [], [])), np.asarray(picture))
    two = np.asarray(draw_bodies(picture, [body, body], []))
    assert tuple(two[20, 20]) == colour(0)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("run files --threshold 0.4", "--threshold: no effect on a keypoint estimator without --boxes"),
        ("run files --top 2", "--top: no effect on a keypoint estimator"),
        ("run files --boxes cars", "cars finds no bodies: it finds car, dog; run knows person"),
        ("cats files --boxes detector", "detector finds no bodies: it finds person, dog; cats knows cat"),
        ("run files --boxes detector --threshold 2", "threshold must be in [0, 1], got 2"),
        ("detector files --boxes detector", "--boxes: no effect on a detector"),
        ("run nothing.png", "no such file"),
    ],
)
def test_bad_input_of_predict(here, capsys, args, said):
    assert said in refused(capsys, "predict", *args.split())


# Python


def test_python_takes_any_picture(place):
    model = load_keypoints(str(place / "run"), image_size=64, max_size=64)
    for mode, size in [("L", (30, 50)), ("RGBA", (300, 20)), ("P", (1, 1))]:
        bodies = model.estimate(Image.new(mode, size), [(0, 0, *size), (-5, -5, 400, 300)])
        assert [body["keypoints"].shape for body in bodies] == [(17, 2)] * 2
    assert model.estimate(Image.new("RGB", (8, 8)), []) == []
    with pytest.raises(UserError, match="a box must have width and height, got"):
        model.estimate(Image.new("RGB", (8, 8)), [(3, 3, 3, 8)])


def test_what_loading_refuses(place):
    with pytest.raises(UserError, match="multiples of 4, got 50"):
        load_keypoints(str(place / "run"), image_size=50, max_size=64)
    with pytest.raises(UserError, match="detector holds no estimator, but a model for detection"):
        load_keypoints(str(place / "detector"))


def test_what_a_run_refuses():
    data, _ = load_data("figures:4", kind="keypoints")
    args = KeypointArgs(model="test_mat")
    for changed, said in [
        (dict(image_size=190), "image-size and max-size must be multiples of 4, got 190"),
        (dict(estimator="simple"), "unknown estimator 'simple'; nearest: simple_baseline"),
        (dict(image_size=260), "max-size must not be below image-size"),
    ]:
        with pytest.raises(UserError, match=said):
            replace(args, **changed)
    mouse = SimpleNamespace(joints=Joints(("snout", "tail"), (), (), (0.1, 0.1)), categories=["mouse"])
    with pytest.raises(UserError, match="half-body needs joints named hip, knee or ankle, which the data"):
        args.build(mouse).check(mouse, train=True)
    args.build(mouse).check(mouse, train=False)
    replace(args, augment=JointAugment(half_body=0.0)).build(mouse).check(mouse, train=True)
    args.build(data).check(data, train=True)


def test_crops_of_a_detector_are_samples():
    data = load_split("figures:20", kind="keypoints")
    found = data.at([Crop(1, None, (3.0, 4.0, 50.0, 60.0), 0, 0.7)])
    task = KeypointArgs(model="test_mat", image_size=48, max_size=64).build(data)
    sample = {"image": found.picture(0), "name": found.name(0), **found.annotation(0)}
    batch = task.stack([task.transform(train=False)(sample, dict)])
    metric = task.metric()
    metric.update(task.eval().predict(batch), batch)
    assert len(metric.kept(data.truth(1)["image_id"])) == 1
