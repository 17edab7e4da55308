"""Average precision of keypoints beside pycocotools and beside counts by hand."""

import json
import math
import pickle
import sys
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from foveal._errors import UserError
from foveal.data import Joints
from foveal.data.figures import JOINTS
from foveal.metrics import OksAP
from foveal.metrics.oks import SAME

THREE = Joints(("a", "b", "c"), (), (), (0.05, 0.1, 0.03))
NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR")


def make(seed: int, joints: Joints, pictures: int = 14) -> tuple[list[dict], list[dict]]:
    """Bodies and what is predicted for their boxes and for others: crowds, bodies without a joint, equal scores."""
    rng = np.random.default_rng(seed)
    targets: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    for picture in range(pictures):
        n = 25 if picture == 3 else int(rng.integers(1, 6))
        corners, sides = rng.uniform(0, 300, (n, 2)), rng.uniform(20, 200, (n, 2))
        keypoints = np.zeros((n, len(joints), 3))
        keypoints[:, :, 2] = rng.integers(0, 3, (n, len(joints)))
        keypoints[rng.random(n) < 0.2, :, 2] = 0
        keypoints[:, :, :2] = corners[:, None] + rng.uniform(0, 1, (n, len(joints), 2)) * sides[:, None]
        keypoints[keypoints[:, :, 2] == 0] = 0
        truth = dict(
            image_id=900 - 31 * picture,
            boxes=np.concatenate([corners, corners + sides], axis=1),
            labels=rng.integers(0, 2, n),
            crowd=rng.random(n) < 0.1,
            area=0.5 * sides.prod(1),
            keypoints=keypoints,
        )
        for body in [*range(n), *range(n)] if picture != 5 else []:  # in one picture nothing is found
            there = keypoints[body].any()
            seen = (
                keypoints[body, :, :2] if there else corners[body] + rng.uniform(-2, 3, (len(joints), 2)) * sides[body]
            )
            noise = rng.choice([0.01, 0.05, 0.15]) * math.sqrt(truth["area"][body])
            targets.append(
                dict(
                    index=len(targets),
                    box=torch.from_numpy(truth["boxes"][body]).float(),
                    label=int(truth["labels"][body]),
                    score=float(np.round(rng.uniform(0.1, 1), 1)),
                    truth=truth,
                )
            )
            predictions.append(
                dict(
                    keypoints=torch.from_numpy(seen + rng.normal(0, noise, seen.shape)).float(),
                    scores=torch.from_numpy(np.round(rng.uniform(0, 1, len(joints)), 1)).float(),
                )
            )
        if picture == 5:  # found nowhere, and expected
            targets.append(dict(truth=truth))
    return targets, predictions


def measured(targets: list[dict], predictions: list[dict], joints: Joints, suppress: bool = False) -> OksAP:
    metric, there = OksAP(joints, suppress), [target for target in targets if "box" in target]
    for start in range(0, len(there), 7):
        part = there[start : start + 7]
        metric.update(predictions[start : start + 7], batch(part))
    for target in targets:
        metric.expect(target["truth"])
    return metric


def batch(targets: list[dict]) -> dict:
    """Of images 40x30, which show as much of a picture as four of their boxes."""
    matrices = torch.zeros(len(targets), 2, 3)
    for matrix, target in zip(matrices, targets):
        matrix[0, 1], matrix[1, 0] = 2 * (target["box"][2:] - target["box"][:2]) / torch.tensor([40.0, 30.0])
    return {"image": torch.zeros(len(targets), 3, 40, 30), "matrix": matrices, "target": targets}


def oracle(targets: list[dict], predictions: list[dict], joints: Joints, suppress: bool = False) -> np.ndarray:
    """pycocotools' stats, from annotations and results made without the code under test."""
    truths = {target["truth"]["image_id"]: target["truth"] for target in targets}
    annotations = []
    for number, truth in sorted(truths.items()):
        for i, (x1, y1, x2, y2) in enumerate(truth["boxes"]):
            entry = dict(image_id=number, category_id=int(truth["labels"][i]) + 5, iscrowd=int(truth["crowd"][i]))
            entry |= dict(bbox=[x1, y1, x2 - x1, y2 - y1], area=truth["area"][i], id=len(annotations) + 1)
            keypoints = truth["keypoints"][i]
            entry |= dict(keypoints=keypoints.flatten().tolist(), num_keypoints=int((keypoints[:, 2] > 0).sum()))
            annotations.append(entry)
    entries = []
    for target, prediction in zip([t for t in targets if "box" in t], predictions, strict=True):
        scores = prediction["scores"].double()
        high = [score for score in scores.tolist() if score > 0.2 + 1e-6]
        keypoints = torch.cat([prediction["keypoints"].double(), scores[:, None]], dim=1)
        x1, y1, x2, y2 = target["box"].tolist()
        entries.append(
            dict(
                image_id=target["truth"]["image_id"],
                category_id=target["label"] + 5,
                keypoints=keypoints.flatten().tolist(),
                score=target["score"] * sum(high) / len(high) if high else 0.0,
                size=4 * (x2 - x1) * (y2 - y1),
            )
        )
    if suppress:
        entries = [e for number in truths for e in slowly([e for e in entries if e["image_id"] == number], joints)]
    known = COCO()
    known.dataset = dict(
        images=[dict(id=number) for number in truths],
        annotations=annotations,
        categories=[dict(id=5, name="x"), dict(id=6, name="y")],
    )
    known.createIndex()
    evaluation = COCOeval(known, known.loadRes(json.loads(json.dumps(entries))), "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(joints.sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


def slowly(entries: list[dict], joints: Joints) -> list[dict]:
    """The best of what is left is kept, and what is like it goes; in the order in which they came."""
    left, kept = sorted(range(len(entries)), key=lambda i: -entries[i]["score"]), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if alike(entries[best], entries[i], joints) <= SAME]
    return [entries[i] for i in sorted(kept)]


