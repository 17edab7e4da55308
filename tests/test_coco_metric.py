"""COCO's average precision beside pycocotools and beside counts by hand."""

import json
import math
import pickle
import sys

import numpy as np
import pytest
import torch
from pycocotools import mask as codes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from foveal._errors import UserError
from foveal.metrics import CocoAP, coco_results
from foveal.metrics.coco import encode_mask

NUM_CLASSES = 4
SIZE = (180, 240)
CATEGORIES = [7, 3, 9, 20]  # numbers of the classes in the data


def random_boxes(n, rng):
    corners = rng.uniform(0, 1, (n, 2)) ** 2 * (SIZE[1] - 12, SIZE[0] - 12)
    sides = 4 + rng.uniform(0, 1, (n, 1)) ** 2 * rng.uniform(0.6, 1, (n, 2)) * (220, 160)
    ends = np.minimum(corners + sides, (SIZE[1], SIZE[0]))
    return np.concatenate([corners, ends], axis=1).astype(np.float32)


def ellipse(box):
    """bool [H, W], inside a box; of a small box at least a pixel."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    x1, y1, x2, y2 = box.tolist()
    inside = ((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) / (y2 - y1)) ** 2 <= 0.25
    inside[int(y1), int(x1)] = True
    return inside


def segmentation(box, form):
    """A mask of an object in one of the forms that data have."""
    x1, y1, x2, y2 = box.tolist()
    if form == 0:
        half = (x1 + x2) / 2
        return [[x1, y1, half, y1, half, y2, x1, y2], [half, y1, x2, (y1 + y2) / 2, half, y2]]
    mask = ellipse(box)
    if form == 1:
        return mask
    if form == 2:  # counts in a list, as COCO has its crowds: pixels down the columns, from background
        pixels = mask.flatten(order="F").astype(np.int8)
        changes = np.flatnonzero(np.diff(pixels, prepend=0))
        return {"size": list(SIZE), "counts": np.diff([0, *changes, pixels.size]).tolist()}
    code = codes.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(SIZE), "counts": code["counts"].decode() if form == 3 else code["counts"]}


def make(seed, pictures=16, scores=1):
    """Targets and predictions: crowds, pictures without objects, without predictions, with many, equal scores."""
    rng = np.random.default_rng(seed)
    targets, predictions = [], []
    for i in range(pictures):
        n = 0 if i in (2, 3) else int(rng.integers(1, 9))
        boxes, labels = random_boxes(n, rng), rng.integers(0, NUM_CLASSES - 1, n)  # no object of the last class
        crowd = rng.random(n) < 0.15
        target = dict(boxes=torch.from_numpy(boxes), labels=torch.from_numpy(labels), crowd=torch.from_numpy(crowd))
        target["area"] = torch.from_numpy(0.9 * np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
        target["segmentations"] = [segmentation(box, int(rng.integers(5))) for box in boxes]
        targets.append(target | {"image_id": 1000 - 37 * i})
        seen = np.concatenate([boxes + rng.normal(0, s, boxes.shape) for s in (0.7, 2.0, 5.0)])
        count = 0 if i == 4 else 130 if i == 5 else 4
        seen = np.concatenate([seen[: 0 if i == 4 else None], random_boxes(count, rng)]).astype(np.float32)
        seen = np.sort(seen.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        seen = np.clip(seen, 0, (SIZE[1], SIZE[0]) * 2)
        seen[:, 2:] = np.maximum(seen[:, 2:], seen[:, :2] + 0.5)
        found = np.concatenate([labels] * 3)[: 0 if i == 4 else None]
        found = np.concatenate([found, np.full(count, 1) if i == 5 else rng.integers(0, NUM_CLASSES, count)])
        score = np.round(rng.uniform(0.05, 1, len(seen)), scores).astype(np.float32)  # few decimals, many ties
        order = torch.from_numpy(np.argsort(-score, kind="stable"))
        masks = (
            np.stack([ellipse(np.clip(box, 0, (SIZE[1] - 1, SIZE[0] - 1) * 2)) for box in seen])
            if len(seen)
            else np.zeros((0, *SIZE))
        )
        prediction = dict(boxes=seen, scores=score, labels=found, masks=masks.astype(bool))
        predictions.append({name: torch.from_numpy(value)[order] for name, value in prediction.items()})
    return targets, predictions


def batches(targets, predictions, size=3):
    for start in range(0, len(targets), size):
        part = targets[start : start + size]
        yield predictions[start : start + size], {"target": part, "original": torch.tensor([SIZE] * len(part))}


def measured(targets, predictions, masks=True):
    metric = CocoAP(NUM_CLASSES, masks=masks)
    for found, batch in batches(targets, predictions):
        metric.update(found, batch)
    return metric


def truth(targets):
    """COCO's annotations, made without the code under test."""
    annotations = []
    for target in targets:
        for i, box in enumerate(target["boxes"].tolist()):
            mask = target["segmentations"][i]
            if isinstance(mask, np.ndarray):
                mask = codes.encode(np.asfortranarray(mask.astype(np.uint8)))
            entry = dict(image_id=target["image_id"], category_id=CATEGORIES[target["labels"][i]], segmentation=mask)
            entry |= dict(bbox=[box[0], box[1], box[2] - box[0], box[3] - box[1]], iscrowd=int(target["crowd"][i]))
            annotations.append(entry | dict(area=float(target["area"][i]), id=len(annotations) + 1))
    images = [dict(id=target["image_id"], height=SIZE[0], width=SIZE[1]) for target in targets]
    categories = [dict(id=number, name=str(number)) for number in CATEGORIES]
    known = COCO()
    known.dataset = dict(images=images, annotations=annotations, categories=categories)
    known.createIndex()
    return known


