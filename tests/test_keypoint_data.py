"""COCO's keypoints: what is read, one body in each sample, and what is found wrong."""

import copy
import json
from typing import Any

import pytest
from pycocotools.coco import COCO

from foveal._errors import UserError
from foveal.cli import main
from foveal.data import Crop, MarkedBodies, Unreadable, load_data, load_parts
from foveal.data.coco import read_coco
from test_detection_data import H, W, edit, picture, store

NAMES = ["head", "left_paw", "right_paw", "tail"]
HIDDEN = [5, 6, 1, 12, 8, 2, 0, 0, 0, 30, 40, 2]
SEEN = [20, 10, 2, 21, 11, 2, 22, 12, 2, 23, 13, 2]


def body(number: int, image_id: int = 1, keypoints: Any = SEEN, category_id: int = 3, **more: Any) -> dict:
    entry = dict(id=number, image_id=image_id, category_id=category_id, bbox=[4, 5, 30, 40], area=300.0, iscrowd=0)
    entry |= dict(keypoints=list(keypoints), num_keypoints=sum(v > 0 for v in keypoints[2::3]))
    return entry | more


def content() -> dict[str, list]:
    """Cats and dogs with joints, a tree without; a crowd, a body without a marked joint, a picture without a body."""
    kind = dict(keypoints=NAMES, skeleton=[[1, 2], [1, 3], [1, 4]])
    return {
        "images": [dict(id=i, file_name=f"{name}.png", height=H, width=W) for i, name in enumerate("abc", start=1)],
        "categories": [
            dict(id=7, name="dog") | kind,
            dict(id=3, name="cat") | kind,
            dict(id=5, name="tree"),
        ],
        "annotations": [
            body(11, keypoints=HIDDEN),
            body(12, category_id=7),
            body(13, keypoints=[0] * 12),
            body(14, 2, [0] * 12, iscrowd=1),
            dict(id=15, image_id=2, category_id=5, bbox=[0, 0, 10, 10], area=100, iscrowd=0),
            body(16, 2),
        ],
    }


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    return tmp_path


def bodies(file) -> MarkedBodies:
    data, _ = load_parts(str(file), kind="keypoints")
    assert isinstance(data, MarkedBodies)
    return data


def test_bodies_are_read(folder):
    data = bodies(store(folder, content()))
    assert data.classes == NAMES
    assert data.categories == ["cat", "dog"]
    assert data.joints.skeleton == ((0, 1), (0, 2), (0, 3))
    assert data.joints.flip_pairs == ((1, 2),)
    assert data.joints.sigmas == (0.079,) * 4
    assert list(data.crops) == [Crop(0, 0), Crop(0, 1), Crop(1, 1)]
    assert [data.name(i) for i in range(3)] == [
        f"{folder}/a.png, body 0",
        f"{folder}/a.png, body 1",
        f"{folder}/b.png, body 1",
    ]
    assert data.picture(2).size == (W, H)
    target = data.annotation(1)["target"]
    assert target["box"].tolist() == [4, 5, 34, 45]
    assert target["keypoints"].flatten().tolist() == SEEN
    assert (target["label"], target["score"], target["index"]) == (1, 1.0, 1)
    truth = target["truth"]
    assert truth["image_id"] == 1
    assert truth["keypoints"].shape == (3, 4, 3)
    assert truth["labels"].tolist() == [0, 1, 0]
    assert data.annotation(2)["target"]["truth"]["crowd"].tolist() == [True, False]


def test_agrees_with_pycocotools(folder, capsys):
    file = store(folder, content())
    data, theirs = bodies(file), COCO(file)
    capsys.readouterr()  # it prints
    for picture_number, objects in enumerate(data.marked.objects):
        annotations = theirs.loadAnns(theirs.getAnnIds(objects.image_id, catIds=[3, 7]))
        assert len(annotations) == len(objects)
        for i, its in enumerate(annotations):
            assert objects.keypoints[i].flatten().tolist() == its["keypoints"]
            assert objects.area[i] == its["area"]
        assert data.objects(picture_number) is objects


def test_detection_reads_the_same_file_without_joints(folder):
    marked = read_coco(store(folder, content()))
    assert marked.classes == ["cat", "tree", "dog"]
    assert marked.joints is None
    assert all(objects.keypoints is None for objects in marked.objects)