def alike(one: dict, other: dict, joints: Joints) -> float:
    total, area = 0.0, (one["size"] + other["size"]) / 2
    for k, sigma in enumerate(joints.sigmas):
        dx, dy = (one["keypoints"][3 * k + axis] - other["keypoints"][3 * k + axis] for axis in (0, 1))
        total += math.exp(-(dx**2 + dy**2) / (2 * area * (2 * sigma) ** 2))
    return total / len(joints)


def agree(figures: dict[str, float], stats: np.ndarray) -> None:
    for name, value in zip(NAMES, stats):
        assert figures[name] == pytest.approx(100 * value, abs=1e-6), name


@pytest.mark.parametrize("suppress", [False, True])
@pytest.mark.parametrize("joints", [JOINTS, THREE])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pycocotools(seed, joints, suppress, capsys):
    targets, predictions = make(seed, joints)
    figures = measured(targets, predictions, joints, suppress).compute()
    assert capsys.readouterr() == ("", "")
    agree(figures, oracle(targets, predictions, joints, suppress))
    assert tuple(figures) == NAMES
    assert all(5 < value < 95 for value in figures.values())


def test_suppression_leaves_out_what_is_alike():
    targets, predictions = make(0, JOINTS)
    plain, fewer = (measured(targets, predictions, JOINTS, suppress) for suppress in (False, True))
    numbers = [sum(len(metric.kept(number)) for number in metric.truths) for metric in (plain, fewer)]
    assert numbers[0] == len(predictions)
    assert len(predictions) / 2 < numbers[1] < len(predictions)


def body(keypoints: list, **more: Any) -> dict:
    """A target of a body in a picture of its own."""
    points = np.array(keypoints, float).reshape(1, -1, 3)
    truth = dict(image_id=1, boxes=np.array([[0, 0, 100, 50.0]]), labels=np.array([0]), crowd=np.array([False]))
    truth |= dict(area=np.array([2500.0]), keypoints=points) | more
    return dict(index=0, box=torch.tensor([0, 0, 100, 50.0]), label=0, score=1.0, truth=truth)


def found(keypoints: list, scores: list) -> dict:
    return dict(keypoints=torch.tensor(keypoints, dtype=torch.float), scores=torch.tensor(scores, dtype=torch.float))


def test_by_hand():
    # OKS: 1, exp(-d^2 / (2 * 2500 * (2 * 0.1)^2)), and the third joint is not marked: d = 10 gives (1 + 0.6065) / 2
    target = body([10, 10, 2, 40, 20, 1, 0, 0, 0])
    figures = measured([target], [found([[10, 10], [50, 20], [3, 99]], [0.5] * 3)], THREE).compute()
    assert figures["AP"] == pytest.approx(70)  # at 0.50, 0.55, ... 0.80
    assert figures["AP50"] == figures["AP75"] == 100
    assert figures["APm"] == figures["AP"] == figures["AR"]
    assert math.isnan(figures["APl"])


def test_the_score_is_that_of_the_box_times_the_mean_of_confident_joints():
    metric = OksAP(THREE)
    metric.update([found([[0, 0]] * 3, [0.9, 0.2, 0.5])], batch([body([1, 1, 2] * 3) | {"score": 0.5}]))
    metric.update([found([[0, 0]] * 3, [0.2, 0.1, 0.0])], batch([body([1, 1, 2] * 3) | {"index": 1}]))
    first, second = metric.kept(1)
    assert first["score"] == pytest.approx(0.35)
    assert second["score"] == 0
    assert [first["keypoints"][2::3], second["keypoints"][2::3]] == [
        pytest.approx([0.9, 0.2, 0.5]),
        pytest.approx([0.2, 0.1, 0.0]),
    ]


def test_nothing_to_find():
    assert all(math.isnan(value) for value in OksAP(JOINTS).compute().values())
    empty = body([0] * 9)
    figures = measured([empty], [found([[0, 0]] * 3, [0.5] * 3)], THREE).compute()
    assert all(math.isnan(value) for value in figures.values())


def test_nothing_found():
    metric = OksAP(THREE)
    metric.expect(body([5, 5, 2] * 3)["truth"])
    figures = metric.compute()
    assert (figures["AP"], figures["AR"], figures["APm"]) == (0, 0, 0)


def test_two_processes_equal_one():
    targets, predictions = make(5, JOINTS)
    targets = [target for target in targets if "box" in target]
    expected = measured(targets, predictions, JOINTS).compute()
    parts = [measured(targets[rank::2], predictions[rank::2], JOINTS) for rank in range(2)]
    merged = OksAP(JOINTS)
    last = merged.compute()
    assert math.isnan(last["AP"])
    for part in reversed(parts):
        merged.merge(pickle.loads(pickle.dumps(part.state())))
        last = merged.compute()
    assert last == expected
    assert parts[0].compute()["AP"] != expected["AP"]  # and merging left the parts as they were
    assert sum(map(len, parts[0].found.values())) == len(targets[::2])
    merged.reset()
    assert math.isnan(merged.compute()["AP"])


def test_more_bodies_change_the_figures():
    # what was computed before is not kept
    targets, predictions = make(6, JOINTS)
    targets = [target for target in targets if "box" in target]
    metric = measured(targets[:10], predictions[:10], JOINTS)
    first = metric.compute()
    metric.update(predictions[10:], batch(targets[10:]))
    assert metric.compute() == measured(targets, predictions, JOINTS).compute() != first


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UserError, match=r"pip install 'foveal\[coco\]'"):
        OksAP(JOINTS)