def results(targets, predictions, kind):
    entries = []
    for target, prediction in zip(targets, predictions):
        for i, (x1, y1, x2, y2) in enumerate(prediction["boxes"].tolist()):
            entry = dict(image_id=target["image_id"], category_id=CATEGORIES[prediction["labels"][i]])
            if kind == "segm":
                entry["segmentation"] = codes.encode(np.asfortranarray(prediction["masks"][i].numpy().astype(np.uint8)))
            else:
                entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            entries.append(entry | dict(score=float(prediction["scores"][i])))
    return entries


def oracle(known, entries, kind):
    """pycocotools' stats and precision [IoU, recall, category]."""
    evaluation = COCOeval(known, known.loadRes(entries), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats, evaluation.eval["precision"][:, :, :, 0, 2]


def agree(figures, prefix, stats):
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", None, None, "AR")
    for name, value in zip(names, stats):
        if name is not None:
            ours = figures[prefix + name]
            assert math.isnan(ours) if value == -1 else ours == pytest.approx(100 * value, abs=1e-6), name


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_pycocotools(seed, capsys):
    targets, predictions = make(seed)
    assert sum(int(target["crowd"].sum()) for target in targets)
    metric = measured(targets, predictions)
    figures = metric.compute()
    classes = {kind: metric.per_class(kind) for kind in ("bbox", "segm")}
    assert capsys.readouterr() == ("", "")
    known = truth(targets)
    for kind, prefix in (("bbox", ""), ("segm", "mask_")):
        stats, precision = oracle(known, results(targets, predictions, kind), kind)
        agree(figures, prefix, stats)
        assert all(5 < figures[prefix + name] < 95 for name in ("AP", "AP50", "APs", "APm", "APl", "AR"))
        for label, number in enumerate(CATEGORIES):
            values = precision[:, :, sorted(CATEGORIES).index(number)]
            if label == NUM_CLASSES - 1:
                assert math.isnan(classes[kind][label])
            else:
                assert classes[kind][label] == pytest.approx(100 * values[values > -1].mean(), abs=1e-6)
    assert figures.keys() == {prefix + name for prefix in ("", "mask_") for name in ("AP", "AP50", "AP75", "AR")} | {
        f"{prefix}AP{size}" for prefix in ("", "mask_") for size in "sml"
    }


def test_counts_objects_without_crowds():
    targets, predictions = make(0)
    counts = measured(targets, predictions, masks=False).class_objects()
    known = truth(targets)
    assert counts == [len(known.getAnnIds(catIds=[number], iscrowd=False)) for number in CATEGORIES]
    assert sum(counts) < len(known.anns)


def single(boxes, labels=None, **more):
    """The target of a picture."""
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    n = len(boxes)
    target = dict(boxes=boxes, labels=torch.tensor(labels or [0] * n, dtype=torch.long), crowd=torch.zeros(n).bool())
    return target | dict(area=(boxes[:, 2:] - boxes[:, :2]).prod(1), segmentations=None, image_id=1) | more


def predicted(boxes, scores, labels=None):
    labels = torch.tensor(labels or [0] * len(scores), dtype=torch.long)
    return dict(boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4), scores=torch.tensor(scores), labels=labels)


def test_by_hand():
    # IoU 1 with the first, 0.8 with the second (a false alarm from 0.85 on), and nothing at the third of three objects
    target = single([[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]])
    prediction = predicted([[0, 0, 10, 10], [20, 20, 30, 28]], [0.9, 0.8])
    metric = measured([target], [prediction], masks=False)
    figures = metric.compute()
    two, one = 67 / 101, 34 / 101  # of the recalls 0, 0.01, ..., 1 those that are reached with two and with one
    assert figures["AP50"] == pytest.approx(100 * two)
    assert figures["AP"] == pytest.approx(100 * (7 * two + 3 * one) / 10)
    assert figures["AR"] == pytest.approx(100 * (7 * 2 / 3 + 3 * 1 / 3) / 10)
    assert figures["APs"] == figures["AP"]
    assert math.isnan(figures["APm"])
    assert math.isnan(figures["APl"])


def test_sizes_are_those_of_the_stated_area():
    # the box has 40^2 pixels, the object in it 30^2: a small one
    target = single([[0, 0, 40, 40]], area=torch.tensor([900.0]))
    figures = measured([target], [predicted([[0, 0, 40, 40]], [0.9])], masks=False).compute()
    assert figures["APs"] == pytest.approx(100)
    assert math.isnan(figures["APm"])