def test_boxes_of_a_detector(folder):
    data = bodies(store(folder, content()))
    found = data.at([Crop(2, None, (1.0, 2.0, 9.0, 8.0), 1, 0.5), Crop(0, None, (0, 0, 5, 5))])
    assert (len(found), len(data)) == (2, 3)
    target = found.annotation(0)["target"]
    assert target["box"].tolist() == [1, 2, 9, 8]
    assert (target["label"], target["score"], target["index"]) == (1, 0.5, 0)
    assert "keypoints" not in target
    assert target["truth"]["image_id"] == 3
    assert target["truth"]["keypoints"] is None  # a picture without a body
    assert found.name(1) == f"{folder}/a.png, box 1"


def test_flip_pairs_and_sigmas_of_the_data(folder):
    data = content()
    for category in data["categories"][:2]:
        category |= {"flip_pairs": [[1, 4]], "sigmas": [0.1, 0.2, 0.3, 1]}
    joints = bodies(store(folder, data)).joints
    assert joints.flip_pairs == ((0, 3),)
    assert joints.sigmas == (0.1, 0.2, 0.3, 1.0)
    for category in data["categories"][:2]:
        category |= {"flip_pairs": []}
    assert bodies(store(folder, data)).joints.flip_pairs == ()


FIRST = "annotation id 11 (image id 1, file a.png)"


def keypoints(value: Any):
    return edit("annotations", 0, "keypoints", value=value)


WRONG_ANNOTATIONS = {
    "missing": (edit("annotations", 0, "keypoints"), "keypoints must be a list of finite numbers, got None"),
    "text": (keypoints("1 2 2"), "keypoints must be a list of finite numbers, got '1 2 2'"),
    "nan": (keypoints([float("nan"), *SEEN[1:]]), "keypoints must be a list of finite numbers, got [nan"),
    "bool": (keypoints([True, *SEEN[1:]]), "keypoints must be a list of finite numbers"),
    "few": (keypoints(SEEN[:9]), "keypoints has 9 numbers; expected x, y and visibility of 4 joints"),
    "many": (keypoints(SEEN * 2), "keypoints has 24 numbers; expected x, y and visibility of 4 joints"),
    "pairs": (keypoints([v for i, v in enumerate(SEEN) if i % 3 < 2]), "keypoints has 8 numbers"),
    "visibility": (keypoints([*SEEN[:5], 3, *SEEN[6:]]), "the visibility of left_paw is 3; expected 0 (not marked)"),
    "share": (keypoints([*SEEN[:2], 0.9, *SEEN[3:]]), "the visibility of head is 0.9; expected 0 (not marked)"),
    "outside": (keypoints([W + 2, *SEEN[1:]]), "head at (66, 10) is out of the picture, which is 64x48"),
    "above": (keypoints([*SEEN[:-2], -3, 1]), "tail at (23, -3) is out of the picture"),
    "box": (edit("annotations", 0, "bbox", value=[50, 5, 30, 40]), "the box (50, 5, 80, 45) sticks out of the picture"),
}


@pytest.mark.parametrize("case", WRONG_ANNOTATIONS)
def test_a_wrong_annotation(folder, case):
    change, reason = WRONG_ANNOTATIONS[case]
    data = content()
    change(data)
    file = store(folder, data)
    (problem,) = read_coco(file, keypoints=True).problems
    assert (problem.file, problem.where) == (file, FIRST)
    assert problem.reason.startswith(reason)
    with pytest.raises(UserError, match="--on-bad-image skip"):
        load_data(str(file), kind="keypoints")
    train, val = load_data(str(file), kind="keypoints", skip=True)
    assert len(train) + len(val) == 2
    assert [p.where for p in train.problems] == [FIRST]


def test_what_is_no_problem(folder):
    """Joints that are not marked may be anywhere, crowds need none, and an edge is not outside."""
    data = content()
    data["annotations"][0]["keypoints"] = [W, H, 2, -1, -1, 1, 999, -999, 0, 0, 0, 0]
    del data["annotations"][3]["keypoints"]
    marked = read_coco(store(folder, data), keypoints=True)
    assert marked.problems == []
    assert not marked.objects[1].keypoints[0].any()


