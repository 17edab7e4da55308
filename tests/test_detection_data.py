"""Formats of detection: what is read, what is found wrong and where, and cleaned copies."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from foveal._errors import UserError
from foveal.cli import main
from foveal.data import BadImage, Unreadable, decode_mask, load_data, load_parts, load_split, size_problems, write_coco
from foveal.data.coco import check_mask, read_coco, run_lengths

W, H = 64, 48
TRIANGLE = [10, 10, 30, 10, 10, 40]


def picture(path, width=W, height=H):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def region(y1, y2, x1, x2):
    mask = np.zeros((H, W), np.uint8)
    mask[y1:y2, x1:x2] = 1
    return mask


def runs(mask):
    """The uncompressed run-length code: lengths down the columns, of zeros first."""
    flat = np.concatenate([[0], mask.flatten("F"), [2]])
    change = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], change])).tolist()
    return {"size": [*mask.shape], "counts": counts}


def compressed(mask):
    code = coco_masks.encode(np.asfortranarray(mask))
    return {"size": code["size"], "counts": code["counts"].decode()}


def entry(number, image_id=1, category_id=3, bbox=(10, 10, 20, 30), **more):
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": list(bbox), "area": 300.0, **more}


def content():
    """Two classes; a picture with polygons, one with both run-length codes and a crowd, one without objects."""
    return {
        "info": {"year": 2020},
        "images": [
            {"id": i, "file_name": f"{name}.png", "height": H, "width": W, "license": 4}
            for i, name in enumerate("abc", start=1)
        ],
        "categories": [{"id": 7, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "cat"}],
        "annotations": [
            entry(11, segmentation=[[*TRIANGLE]], iscrowd=0, keypoints=[1, 2, 2]),
            entry(
                12, category_id=7, bbox=(2, 3, 8, 7), segmentation=[[2, 3, 10, 3, 10, 10, 2, 10], [3, 4, 9, 4, 9, 9]]
            ),
            entry(13, 2, bbox=(5, 6, 20, 10), segmentation=runs(region(6, 16, 5, 25)), iscrowd=1),
            entry(14, 2, 7, (40, 0, 24, 48), segmentation=compressed(region(0, 48, 40, 64))),
        ],
    }


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    return tmp_path


def store(folder, data, name="data.json"):
    return write(folder / name, json.dumps(data))


def labels(data):
    return [[data.classes[label] for label in objects.labels] for objects in data.objects]


# COCO


def test_coco_is_read(folder):
    data = read_coco(store(folder, content()))
    assert data.problems == data.mended == []
    assert (data.classes, data.category_ids) == (["cat", "dog"], [3, 7])
    assert [data.name(index) for index in range(3)] == [str(folder / f"{name}.png") for name in "abc"]
    assert labels(data) == [["cat", "dog"], ["cat", "dog"], []]
    assert [objects.crowd.tolist() for objects in data.objects] == [[False, False], [True, False], []]
    assert [objects.image_id for objects in data.objects] == [1, 2, 3]
    assert {objects.size for objects in data.objects} == {(H, W)}
    assert data.has_masks
    assert data.picture(0).size == (W, H)
    target = data.annotation(1)["target"]
    assert target["boxes"].tolist() == [[5, 6, 25, 16], [40, 0, 64, 48]]
    assert target["labels"].dtype == np.int64
    assert data.annotation(2)["target"]["boxes"].shape == (0, 4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools itself
def test_coco_agrees_with_pycocotools(folder, capsys):
    file = store(folder, content())
    data, theirs = read_coco(file), COCO(file)
    capsys.readouterr()  # it prints
    assert data.category_ids == theirs.getCatIds(catNms=["cat"]) + theirs.getCatIds(catNms=["dog"])
    for objects in data.objects:
        annotations = theirs.loadAnns(theirs.getAnnIds(objects.image_id))
        assert len(annotations) == len(objects)
        for i, its in enumerate(annotations):
            x, y, w, h = its["bbox"]
            assert objects.boxes[i].tolist() == [x, y, x + w, y + h]
            assert data.category_ids[objects.labels[i]] == its["category_id"]
            assert objects.crowd[i] == its.get("iscrowd", 0)
            assert objects.area[i] == its["area"]
            mask = decode_mask(objects.segmentations[i], objects.size)
            assert mask.dtype == bool
            assert np.array_equal(mask, theirs.annToMask(its).astype(bool))
            assert mask.any()


def test_decode_mask_forms():
    mask = region(6, 16, 5, 25)
    code = coco_masks.encode(np.asfortranarray(mask))
    for form in (runs(mask), compressed(mask), code, mask.astype(bool)):
        assert np.array_equal(decode_mask(form, (H, W)), mask.astype(bool))


def test_decode_mask_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core", None)
    with pytest.raises(UserError, match=r"pip install 'foveal\[coco\]'"):
        decode_mask([TRIANGLE], (H, W))


@pytest.mark.parametrize("seed", range(20))
def test_runs_agree_with_pycocotools(seed):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 60, 2)
    mask = (rng.random(size) < rng.choice([0.02, 0.5, 0.98])).astype(np.uint8)
    mask[rng.integers(size[0]), rng.integers(size[1])] = 1
    code = coco_masks.encode(np.asfortranarray(mask))
    expected = runs(mask)["counts"]
    assert run_lengths(code["counts"].decode()).tolist() == expected
    x, y, w, h = coco_masks.toBbox(code)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert check_mask({"size": [*map(int, size)], "counts": expected}, tuple(map(int, size)), box) == mask.sum()
    assert [x, x + w] == [box[0], box[2]]
    assert y <= box[1]
    assert y + h >= box[3]


def test_area_of_a_polygon_where_none_is_stated(folder):
    data = content()
    for its in data["annotations"]:
        del its["area"]
    found = read_coco(store(folder, data))
    assert [area for objects in found.objects for area in objects.area] == [300, 56 + 15, 200, 24 * 48]


def edit(*path, **changes):
    """A change of content at a path; without ``value`` what is there is deleted."""

    def apply(data):
        *way, last = path
        for key in way:
            data = data[key]
        if changes:
            data[last] = changes["value"]
        else:
            del data[last]

    return apply


def box(*bbox):
    return edit("annotations", 0, "bbox", value=list(bbox))


def mask(value):
    return edit("annotations", 0, "segmentation", value=value)


def again(name, place, /, **changes):
    def apply(data):
        data[name].append(copy.deepcopy(data[name][place]) | changes)

    return apply


FIRST = "annotation id 11 (image id 1, file a.png)"
KEPT = [["dog"], ["cat", "dog"], []]  # what is left without that
WRONG_ANNOTATIONS = {
    "left": (box(-2, 10, 20, 30), "the box (-2, 10, 18, 40) sticks out of the picture, which is 64x48"),
    "right": (box(50, 10, 20, 30), "sticks out of the picture"),
    "below": (box(10, 30, 20, 30), "sticks out of the picture"),
    "beside": (box(64.2, 10, 0.5, 30), "sticks out of the picture"),
    "zero": (box(10, 10, 0, 30), "the box is 0 wide and 30 high; both must be above 0"),
    "nearly zero": (box(10, 10, 1e-9, 30), "both must be above 0"),
    "negative": (box(30, 40, -20, -30), "the box is -20 wide and -30 high"),
    "nan": (box(float("nan"), 10, 20, 30), "bbox must be four finite numbers, x, y, width and height, got [nan"),
    "infinite": (box(10, 10, float("inf"), 30), "bbox must be four finite numbers"),
    "huge": (box(10, 10, 10**400, 30), "bbox must be four finite numbers"),
    "bool": (box(True, 10, 20, 30), "bbox must be four finite numbers"),
    "text": (box("10", 10, 20, 30), "bbox must be four finite numbers"),
    "three": (box(10, 10, 20), "bbox must be four finite numbers"),
    "no box": (edit("annotations", 0, "bbox"), "bbox must be four finite numbers"),
    "odd polygon": (mask([[10, 10, 30, 10, 10, 40, 5]]), "a polygon has 7 numbers; expected three pairs"),
    "short polygon": (mask([[10, 10, 30, 40]]), "a polygon has 4 numbers"),
    "flat polygon": (mask(TRIANGLE), "a polygon must be a list of finite numbers, got 10"),
    "polygon of text": (mask([["10", *TRIANGLE[1:]]]), "a polygon must be a list of finite numbers"),
    "nan polygon": (mask([[float("nan"), *TRIANGLE[1:]]]), "a polygon must be a list of finite numbers"),
    "polygon outside": (mask([[10, 10, 70, 10, 10, 40]]), "the mask sticks out of the picture, which is 64x48"),
    "polygon elsewhere": (mask([[40, 2, 60, 2, 60, 10]]), "the mask is elsewhere than bbox: their corners are (40, 2"),
    "mask of text": (mask("10 10 30 10"), "segmentation must be polygons or a run-length code"),
    "size": (mask({"size": [W, H], "counts": [H * W]}), "the mask is for height and width [64, 48], the picture has"),
    "sum": (
        mask({"size": [H, W], "counts": [500, 20]}),
        "the mask's counts add up to 520 pixels, the picture has 3072",
    ),
    "negative count": (mask({"size": [H, W], "counts": [-1, 3073]}), "counts must be whole numbers up to 3072"),
    "half a count": (mask({"size": [H, W], "counts": [0.5, 3071.5]}), "counts must be whole numbers"),
    "no counts": (mask({"size": [H, W]}), "counts must be whole numbers up to 3072, or text, got None"),
    "no pixel": (mask({"size": [H, W], "counts": [H * W]}), "the mask has no pixel"),
    "compressed sum": (
        mask(compressed(region(6, 16, 5, 25)) | {"counts": compressed(region(6, 16, 5, 25))["counts"][:-3]}),
        "the mask's counts",
    ),
    "cut code": (mask({"size": [H, W], "counts": "`"}), "counts are no compressed run-length code: '`'"),
    "no code": (mask({"size": [H, W], "counts": "é!"}), "counts are no compressed run-length code"),
    "empty code": (mask({"size": [H, W], "counts": ""}), "counts are no compressed run-length code"),
    "long code": (mask({"size": [H, W], "counts": "o" * 20 + "0"}), "counts are no compressed run-length code"),
    "negative code": (mask({"size": [H, W], "counts": "O"}), "counts have a negative length"),
    "category": (edit("annotations", 0, "category_id", value=4), "no category has the id 4, or it is wrong; expected"),
    "bool category": (
        edit("annotations", 0, "category_id", value=True),
        "category_id must be a whole number, got True",
    ),
    "text category": (edit("annotations", 0, "category_id", value="3"), "category_id must be a whole number, got '3'"),
    "crowd": (edit("annotations", 0, "iscrowd", value=2), "iscrowd must be 0 or 1, got 2"),
    "bool crowd": (edit("annotations", 0, "iscrowd", value=True), "iscrowd must be 0 or 1, got True"),
    "area": (edit("annotations", 0, "area", value=-1), "area must be a number of square pixels, got -1"),
    "text area": (edit("annotations", 0, "area", value="9"), "area must be a number of square pixels, got '9'"),
}


@pytest.mark.parametrize("case", WRONG_ANNOTATIONS)
def test_a_wrong_annotation_of_coco(folder, case):
    change, reason = WRONG_ANNOTATIONS[case]
    data = content()
    change(data)
    file = store(folder, data)
    found = read_coco(file)
    (problem,) = found.problems
    assert (problem.file, problem.where) == (file, FIRST)
    assert reason in problem.reason
    assert labels(found) == KEPT
    with pytest.raises(UserError) as error:
        load_data(str(file), kind="detection")
    assert str(error.value).startswith(f"{file}: {FIRST}: ")
    assert f"foveal data check {file} lists them" in str(error.value)
    assert "--on-bad-image skip" in str(error.value)


@pytest.mark.parametrize(
    ("change", "where", "reason", "left"),
    [
        (edit("annotations", 0, value=7), "annotation number 1", "expected an object with id, image_id", KEPT),
        (
            edit("annotations", 0, "id"),
            "annotation number 1 (image id 1, file a.png)",
            "id must be a whole number",
            KEPT,
        ),
        (edit("annotations", 0, "id", value=True), "annotation number 1 (", "must be a whole number, got True", KEPT),
        (edit("annotations", 0, "image_id", value=9), "annotation id 11", "no image has the id 9", KEPT),
        (edit("annotations", 0, "image_id", value="1"), "annotation id 11", "no image has the id '1'", KEPT),
        (edit("annotations", 0, "image_id", value=[1]), "annotation id 11", "image_id must be a whole number", KEPT),
        (again("annotations", 0), FIRST, "the same annotation was there before", [["cat", "dog"], ["cat", "dog"], []]),
        (
            again("annotations", 0, bbox=[11, 10, 20, 30]),
            FIRST,
            "another annotation has this id too; both are kept",
            [["cat", "dog", "cat"], ["cat", "dog"], []],
        ),
        (edit("images", 2, "id"), "image number 3", "it has no id", [["cat", "dog"], ["cat", "dog"]]),
        (edit("images", 2, value=None), "image number 3", "it has no id", [["cat", "dog"], ["cat", "dog"]]),
        (
            edit("images", 0, "height", value=0),
            "image id 1 (file a.png)",
            "got 0 and 64; its objects",
            KEPT[1:],
        ),
        (edit("images", 0, "width", value="64"), "image id 1 (file a.png)", "got 48 and '64'; its objects", KEPT[1:]),
        (edit("images", 0, "width", value=64.5), "image id 1 (file a.png)", "must be whole numbers from 1", KEPT[1:]),
        (edit("images", 0, "width"), "image id 1 (file a.png)", "got 48 and None", KEPT[1:]),
        (edit("images", 0, "file_name"), "image id 1", "file_name must be text, got None", KEPT[1:]),
        (edit("images", 0, "file_name", value=5), "image id 1", "file_name must be text, got 5", KEPT[1:]),
        (edit("images", 0, "file_name", value="\0"), "image id 1", "file_name must be text", KEPT[1:]),
        (
            edit("images", 0, "file_name", value="d.png"),
            "image id 1 (file d.png)",
            "no such picture in FOLDER or FOLDER/images; its objects are left out with it: 2",
            KEPT[1:],
        ),
        (again("images", 0), "image id 1 (file a.png)", "this picture was there before", [["cat", "dog"]] * 2 + [[]]),
        (again("images", 2, id=9), "image id 9 (file c.png)", "this file is also that of image id 3", None),
        (again("categories", 0), "category number 3", "the id 7 is that of dog too", [["cat", "dog"]] * 2 + [[]]),
        (again("categories", 0, id=1), "category id 1", "category id 7 has the same name, dog", None),
        (again("categories", 0, id=True), "category number 3", "a whole number as id and a name", None),
        (again("categories", 0, id=8, name=" "), "category number 3", "a whole number as id and a name", None),
        (again("categories", 0, id=8, name=8), "category number 3", "a whole number as id and a name", None),
    ],
)
def test_another_problem_of_coco(folder, change, where, reason, left):
    data = content()
    change(data)
    found = read_coco(store(folder, data))
    (problem,) = found.problems
    assert problem.where.startswith(where)
    assert reason.replace("FOLDER", str(folder)) in problem.reason
    assert labels(found) == (left or [["cat", "dog"], ["cat", "dog"], []])


def test_pictures_that_share_an_id_are_left_out(folder):
    data = content()
    again("images", 2, id=1)(data)
    del data["images"][2]
    found = read_coco(store(folder, data))
    (problem,) = found.problems
    assert "another picture has this id too; both are left out; its objects are left out with it: 2" in problem.reason
    assert found.paths == [folder / "b.png"]


def test_a_box_is_cut_at_the_edge(folder):
    data = content()
    box(-0.5, 10, 30, 38.9)(data)
    found = read_coco(store(folder, data))
    assert found.objects[0].boxes[0].tolist() == [0, 10, 29.5, 48]
    assert found.problems == []
    (mended,) = found.mended
    assert mended.where == FIRST
    assert "bbox [-0.5, 10, 30, 38.9] is cut" in mended.reason


def test_crowds_need_no_masks(folder):
    data = content()
    del data["annotations"][2]["segmentation"]
    found = read_coco(store(folder, data))
    assert found.objects[1].segmentations[0] is None
    assert found.has_masks
    del data["annotations"][3]["segmentation"]
    found = read_coco(store(folder, data))
    assert (found.has_masks, found.without_mask()) == (False, [1])


def test_a_root_is_not_that_of_both_files(tmp_path):
    for part in ("train", "val"):
        for name in "abc":
            picture(tmp_path / part / f"{name}.png")
        store(tmp_path, content(), f"{part}.json")
    names = str(tmp_path / "train.json"), str(tmp_path / "val.json")
    with pytest.raises(UserError, match=r"have 3 pictures in common in .*/train, .*a\.png among them; --root"):
        load_data(names[0], tmp_path / "train", names[1], kind="detection")
    train, val = load_data(names[0], tmp_path / "train", names[0], kind="detection")  # to see whether it learns at all
    assert train.paths == val.paths


@pytest.mark.parametrize("absent", [None, [], "key"])
def test_objects_without_masks(folder, absent):
    data = content()
    (edit("annotations", 0, "segmentation") if absent == "key" else mask(absent))(data)
    found = read_coco(store(folder, data))
    assert found.problems == []
    assert found.objects[0].segmentations == [None, data["annotations"][1]["segmentation"]]
    assert not found.has_masks
    assert found.subset([1, 2]).has_masks
    assert not found.subset([2]).has_masks


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{\n "images": [],\n "annotations": [{"id"',
            "data.json: line 3, column 23: no JSON: Expecting ':' delimiter; the",
        ),
        (
            '{"images": [], "annot',
            "line 1, column 16: no JSON: Unterminated string starting at; the file ends too early",
        ),
        ('{"images": [], ]', "line 1, column 16: no JSON: Expecting property name"),
        ("", "line 1, column 1: no JSON: Expecting value; the file ends too early"),
        ("[" * 100_000, "content: no COCO JSON: "),
        ("[]", "content: no COCO JSON: it lacks the lists images, annotations, categories"),
        ('{"images": [], "annotations": {}}', "content: no COCO JSON: it lacks the lists annotations, categories"),
        ('{"images": [], "annotations": [], "categories": []}', "categories: there is none; expected one at least"),
        ('{"images": [], "annotations": [], "categories": [3]}', "categories: there is none"),
    ],
)
def test_json_of_which_nothing_can_be_used(tmp_path, text, said):
    file = write(tmp_path / "data.json", text)
    with pytest.raises(Unreadable) as error:
        load_parts(str(file), kind="detection", skip=True)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "data.json").write_bytes(b'{"images": "\xff"}')
    with pytest.raises(Unreadable, match="byte 12: no text in UTF-8"):
        read_coco(tmp_path / "data.json")


def test_no_such_file_and_no_pictures(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*none.json"):
        load_parts(f"{tmp_path}/none.json", kind="detection")
    file = store(tmp_path, content())
    with pytest.raises(UserError, match=f"none of its 3 pictures is in {tmp_path} or {tmp_path}/images; --root names"):
        load_parts(str(file), kind="detection", skip=True)


def nodes(data, path=()):
    """The paths of all values in JSON."""
    yield path
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        if len(path) < 3 or key in (0, "size", "counts"):  # the first of coordinates stands for the others
            yield from nodes(value, (*path, key))


NUMBERS = [-1, 0, 10**400, 1.5, float("nan")]
ODD = [*NUMBERS, None, True, "", "x", "\0", "../a.png", [], [[]], [None], ["a"], [1, 2], {}, {"a": 1}]


def test_whatever_is_odd_is_named_and_the_copy_is_clean(folder):
    count, refused = 0, []
    for path in nodes(content()):
        for value in ODD:
            data = content()
            if not path:
                data = value
            else:
                edit(*path, value=value)(data)
            file = store(folder, data)
            try:
                found = read_coco(file)
            except UserError as error:
                refused.append(str(error))
                continue
            count += bool(found.problems)
            (folder / "clean.json").unlink(missing_ok=True)
            write_coco(found, folder / "clean.json")
            clean = read_coco(folder / "clean.json")
            assert clean.problems == [], (path, value)
            assert labels(clean) == labels(found)
    assert count > 500
    assert len(refused) > 50
    assert not [message for message in refused if "\n" in message]


# where pictures lie


@pytest.mark.parametrize(
    ("file", "pictures", "name"),
    [
        ("data.json", ".", "data.json"),
        ("data.json", "images", "data.json"),
        ("annotations/instances_train2017.json", "train2017", "."),
        ("annotations/instances_train2017.json", "train2017", "annotations/instances_train2017.json"),
        ("annotations/instances_train2017.json", "images/train2017", "."),
        ("annotations/instances_train.json", "train", "."),
        ("train/_annotations.coco.json", "train", "."),
    ],
)
def test_where_coco_has_its_pictures(tmp_path, file, pictures, name):
    for letter in "abc":
        picture(tmp_path / pictures / f"{letter}.png")
    store(tmp_path, content(), file)
    train, val = load_parts(str(tmp_path / name), kind="detection")
    assert val is None
    assert [Path(path).resolve() for path in train.paths] == [tmp_path / pictures / f"{letter}.png" for letter in "abc"]


def test_root_is_the_folder_of_a_files_pictures(folder, tmp_path_factory):
    file = store(tmp_path_factory.mktemp("other"), content())
    train, val = load_data(str(file), folder, str(file), kind="detection")
    assert (len(train), len(val)) == (3, 3)
    data = content()
    box(1, 1, 0, 0)(data)
    store(file.parent, data)
    with pytest.raises(UserError, match=f"check {file} --root {folder} lists"):
        load_data(str(file), folder, kind="detection")
    for name in ("scenes", "scenes:5", str(coco_folder(folder / "set"))):
        with pytest.raises(UserError, match="--root has no effect on"):
            load_data(name, folder, kind="detection")


def coco_folder(root, val="val2017", **changes):
    for part in ("train2017", val):
        for letter in "abc":
            picture(root / part / f"{letter}.png")
        store(root, content() | (changes if part == val else {}), f"annotations/instances_{part}.json")
    return root


def test_validation_part_of_a_folder(tmp_path):
    train, val = load_data(str(coco_folder(tmp_path)), kind="detection")
    assert train.paths[0] == tmp_path / "train2017" / "a.png"
    assert val.paths[0] == tmp_path / "val2017" / "a.png"
    assert load_split(str(tmp_path), kind="detection").paths == val.paths


def test_validation_part_as_roboflow_has_it(tmp_path):
    for part in ("train", "valid", "test"):
        for letter in "abc":
            picture(tmp_path / part / f"{letter}.png")
        store(tmp_path, content(), f"{part}/_annotations.coco.json")
    train, val = load_data(str(tmp_path), kind="detection")
    assert (train.paths[0].parent.name, val.paths[0].parent.name) == ("train", "valid")


def test_several_annotation_files_are_refused(tmp_path):
    coco_folder(tmp_path)
    store(tmp_path, content(), "annotations/instances_train2014.json")
    with pytest.raises(UserError, match=r"several annotation files, name one: .*train2014.json, .*train2017.json"):
        load_data(str(tmp_path), kind="detection")


def test_classes_of_both_parts_must_agree(tmp_path):
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "cow"}]
    with pytest.raises(Unreadable, match=r"instances_val2017.json: categories: they differ from those of .*: cow, dog"):
        load_data(str(coco_folder(tmp_path / "a", categories=categories)), kind="detection")
    other = store(tmp_path / "a" / "val2017", content() | {"categories": categories})
    train = store(tmp_path / "a" / "train2017", content())
    with pytest.raises(UserError, match=r"differ in their classes: cow, dog$"):
        load_data(str(train), val=str(other), kind="detection")


def test_a_tenth_of_the_pictures_is_held_out(tmp_path):
    data = content()
    data["images"] = [data["images"][0] | {"id": i, "file_name": f"{i}.png"} for i in range(1, 26)]
    data["annotations"] = [entry(i, i) for i in range(1, 26)]
    for i in range(1, 26):
        picture(tmp_path / f"{i}.png")
    train, val = load_data(str(store(tmp_path, data)), kind="detection")
    assert [objects.image_id for objects in val.objects] == [1, 11, 21]
    assert len(train) == 22
    assert not {*train.paths} & {*val.paths}
    data["images"], data["annotations"] = data["images"][:1], data["annotations"][:1]
    with pytest.raises(UserError, match="needs two pictures"):
        load_data(str(store(tmp_path, data)), kind="detection")


def test_a_picture_of_another_size_is_not_shown_to_a_model(folder):
    """Its boxes lie elsewhere: a run stops there, or goes on without it."""
    found = read_coco(store(folder, content()))
    picture(folder / "a.png", 2 * W, 2 * H)
    with pytest.raises(BadImage, match=rf"a.png: it is {2 * W}x{2 * H}, its annotation for {W}x{H}"):
        found.picture(0)
    assert found.picture(1).size == (W, H)


def test_a_cleaned_copy_has_the_classes_that_were_read(folder):
    data = content()
    data["categories"].append(data["categories"][0] | {"name": "horse"})
    found = read_coco(store(folder, data))
    write_coco(found, folder / "clean.json")
    assert read_coco(folder / "clean.json").classes == found.classes


@pytest.mark.parametrize("encoding", ["gb2312", "shift_jis", "no-such-encoding"])
def test_voc_in_another_encoding_is_a_problem(tmp_path, encoding):
    xml = f'<?xml version="1.0" encoding="{encoding}"?>' + voc_xml(voc_object())
    with pytest.raises(UserError, match=r"a.xml: line 1: no XML in UTF-8: .*encoding"):
        load_data(str(voc_data(tmp_path, xml)), kind="detection")


def test_what_is_skipped_is_listed(folder):
    data = content()
    box(1, 1, 0, 0)(data)
    train, val = load_data(str(store(folder, data)), kind="detection", skip=True)
    assert [problem.where for problem in train.problems] == [problem.where for problem in val.problems] == [FIRST]


def test_scenes_are_data_for_detection():
    train, val = load_data("scenes:20", kind="detection")
    assert (len(train), len(val)) == (20, 2)
    assert len(load_split("scenes", kind="detection")) == 200


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("scene", "unknown data set or folder 'scene'; nearest: scenes"),
        ("no/such", "no such file or folder: no/such"),
        (
            "folder",
            r"folder holds no data for detection; expected scenes:COUNT, .*; COCO .json, .*; YOLO .*; Pascal VOC",
        ),
    ],
)
def test_other_names_are_refused(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=said):
        load_data(name, kind="detection")


# YOLO


def yolo_data(root, rows="0 0.5 0.5 0.25 0.5\n", names="[cat, dog]", more=""):
    """Two pictures in each part, of which one has objects."""
    for part in ("train", "val"):
        for letter in "ab":
            picture(root / "images" / part / f"{letter}.png")
        write(root / "labels" / part / "a.txt", rows)
    return write(root / "data.yaml", f"train: images/train\nval: images/val\nnames: {names}\n{more}")


@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}", "\n- cat\n- dog"])
@pytest.mark.parametrize("given", ["data.yaml", "."])
def test_yolo_is_read(tmp_path, names, given):
    yolo_data(tmp_path, "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.1 0.5 0.1 0.5 0.75\n", names, "nc: 2\n")
    train, val = load_data(str(tmp_path / given), kind="detection")
    assert (train.classes, train.category_ids) == (["cat", "dog"], [0, 1])
    assert [path.name for path in train.paths] == ["a.png", "b.png"]
    first, second = train.objects
    assert np.allclose(first.boxes, [[24, 12, 40, 36], [6.4, 4.8, 32, 36]])
    assert first.labels.tolist() == [1, 0]
    assert not first.crowd.any()
    assert np.allclose(first.area, [16 * 24, 25.6 * 31.2 / 2])
    assert first.segmentations[0] is None
    assert np.allclose(first.segmentations[1], [[6.4, 4.8, 32, 4.8, 32, 36]])
    assert (first.image_id, first.size) == ("images/train/a.png", (H, W))
    assert len(second) == 0
    assert val.paths[0] == tmp_path / "images" / "val" / "a.png"


def test_gaps_between_the_numbers_of_classes(tmp_path):
    yolo_data(tmp_path, "7 0.5 0.5 0.25 0.5\n", "{7: dog, 3: cat, 9: 9}")
    train, _ = load_data(str(tmp_path), kind="detection")
    assert (train.classes, train.category_ids, labels(train)) == (["cat", "dog", "9"], [3, 7, 9], [["dog"], []])


def test_where_yolo_has_its_pictures(tmp_path):
    yolo_data(tmp_path / "data")
    picture(tmp_path / "flat" / "c.png")
    write(tmp_path / "flat" / "c.txt", "1 0.5 0.5 0.25 0.5")
    write(tmp_path / "data" / "list.txt", f"./images/train/b.png\n\n{tmp_path}/data/images/train/a.png\n")
    file = write(tmp_path / "a.yaml", "path: data\ntrain: [list.txt, ../flat]\nval: images/val\nnames: [cat, dog]")
    train, _ = load_data(str(file), kind="detection")
    assert [path.name for path in train.paths] == ["b.png", "a.png", "c.png"]
    assert labels(train) == [[], ["cat"], ["dog"]]
    (tmp_path / "data" / "list.txt").write_text("images/train/b.png\nimages/train/c.png\n/\nimages/train/b.png\n")
    write(tmp_path / "data" / "labels" / "train" / "b.txt", "")
    write(tmp_path / "a.yaml", "path: data\ntrain: list.txt\nnames: [cat, dog]")
    train, _ = load_parts(str(file), kind="detection", skip=True)
    assert [(problem.file.name, problem.where) for problem in train.problems] == [
        ("list.txt", "line 2"),
        ("list.txt", "line 3"),
        ("list.txt", "line 4"),
    ]
    assert "no such file" in train.problems[0].reason
    assert "Is a directory" in train.problems[1].reason
    assert "was there before" in train.problems[2].reason


def test_yolo_as_roboflow_has_it(tmp_path):
    for part in ("train", "valid"):
        picture(tmp_path / part / "images" / "a.png")
        write(tmp_path / part / "labels" / "a.txt", "0 0.5 0.5 0.5 0.5")
    write(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']")
    train, val = load_data(str(tmp_path), kind="detection")
    assert labels(train) == labels(val) == [["cat"]]


def test_root_replaces_the_path_of_yolo(tmp_path):
    file = yolo_data(tmp_path / "data").rename(tmp_path / "a.yaml")
    with pytest.raises(
        Unreadable, match=r"a.yaml: train: no such folder or list \(.txt\): .*images/train; --root names"
    ):
        load_data(str(file), kind="detection")
    train, _ = load_data(str(file), tmp_path / "data", kind="detection")
    assert len(train) == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0 0.5 0.5 0.25", "4 numbers; expected class x y w h, or class and three pairs"),
        ("0 0.5 0.5 0.25 0.5 0.9", "6 numbers"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.5", "8 numbers"),
        ("0", "1 numbers"),
        ("cat 0.5 0.5 0.25 0.5", "could not convert string to float: 'cat'; expected numbers alone"),
        ("0 0.5 0.5 nan 0.5", "expected finite numbers"),
        ("0 0.5 0.5 inf 0.5", "expected finite numbers"),
        ("2 0.5 0.5 0.25 0.5", "no class has the number 2; expected one of [0, 1]"),
        ("-1 0.5 0.5 0.25 0.5", "no class has the number -1"),
        ("0.5 0.5 0.5 0.25 0.5", "no class has the number 0.5"),
        ("nan 0.5 0.5 0.25 0.5", "expected finite numbers"),
        ("0 0.5 0.5 0 0.5", "the box is 0 wide and 24 high"),
        ("0 0.5 0.5 -0.25 0.5", "the box is -16 wide"),
        ("0 0.9 0.5 0.3 0.5", "sticks out of the picture, which is 64x48"),
        (
            "0 32 24 16 24",
            "sticks out of the picture, which is 64x48; values are shares of the picture's sides, not pixels",
        ),
        ("0 0.1 0.1 1.2 0.1 0.5 0.5", "sticks out of the picture"),
        ("1 0.5 0.5 0.25 0.5", "the same object is in line 1"),
    ],
)
def test_a_wrong_line_of_yolo(tmp_path, row, reason):
    yolo_data(tmp_path, f"1 0.5 0.5 0.25 0.5\n{row}\n0 0.5 0.5 0.5 0.5\n")
    train, _ = load_parts(str(tmp_path), kind="detection", skip=True)
    (problem,) = train.problems
    assert (problem.file, problem.where) == (tmp_path / "labels" / "train" / "a.txt", "line 2")
    assert reason in problem.reason
    assert labels(train) == [["dog", "cat"], []]
    with pytest.raises(UserError, match=r"labels/train/a.txt: line 2: "):
        load_data(str(tmp_path), kind="detection")


def test_a_box_of_yolo_is_cut_at_the_edge(tmp_path):
    yolo_data(tmp_path, "0 0.5 0.5 1.000001 0.5\n1 0.5 0.5 1.02 0.5\n")
    train, _ = load_data(str(tmp_path), kind="detection")
    assert train.objects[0].boxes.tolist() == [[0, 12, 64, 36]] * 2
    assert [mended.where for mended in train.mended] == ["line 2"]


def test_pictures_that_exif_turns_are_refused_by_yolo(tmp_path):
    yolo_data(tmp_path)
    write(tmp_path / "labels" / "train" / "b.txt", "")  # without objects nothing can be turned
    for letter in "ab":
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        path = tmp_path / "images" / "train" / f"{letter}.png"
        with Image.open(path) as image:
            image.save(path, exif=exif)
    train, _ = load_parts(str(tmp_path), kind="detection", skip=True)
    assert [path.name for path in train.paths] == ["b.png"]
    assert "a.png: its EXIF orientation is 6" in train.problems[0].reason
    with pytest.raises(UserError, match="store it upright"):
        load_data(str(tmp_path), kind="detection")


def test_wrong_files_of_yolo(tmp_path):
    yolo_data(tmp_path)
    write(tmp_path / "labels" / "train" / "c.txt", "0 0.5 0.5 0.5 0.5")
    write(tmp_path / "labels" / "train" / "classes.txt", "cat\ndog")
    write(tmp_path / "images" / "train" / "d.png", "no picture")
    (tmp_path / "labels" / "train" / "b.txt").write_bytes(b"\xff")
    train, val = load_parts(str(tmp_path), kind="detection", skip=True)
    found = {
        (problem.file.relative_to(tmp_path).as_posix(), problem.where): problem.reason for problem in train.problems
    }
    assert found.keys() == {("labels/train/c.txt", "file"), ("data.yaml", "train"), ("labels/train/b.txt", "file")}
    assert "its picture is missing" in found["labels/train/c.txt", "file"]
    assert "d.png: not a picture" in found["data.yaml", "train"]
    assert "no text in UTF-8" in found["labels/train/b.txt", "file"]
    assert [path.name for path in train.paths] == ["a.png"]
    assert val.problems == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("names: [a\ntrain: images/train", "data.yaml: line 2, column 6: no YAML: "),
        ("names: 'a\n", "line 2, column 1: no YAML: found unexpected end of stream"),
        ("names: !!python/object/apply:os.system [ls]", "line 1, column 8: no YAML: could not determine a constructor"),
        ("names: \x07", "content: no YAML: "),
        ("- a", "content: expected the keys names, train and val, got ['a']"),
        ("", "content: expected the keys names, train and val"),
        ("train: images/train", "names: expected a list of the classes' names, or names by number, got None"),
        ("names: []", "names: expected a list"),
        ("names: [a, yes]", "names: the name of class 1 must be text, in quotes, got True"),
        ("names: [a, b, a]", "names: the class a is there twice"),
        ("names: {a: 0}", "names: the number of a class must be whole and 0 or above, got 'a'"),
        ("names: {-1: a}", "names: the number of a class must be whole and 0 or above, got -1"),
        ("names: [a]\nnc: 2", "nc: expected 1, the number of names, got 2"),
        ("names: [a]", "train: neither train nor val is given"),
        ("names: [a]\ntrain: 5", "train: expected a folder or a list of pictures, got 5"),
        ("names: [a]\ntrain: [images/train, 5]", "train: expected a folder or a list of pictures, got 5"),
        ("names: [a]\nval: nowhere", "val: no such folder or list (.txt): "),
        ("names: [a]\ntrain: labels", "train: no pictures (.bmp, "),
        ("names: [a]\ntrain: images/val", "train: none of its pictures has a file of objects; expected "),
        ("names: [a]\ntrain: images/train\nkpt_shape: [17, 3]", "kpt_shape: data of key points"),
    ],
)
def test_yaml_of_which_nothing_can_be_used(tmp_path, text, said):
    yolo_data(tmp_path)
    (tmp_path / "labels" / "val" / "a.txt").unlink()
    write(tmp_path / "data.yaml", text)
    with pytest.raises(Unreadable) as error:
        load_parts(str(tmp_path), kind="detection", skip=True)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    file = write(tmp_path / "data.yaml", "\n".join([*lines, "names: [a]", "train: *a29"]))
    with pytest.raises(Unreadable, match="train: expected a folder or a list of pictures"):
        load_parts(str(file), kind="detection")


# Pascal VOC

OBJECT = """<object>
<name>{name}</name><pose>Left</pose>{more}
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
</object>
"""
SIZE = f"<size><width>{W}</width><height>{H}</height><depth>3</depth></size>"


def voc_object(name="cat", box=(11, 11, 30, 40), more=""):
    return OBJECT.format(name=name, box=box, more=more)


def voc_xml(*objects, size=SIZE, filename="a.jpg"):
    return f"<annotation>\n<filename>{filename}</filename>\n{size}\n{''.join(objects)}</annotation>"


def voc_data(root, a=None, lists=(("train", "a\nb\n"), ("val", "c\n"))):
    for letter, xml in zip("abc", (a or voc_xml(voc_object()), voc_xml(), voc_xml(voc_object("dog")))):
        picture(root / "JPEGImages" / f"{letter}.jpg")
        write(root / "Annotations" / f"{letter}.xml", xml)
    for name, text in lists:
        write(root / "ImageSets" / "Main" / f"{name}.txt", text)
    return root


def test_voc_is_read(tmp_path):
    objects = voc_object(), voc_object("dog", (1, 1.5, W, H), "<difficult>1</difficult>")
    train, val = load_data(str(voc_data(tmp_path, voc_xml(*objects))), kind="detection")
    assert train.problems == train.mended == []
    assert train.classes == val.classes == ["cat", "dog"]
    assert train.paths == [tmp_path / "JPEGImages" / f"{letter}.jpg" for letter in "ab"]
    assert train.objects[0].boxes.tolist() == [[10, 10, 30, 40], [0, 0.5, W, H]]
    assert train.objects[0].crowd.tolist() == [False, True]
    assert train.objects[0].area.tolist() == [600, W * 47.5]
    assert (train.objects[0].image_id, train.objects[0].size) == ("a", (H, W))
    assert labels(train) == [["cat", "dog"], []]
    assert labels(val) == [["dog"]]
    assert not train.has_masks


@pytest.mark.parametrize(
    ("lists", "train", "val"),
    [
        ([], "abc", None),
        (["train"], "a", None),
        (["train", "val", "trainval", "test"], "a", "c"),
        (["trainval", "test"], "ab", "b"),
        (["train", "test"], "a", "b"),
        (["val"], None, "c"),
    ],
)
def test_lists_of_voc(tmp_path, lists, train, val):
    members = {"train": "a", "val": "c", "trainval": "a\nb", "test": "b"}
    found = load_parts(str(voc_data(tmp_path, lists=[(name, members[name]) for name in lists])), kind="detection")
    for part, expected in zip(found, (train, val)):
        assert (part and "".join(path.stem for path in part.paths)) == expected


def test_a_box_of_voc_is_cut_at_the_edge(tmp_path):
    train, _ = load_data(str(voc_data(tmp_path, voc_xml(voc_object(box=(0, 5, 20, 49))))), kind="detection")
    assert train.objects[0].boxes.tolist() == [[0, 4, 20, 48]]
    (mended,) = train.mended
    assert mended.where == "line 4 (object 1)"
    assert "the box from 0, 5 to 20, 49 is cut" in mended.reason


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (voc_object(box=(11, 11, 66, 40)), "the box (10, 10, 66, 40) sticks out of the picture, which is 64x48"),
        (voc_object(box=(-1, 11, 30, 40)), "sticks out of the picture"),
        (voc_object(box=(30, 11, 11, 40)), "xmin and ymin must be below xmax and ymax, got 30, 11 and 11, 40"),
        (voc_object(box=(11, 11, 11, 40)), "xmin and ymin must be below xmax and ymax"),
        (voc_object(box=("nan", 11, 30, 40)), "xmin must be a finite number, got 'nan'"),
        (voc_object(box=("inf", 11, 30, 40)), "xmin must be a finite number, got 'inf'"),
        (voc_object(box=("", 11, 30, 40)), "xmin must be a finite number, got ''"),
        (voc_object(box=("ten", 11, 30, 40)), "xmin must be a finite number, got 'ten'"),
        (voc_object(more="<difficult>2</difficult>"), "difficult must be 0 or 1, got 2"),
        (voc_object(more="<name>dog</name>"), "<object> has 2 elements <name>; expected one"),
        (voc_object(name=" "), "the name is empty"),
        ("<object>\n<name>cat</name></object>", "<object> has 0 elements <bndbox>; expected one"),
        ("<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>", "<bndbox> has 0 elements <ymin>"),
    ],
)
def test_a_wrong_object_of_voc(tmp_path, xml, reason):
    voc_data(tmp_path, voc_xml(voc_object(), xml))
    train, _ = load_parts(str(tmp_path), kind="detection", skip=True)
    (problem,) = train.problems
    assert (problem.file, problem.where) == (tmp_path / "Annotations" / "a.xml", "line 9 (object 2)")
    assert reason in problem.reason
    assert labels(train) == [["cat"], []]
    with pytest.raises(UserError, match=r"Annotations/a.xml: line 9 \(object 2\): "):
        load_data(str(tmp_path), kind="detection")


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>\n<annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("xml", "where", "reason"),
    [
        ("<annotation>\n<size></annotation>", "line 2, column 9", "no XML: mismatched tag"),
        (voc_xml()[:-5], "line 4, column 1", "no XML: unclosed token"),
        (voc_xml(voc_object())[:90], "line 3, column ", "no XML: "),
        ("", "line 1, column 1", "no XML: no element found"),
        ("<object/>", "line 1", "no annotation: <document> has 0 elements <annotation>; expected one"),
        (BOMB, "line 1", "it has a <!DOCTYPE>; expected plain XML"),
        (voc_xml(size=""), "file", "<annotation> has 0 elements <size>; expected one; its picture is left out"),
        (voc_xml(size=SIZE.replace("64", "0")), "file", "height and width in line 3 must be whole numbers from 1"),
        (voc_xml(size=SIZE.replace("64", "6.5")), "file", "must be whole numbers from 1 to 1000000, got 48 and 6.5"),
        (voc_xml(size=SIZE.replace("64", "wide")), "file", "width must be a finite number, got 'wide'"),
    ],
)
def test_a_wrong_annotation_of_voc(tmp_path, xml, where, reason):
    voc_data(tmp_path, xml)
    if not xml:
        (tmp_path / "Annotations" / "a.xml").write_text("")
    train, _ = load_parts(str(tmp_path), kind="detection", skip=True)
    (problem,) = train.problems
    assert problem.file == tmp_path / "Annotations" / "a.xml"
    assert problem.where.startswith(where)
    assert reason in problem.reason
    assert [path.stem for path in train.paths] == ["b"]


def test_a_large_xml_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["foveal.data.voc"], "MAX_BYTES", 1000)
    train, _ = load_parts(str(voc_data(tmp_path, voc_xml() + 1000 * " ")), kind="detection", skip=True)
    assert train.problems[0].reason.startswith("larger than 0 MB")


def test_wrong_lists_of_voc(tmp_path):
    voc_data(tmp_path, lists=[("train", "a\n\nx\na\nb\n"), ("val", "c")])
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    train, _ = load_parts(str(tmp_path), kind="detection", skip=True)
    found = [(problem.file.name, problem.where, problem.reason) for problem in train.problems]
    assert [place for *place, _ in found] == [["train.txt", "line 3"], ["train.txt", "line 4"], ["b.xml", "file"]]
    assert found[0][2].startswith(f"no such file: {tmp_path}/Annotations/x.xml")
    assert found[1][2] == "the picture a was there before"
    assert found[2][2].startswith(f"no such picture: {tmp_path}/JPEGImages/b.jpg")
    assert len(train) == 1


def test_pictures_of_voc_without_annotation(tmp_path):
    voc_data(tmp_path, lists=[])
    picture(tmp_path / "JPEGImages" / "other.png")
    (tmp_path / "JPEGImages" / "a.jpg").rename(tmp_path / "JPEGImages" / "a.png")
    train, _ = load_parts(str(tmp_path), kind="detection", skip=True)
    assert train.paths[0].name == "a.png"
    (problem,) = train.problems
    assert problem.file.name == "other.png"
    assert "other.xml; one without <object> is for no objects" in problem.reason


def test_voc_without_objects(tmp_path):
    voc_data(tmp_path, voc_xml(voc_object(name="")), lists=[("train", "a\nb")])
    with pytest.raises(Unreadable, match="Annotations: objects: there are none, so there are no classes") as error:
        load_parts(str(tmp_path), kind="detection", skip=True)
    assert len(error.value.problems) == 2


# sizes of pictures


def test_pictures_of_another_size_are_found(folder):
    picture(folder / "a.png", H, W)
    picture(folder / "b.png", 10, 20)
    (folder / "c.png").write_text("no picture")
    found = size_problems(read_coco(store(folder, content())))
    assert [str(problem.file) for problem in found.values()] == [str(folder / f"{name}.png") for name in "abc"]
    assert found[0].reason.startswith(
        "the picture is 48x64, the annotation is for 64x48; it may have been annotated as its"
    )
    assert found[1].reason == "the picture is 10x20, the annotation is for 64x48"
    assert found[2].reason.startswith("not a picture in ")


# the command


def command(capsys, *args):
    """Exit code, output and errors of foveal data."""
    code = main(["data", *map(str, args)])
    answer = capsys.readouterr()
    assert "Traceback" not in answer.out + answer.err
    return code, answer.out, answer.err


def refused(capsys, *args):
    code, out, err = command(capsys, *args)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    return line


def wrong_coco(folder):
    data = content()
    box(50, 10, 20, 30)(data)
    data["annotations"][1]["bbox"] = [-0.5, 3, 10, 7]
    again("annotations", 2, bbox=[6, 6, 20, 10])(data)
    picture(folder / "c.png", 10, 10)
    return store(folder, data)


def test_formats_are_listed(capsys):
    code, out, err = command(capsys)
    assert (code, err) == (0, "")
    for name in ("fashion", "scenes", "COCO", "YOLO", "Pascal VOC", "class folders"):
        assert f"\n  {name}" in out


def test_check_of_right_data(folder, capsys):
    code, out, err = command(capsys, "check", store(folder, content()), "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert (answer["problems"], answer["mended"], answer["kind"], answer["clean"]) == ([], [], "detection", [])
    assert answer["parts"] == {
        "train": {
            "pictures": 3,
            "pictures_without_objects": 1,
            "objects": 4,
            "objects_with_mask": 4,
            "crowd": 1,
            "smallest_box": {"size": [8, 7], "picture": str(folder / "a.png")},
            "largest_box": {"size": [24, 48], "picture": str(folder / "b.png")},
            "classes": {"cat": 2, "dog": 2},
        }
    }
    code, out, err = command(capsys, "check", folder / "data.json")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == [
        "problems: none",
        f"next: foveal train quickstart_detection --data {folder / 'data.json'}",
    ]
    for row in ("pictures without objects 1", "smallest box, px 8x7", "class dog 2"):
        assert row in [" ".join(line.split()) for line in out.splitlines()]


def test_check_lists_all_problems(folder, capsys):
    file = wrong_coco(folder)
    code, out, err = command(capsys, "check", file)
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{file}: {FIRST}: the box (50, 10, 70, 40) sticks out")
    assert lines[1].startswith(f"{file}: annotation id 13 (image id 2, file b.png): another annotation has this id too")
    assert lines[2].startswith(f"{folder}/c.png: image id 3: the picture is 10x10, the annotation is for 64x48")
    assert lines[-3].startswith("boxes that stick out of their picture by a pixel at most and are cut: 1;")
    assert lines[-2:] == ["problems: 3", "next: --clean FILE.json writes what is right"]
    code, out, _ = command(capsys, "check", file, "--json")
    answer = json.loads(out)
    assert code == 1
    assert answer["problems"][0] == {
        "file": str(file),
        "where": FIRST,
        "reason": "the box (50, 10, 70, 40) sticks out of the picture, which is 64x48",
    }
    assert (len(answer["problems"]), len(answer["mended"])) == (3, 1)
    assert answer["parts"]["train"]["pictures"] == 2


def test_check_of_what_cannot_be_read(folder, capsys):
    file = write(folder / "data.json", '{"images": [')
    code, out, err = command(capsys, "check", file)
    assert (code, err) == (1, "")
    assert out.splitlines()[0].startswith(f"{file}: line 1, column 13: no JSON: ")
    assert out.splitlines()[-1] == "problems: 1"
    assert json.loads(command(capsys, "check", file, "--json")[1])["parts"] == {}


def test_clean_copy_of_coco(folder, capsys):
    file = wrong_coco(folder)
    before = file.read_bytes()
    out = folder / "other" / "clean.json"
    code, text, _ = command(capsys, "check", file, "--clean", out)
    assert code == 1
    assert f"cleaned copy: {out}" in text
    assert file.read_bytes() == before
    assert command(capsys, "check", out)[0] == 0
    clean, data = json.loads(out.read_text()), json.loads(before)
    assert clean["info"] == data["info"]
    assert clean["categories"] == [data["categories"][1], data["categories"][0]]
    assert clean["images"] == [image | {"file_name": f"../{image['file_name']}"} for image in data["images"][:2]]
    assert clean["annotations"] == [
        data["annotations"][1] | {"bbox": [0, 3, 9.5, 7], "iscrowd": 0},
        data["annotations"][2],
        data["annotations"][3] | {"iscrowd": 0},
        data["annotations"][4] | {"id": 1},
    ]
    assert load_split(str(out), kind="detection").paths[0].resolve() == folder / "a.png"
    assert refused(capsys, "check", file, "--clean", out) == f"foveal: {out} exists; nothing was overwritten"
    assert COCO(out).getImgIds() == [1, 2]


def test_clean_copy_keeps_what_foveal_does_not_read(folder, capsys):
    command(capsys, "check", store(folder, content()), "--clean", folder / "clean.json")
    clean = json.loads((folder / "clean.json").read_text())
    assert clean["annotations"][0] == content()["annotations"][0]
    assert clean["images"] == content()["images"]
    assert set(clean) == {"info", "images", "annotations", "categories"}


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_clean_copy_of_a_folder(tmp_path, capsys, kind):
    source = tmp_path / "set"
    if kind == "coco":
        coco_folder(source)
    elif kind == "yolo":
        yolo_data(source, "1 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.5 0.1 0.5 0.75\n0 2 2 2 2\n")
    else:
        voc_data(source, voc_xml(voc_object(more="<difficult>1</difficult>"), voc_object(box=(9, 9, 1, 1))))
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    code, _, err = command(capsys, "check", source, "--clean", tmp_path / "clean")
    assert (code, err) == (0 if kind == "coco" else 1, "")
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before
    ours = load_data(str(tmp_path / "clean"), kind="detection")
    theirs = load_parts(str(source), kind="detection", skip=True)
    for mine, part in zip(ours, theirs, strict=True):
        assert mine.problems == []
        assert (mine.classes, mine.category_ids) == (part.classes, part.category_ids)
        assert [path.resolve() for path in mine.paths] == part.paths
        assert mine.has_masks == part.has_masks
        for a, b in zip(mine.objects, part.objects, strict=True):
            assert np.allclose(a.boxes, b.boxes)
            assert np.allclose(a.area, b.area)
            assert (a.labels.tolist(), a.crowd.tolist(), a.size) == (b.labels.tolist(), b.crowd.tolist(), b.size)
            assert a.segmentations == b.segmentations
    said = refused(capsys, "check", source, "--clean", tmp_path / "clean.json")
    assert "has two parts, train and val; --clean takes a folder for them" in said
    assert not (tmp_path / "clean.json").exists()


def test_check_of_pictures_for_classification(tmp_path, capsys):
    for name in ("cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png"):
        picture(tmp_path / "pets" / name)
    args = ["check", tmp_path / "pets", "--kind", "classification"]
    code, out, err = command(capsys, *args, "--json")
    assert (code, err) == (0, "")
    summary = {"pictures": 4, "pictures_without_class": 0, "classes": {"cat": 2, "dog": 2}}
    assert json.loads(out)["parts"] == {"train": summary}
    bad = tmp_path / "pets" / "dog" / "b.png"
    bad.write_bytes(bad.read_bytes()[:-20])
    code, out, err = command(capsys, *args)
    assert (code, err) == (1, "")
    assert out.splitlines()[0].startswith(f"{tmp_path}/pets: {bad}: ")
    assert "cannot read picture" not in out
    assert out.splitlines()[-1] == "problems: 1"


def test_check_of_scenes(capsys):
    code, out, _ = command(capsys, "check", "scenes:10", "--json")
    assert code == 0
    assert [part["pictures"] for part in json.loads(out)["parts"].values()] == [10, 1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("none.json", "no such file: none.json"),
        ("none.yaml", "no such file: none.yaml"),
        ("no/such", "no such file or folder: no/such"),
        ("scene", "unknown data set or folder 'scene'; nearest: scenes"),
        ("scenes --root .", "--root has no effect on scenes"),
        ("scenes:0", "scenes:0 has no picture"),
        ("scenes:3 --clean new", "--clean has no effect on scenes:3, which has no annotations to write"),
        ("pets", "pets holds no data for detection; expected "),
        ("pets --kind classification --clean new", "--clean has no effect on data for classification"),
        ("data.json --root pets", "none of its 3 pictures is in pets; --root names their folder"),
        ("data.json --clean pets", "pets exists; nothing was overwritten"),
        ("data.json --clean a.png/new.json", "cannot write a.png/new.json: File exists"),
        ("data.json --clean a.png/new/new.json", "cannot write a.png/new/new.json: Not a directory"),
    ],
)
def test_check_answers_bad_usage_in_one_line(folder, monkeypatch, capsys, args, said):
    monkeypatch.chdir(folder)
    store(folder, content())
    picture(folder / "pets" / "cat" / "a.png")
    assert said in refused(capsys, "check", *args.split())
    assert not (folder / "new").exists()


@pytest.mark.parametrize("args", ["chek", "check", "check data.json --nope", "check data.json --kind boxes"])
def test_misread_options(capsys, args):
    with pytest.raises(SystemExit) as exit_:
        main(["data", *args.split()])
    assert exit_.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_training_lists_the_annotations_that_it_leaves_out(tmp_path, capsys):
    for i in range(3):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{i}.png")
    boxes = [[4, 4, 20, 20], [4, 4, -1, 20], [8, 8, 20, 20]]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 64, "width": 64} for i in range(3)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "data.json").write_text(json.dumps(content))
    small = "--model test_mat --image-size 64 --max-size 64 --batch-size 2 --epochs 1 --warmup-epochs 0"
    argv = f"train quickstart_detection {small} --data {tmp_path}/data.json --out {tmp_path}/run".split()
    assert main(argv) == 2
    assert "annotation id 1" in capsys.readouterr().err
    assert main([*argv, "--on-bad-image", "skip"]) == 0
    assert capsys.readouterr().out.replace("\n", "").count("annotation id 1") == 1


def test_training_says_what_is_missing_before_it_makes_a_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    small = "--model test_mat --image-size 64 --max-size 80 --data scenes:32x64"
    assert main(f"train quickstart_detection {small} --out {tmp_path}/run".split()) == 2
    assert "pip install 'foveal[coco]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