def test_nothing_to_find():
    empty = CocoAP(2)
    assert all(math.isnan(value) for value in empty.compute().values())
    assert all(math.isnan(value) for value in empty.per_class())
    assert all(
        math.isnan(value) for value in measured([single([])], [predicted([], [])], masks=False).compute().values()
    )
    false_alarm = measured([single([])], [predicted([[0, 0, 5, 5]], [0.5])], masks=False)
    assert math.isnan(false_alarm.compute()["AP"])


def test_nothing_found():
    figures = measured([single([[0, 0, 10, 10]])], [predicted([], [])], masks=False)
    assert figures.compute()["AP"] == 0
    assert figures.compute()["APs"] == 0
    assert figures.compute()["AR"] == 0
    assert figures.per_class()[0] == 0
    assert math.isnan(figures.per_class()[1])


def test_an_object_without_a_mask():
    with pytest.raises(UserError, match="picture 1 has an object without a mask"):
        measured([single([[0, 0, 10, 10]])], [predicted([], [])], masks=True)
    with pytest.raises(UserError, match="without a mask"):
        measured([single([[0, 0, 10, 10]], segmentations=[None])], [predicted([], [])], masks=True)


def test_two_processes_equal_one():
    # equal scores in different pictures: only the order of the pictures decides between them
    targets, predictions = make(5, pictures=12)
    whole = measured(targets, predictions)
    expected = whole.compute()
    parts = [measured(targets[rank::2], predictions[rank::2]) for rank in range(2)]
    merged = CocoAP(NUM_CLASSES, masks=True)
    assert math.isnan(merged.compute()["AP"])
    for part in reversed(parts):
        merged.merge(pickle.loads(pickle.dumps(part.state())))
        last = merged.compute()
    assert last == expected
    assert merged.per_class() == pytest.approx(whole.per_class(), nan_ok=True, abs=0)
    assert parts[0].compute()["AP"] != expected["AP"]  # and merging left the parts as they were
    assert len(parts[0].pictures) == 6
    merged.reset()
    assert math.isnan(merged.compute()["AP"])


def test_more_pictures_change_the_figures():
    # what was computed before is not kept
    targets, predictions = make(6)
    metric = measured(targets[:4], predictions[:4])
    first = metric.compute()
    for found, batch in batches(targets[4:], predictions[4:]):
        metric.update(found, batch)
    assert metric.compute() == measured(targets, predictions).compute() != first


def test_names_as_picture_ids():
    targets, predictions = make(0)
    named = [target | {"image_id": f"{target['image_id']:04d}.jpg"} for target in targets]
    assert measured(named, predictions).compute() == measured(targets, predictions).compute()


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_results_are_taken_by_pycocotools(kind, tmp_path):
    targets, predictions = make(7, scores=6)
    ids = [target["image_id"] for target in targets]
    entries = coco_results(predictions, ids, CATEGORIES)
    (tmp_path / "results.json").write_text(json.dumps(entries))
    known = truth(targets)
    assert len(known.loadRes(str(tmp_path / "results.json")).anns) == sum(len(p["scores"]) for p in predictions)
    read = json.loads((tmp_path / "results.json").read_text())
    if kind == "segm":
        read = [{key: value for key, value in entry.items() if key != "bbox"} for entry in read]
    figures = measured(targets, predictions).compute()
    for name, value in zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), oracle(known, read, kind)[0]):
        assert figures[("mask_" if kind == "segm" else "") + name] == pytest.approx(100 * value, abs=1e-3)


def test_results_are_short_and_exact():
    prediction = predicted([[1.23456, 2, 11.5, 7.00004]], [0.9], [2])
    assert coco_results([prediction], ["a.jpg"], CATEGORIES) == [
        {"image_id": "a.jpg", "category_id": 9, "bbox": [1.235, 2.0, 10.265, 5.0], "score": 0.9}
    ]
    assert coco_results([predicted([], [])], [1], CATEGORIES) == []
    scores = torch.rand(1000)
    entries = coco_results([predicted([[0, 0, 1, 1]] * 1000, scores.tolist())], [1], CATEGORIES)
    assert torch.equal(torch.tensor([entry["score"] for entry in entries]), scores)


@pytest.mark.parametrize("form", range(5))
def test_masks_are_encoded(form):
    box = np.array([20.0, 15.0, 90.0, 70.0])
    made = segmentation(box, form)
    if form == 0:
        expected = codes.merge(codes.frPyObjects(made, *SIZE))
    else:
        expected = codes.encode(np.asfortranarray(ellipse(box).astype(np.uint8)))
    code = encode_mask(made, SIZE)
    assert code == {"size": list(SIZE), "counts": expected["counts"].decode()}
    json.dumps(code)


def test_a_missing_library_is_named(monkeypatch):
    metric = measured([single([[0, 0, 10, 10]])], [predicted([], [])], masks=False)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UserError, match=r"pip install 'foveal\[coco\]'"):
        metric.compute()