WRONG_CATEGORIES = {
    "none": (edit("categories", 0, value=dict(id=7, name="dog")), edit("categories", 1, value=dict(id=3, name="cat"))),
    "names": (edit("categories", 0, "keypoints", value="head"),),
    "empty": tuple(edit("categories", i, "keypoints", value=[]) for i in (0, 1)),
    "blank": (edit("categories", 0, "keypoints", value=["a", " ", "b", "c"]),),
    "twice": (edit("categories", 1, "keypoints", value=["a", "b", "c", "a"]),),
    "others": (edit("categories", 0, "keypoints", value=["a", "b", "c", "d"]),),
    "skeleton": (edit("categories", 0, "skeleton", value=[[0, 1]]),),
    "triple": (edit("categories", 0, "skeleton", value=[[1, 2, 3]]),),
    "no list": (edit("categories", 0, "skeleton", value=5),),
    "flip": (edit("categories", 0, "flip_pairs", value=[[1, 2], [2, 3]]),),
    "self": (edit("categories", 0, "flip_pairs", value=[[2, 2]]),),
    "sigmas": (edit("categories", 0, "sigmas", value=[0.1]),),
    "zero": (edit("categories", 0, "sigmas", value=[0.1, 0, 0.1, 0.1]),),
}
SAID = {
    "none": "categories: none has a list of keypoints, the names of its joints",
    "names": "category id 7: keypoints must be a list of names, got 'head'",
    "empty": "categories: none has a list of keypoints, the names of its joints",
    "blank": "category id 7: keypoints must be a list of names",
    "twice": "category id 3: two of its keypoints are called a",
    "others": "category id 3: its joints are not those of the other categories",
    "skeleton": r"category id 7: skeleton must be pairs of joints, with numbers from 1 to 4, got \[0, 1\]",
    "triple": r"category id 7: skeleton must be pairs of joints, with numbers from 1 to 4, got \[1, 2, 3\]",
    "no list": "category id 7: skeleton must be pairs of joints, with numbers from 1 to 4, got 5",
    "flip": "category id 7: a joint is in two of its flip_pairs, or with itself in one",
    "self": "category id 7: a joint is in two of its flip_pairs, or with itself in one",
    "sigmas": r"category id 7: sigmas must be 4 numbers above 0, got \[0.1\]",
    "zero": r"category id 7: sigmas must be 4 numbers above 0, got \[0.1, 0",
}


@pytest.mark.parametrize("case", WRONG_CATEGORIES)
def test_wrong_joints(folder, case):
    data = content()
    for change in WRONG_CATEGORIES[case]:
        change(data)
    with pytest.raises(Unreadable, match=SAID[case]):
        load_parts(str(store(folder, data)), kind="keypoints", skip=True)


def test_a_category_without_joints_is_passed_over(folder):
    """As some tools write those of labels for boxes."""
    data = content()
    data["categories"].append({"id": 9, "name": "box", "keypoints": [], "skeleton": []})
    bodies, _ = load_parts(str(store(folder, data)), kind="keypoints")
    assert bodies.problems == []
    assert "box" not in bodies.categories


def test_no_body_has_a_marked_joint(folder):
    data = content()
    data["annotations"] = [body(1, keypoints=[0] * 12), body(2, 2, keypoints=[0] * 12)]
    with pytest.raises(UserError, match=r"data.json has no body with a marked joint"):
        load_data(str(store(folder, data)), kind="keypoints")


def keypoint_folder(root, **changes):
    for part in ("train2017", "val2017"):
        for letter in "abc":
            picture(root / part / f"{letter}.png")
        data = content() | (changes if part == "val2017" else {})
        store(root, data, f"annotations/person_keypoints_{part}.json")
    return root


def test_a_folder_as_coco_has_it(tmp_path):
    train, val = load_data(str(keypoint_folder(tmp_path)), kind="keypoints")
    assert train.name(0) == f"{tmp_path}/train2017/a.png, body 0"
    assert val.name(0) == f"{tmp_path}/val2017/a.png, body 0"
    with pytest.raises(UserError, match="holds no data for detection"):
        load_data(str(tmp_path), kind="detection")


def test_both_parts_must_have_the_same_joints(tmp_path):
    categories = copy.deepcopy(content()["categories"])
    categories[0]["sigmas"] = categories[1]["sigmas"] = [0.1] * 4
    with pytest.raises(Unreadable, match=r"person_keypoints_val2017.json: categories: their joints are not those of"):
        load_data(str(keypoint_folder(tmp_path, categories=categories)), kind="keypoints")


def test_a_tenth_of_the_pictures_is_held_out(tmp_path):
    """Whole pictures, not bodies."""
    data = content()
    data["images"] = [data["images"][0] | {"id": i, "file_name": f"{i}.png"} for i in range(1, 26)]
    data["annotations"] = [body(2 * i + j, i) for i in range(1, 26) for j in (0, 1)]
    for i in range(1, 26):
        picture(tmp_path / f"{i}.png")
    train, val = load_data(str(store(tmp_path, data)), kind="keypoints")
    assert [objects.image_id for objects in val.marked.objects] == [1, 11, 21]
    assert (len(train), len(val)) == (44, 6)


def test_each_part_needs_a_body(folder):
    """The picture that is held out has none, though the data has some."""
    data = content()
    data["annotations"] = [body(11, 2), body(12, 3)]
    with pytest.raises(UserError, match=r"the tenth that is held out of .* has no body with a marked joint"):
        load_data(str(store(folder, data)), kind="keypoints")


def test_pictures_lie_elsewhere(folder, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    train, val = load_data(str(store(other, content())), folder, str(other / "data.json"), kind="keypoints")
    assert len(train) == len(val) == 3
    with pytest.raises(UserError, match="none of its 3 pictures is in"):
        load_data(str(other / "data.json"), kind="keypoints")


# foveal data check


def checked(capsys, *args) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["data", "check", *map(str, args), "--kind", "keypoints"])
    answer = capsys.readouterr()
    assert answer.err == ""
    return code, answer.out


def test_check_of_right_data(folder, capsys):
    code, out = checked(capsys, store(folder, content()), "--json")
    answer = json.loads(out)
    assert (code, answer["problems"], answer["kind"]) == (0, [], "keypoints")
    summary = answer["parts"]["train"]
    assert (summary["pictures"], summary["pictures_without_objects"], summary["objects"]) == (3, 1, 5)
    assert (summary["crowd"], summary["objects_without_marked_joint"]) == (1, 1)
    assert summary["classes"] == {"cat": 4, "dog": 1}
    assert summary["joints"] == {"head": 3, "left_paw": 3, "right_paw": 2, "tail": 3}
    code, out = checked(capsys, store(folder, content()))
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert {"objects without marked joint 1", "joint right_paw 2", "class dog 1", "problems: none"} <= {*rows}


def test_check_of_figures(capsys):
    code, out = checked(capsys, "figures:8x64", "--json")
    parts = json.loads(out)["parts"]
    assert code == 0
    assert (parts["train"]["pictures"], parts["train"]["objects"], parts["val"]["objects"]) == (8, 14, 1)
    assert 10 <= parts["train"]["joints"]["nose"] <= 14


def test_a_cleaned_copy_has_what_is_right(folder, capsys, tmp_path):
    data = content()
    data["annotations"][0]["keypoints"] = SEEN[:9]
    code, out = checked(capsys, store(folder, data), "--clean", folder / "clean.json")
    assert code == 1
    assert f"{FIRST}: keypoints has 9 numbers" in out
    code, _ = checked(capsys, folder / "clean.json")
    assert code == 0
    clean = json.loads((folder / "clean.json").read_text())
    assert [entry["id"] for entry in clean["annotations"]] == [12, 13, 14, 16]
    assert clean["annotations"][0]["keypoints"] == SEEN
    assert [entry["name"] for entry in clean["categories"]] == ["cat", "dog"]
    assert clean["categories"][0]["keypoints"] == NAMES
    code, _ = checked(capsys, keypoint_folder(tmp_path / "parts"), "--clean", tmp_path / "cleaned")
    assert code == 0
    assert sorted(file.name for file in (tmp_path / "cleaned" / "annotations").iterdir()) == [
        "person_keypoints_train.json",
        "person_keypoints_val.json",
    ]
