"""COCO's average precision of keypoints by object keypoint similarity (OKS), by faster-coco-eval."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data import Joints
from ._array import array
from .coco import DECIMALS, coco_library, evaluated, percentages

FIGURES = {"AP": 0, "AP50": 1, "AP75": 2, "APm": 3, "APl": 4, "AR": 5}  # places in COCO's summary
CONFIDENT = 0.2  # scores of joints above it make up that of a body (Xiao et al., 2018, their code)
SAME = 0.9  # OKS above which two predictions are of one body (Papandreou et al., 2017)


class OksAP:
    """Average precision in percent: over OKS 0.50 to 0.95, at 0.50, at 0.75, and of medium and large bodies.

    Beside it AR, the average recall of at most 20 predictions a picture. Sizes are those of COCO: medium is from 32^2
    to 96^2 square pixels of the picture, by the area that the data states. The score of a prediction is that of its
    box times the mean of its joints' scores above 0.2. Crowds and bodies without a marked joint are no misses, and what
    is predicted there is no false alarm.

    Args:
        joints: what is marked on a body.
        suppress: leave out predictions whose OKS with a better one of their picture is above 0.9, as is done where a
            detector gave the boxes.

    Raises:
        UserError: faster-coco-eval is not installed.
    """

    def __init__(self, joints: Joints, suppress: bool = False):
        coco_library()  # its absence shows here, and not behind an epoch of training
        self.joints, self.suppress = joints, suppress
        self.reset()

    def reset(self) -> None:
        self.truths: dict[int | str, dict[str, Any]] = {}  # by the id of a picture
        self.similar = np.zeros((2, len(self.joints)))  # sum and number of the similarities of marked joints
        self.found: dict[int | str, list[dict[str, Any]]] = {}  # likewise: results of COCO, "index" and "area"
        self._evaluated: Any = None

    def expect(self, truth: dict[str, Any]) -> None:
        """Add a picture whose bodies are to be found, as ``Bodies.truth`` gives it; a second time changes nothing."""
        self._evaluated = None
        self.truths[truth["image_id"]] = truth

    def update(self, predictions: list[dict[str, Any]], batch: dict) -> None:
        """Add a batch.

        Args:
            predictions: for each body ``keypoints`` [K, 2] in pixels of its picture and ``scores`` [K].
            batch: ``image`` [B, 3, H, W], ``matrix`` [B, 2, 3] from places in it to those in the picture, and
                ``target``, for each body what ``Bodies`` gives.
        """
        H, W = batch["image"].shape[2:]
        areas = (H * W * np.abs(np.linalg.det(array(batch["matrix"])[:, :, :2].astype(np.float64)))).tolist()
        for prediction, target, area in zip(predictions, batch["target"], areas, strict=True):
            self.expect(target["truth"])
            keypoints, scores = (array(prediction[name]).astype(np.float32) for name in ("keypoints", "scores"))
            confident = scores[scores > CONFIDENT].tolist()
            entry = dict(index=target["index"], area=area, category_id=target["label"])
            entry["keypoints"] = np.concatenate([keypoints, scores[:, None]], axis=1).flatten().tolist()
            entry["score"] = target["score"] * sum(confident) / max(1, len(confident))
            self.found.setdefault(target["truth"]["image_id"], []).append(entry)
            if target["body"] is not None:
                self._compare(keypoints.astype(np.float64), target["truth"], target["body"])

    def compute(self) -> dict[str, float]:
        """{"AP": percent, ...}; nan where there is nothing to find, as of everything before the first picture."""
        objects = self._objects()
        if self._evaluated is None and objects:
            ids = list(self.truths)
            found = [entry | {"image_id": place} for place, number in enumerate(ids) for entry in self.kept(number)]
            labels = sorted({entry["category_id"] for entry in objects + found})
            pictures = [{"id": number} for number in ids]
            sigmas = list(self.joints.sigmas)
            self._evaluated = evaluated(pictures, objects, found, labels, "keypoints", kpt_oks_sigmas=sigmas)
        return percentages(self._evaluated, FIGURES)

    def per_joint(self) -> list[float]:
        """Mean similarity of each joint to where it is marked, in percent; nan where it never is.

        Of bodies whose own boxes were given; for those of a detector it is nan.
        """
        total, number = self.similar
        return [100 * float(a / n) if n else float("nan") for a, n in zip(total, number)]

    def results(self, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """What is predicted as COCO's results JSON has it: x, y and score of each joint, and the score of a body.

        Args:
            category_ids: how the data numbers each kind of body.
        """
        entries = []
        for image_id in self.found:
            for entry in self.kept(image_id):
                kind = {"image_id": image_id, "category_id": category_ids[entry["category_id"]]}
                keypoints = [round(value, DECIMALS) for value in entry["keypoints"]]
                entries.append(kind | {"keypoints": keypoints, "score": entry["score"]})
        return entries

    def kept(self, image_id: int | str) -> list[dict[str, Any]]:
        """What is predicted in a picture, as COCO's results without their picture, in the order of the data."""
        entries = sorted(self.found.get(image_id, []), key=lambda entry: entry["index"])
        if self.suppress and entries:
            entries = [entries[place] for place in sorted(suppressed(entries, self.joints.sigmas))]
        return [{name: entry[name] for name in ("category_id", "keypoints", "score")} for entry in entries]

    def state(self) -> tuple[dict, dict, np.ndarray]:
        """What another process needs for ``merge``."""
        return self.truths, self.found, self.similar

    def merge(self, state: tuple[dict, dict, np.ndarray]) -> None:
        """Add what another process has seen."""
        truths, found, similar = state
        self._evaluated = None
        self.truths = self.truths | truths
        self.found = {number: self.found.get(number, []) + found.get(number, []) for number in self.found | found}
        self.similar = self.similar + similar

    def _compare(self, found: np.ndarray, truth: dict[str, Any], body: int) -> None:
        """Add how similar the joints [K, 2] of a body are to its own."""
        own = truth["keypoints"][body]
        marked = own[:, 2] > 0
        similar = similarities(own[:, :2], found[None], np.array([truth["area"][body]]), self.joints.sigmas)[0]
        self.similar += np.stack([np.where(marked, similar, 0), marked])

    def _objects(self) -> list[dict[str, Any]]:
        """As annotations of COCO."""
        entries = []
        for place, truth in enumerate(self.truths.values()):
            for i, (x1, y1, x2, y2) in enumerate(np.asarray(truth["boxes"]).tolist()):
                keypoints = truth["keypoints"][i]
                entry: dict[str, Any] = dict(image_id=place, category_id=int(truth["labels"][i]))
                entry |= dict(bbox=[x1, y1, x2 - x1, y2 - y1], area=float(truth["area"][i]))
                entry |= dict(iscrowd=int(truth["crowd"][i]), keypoints=np.asarray(keypoints).flatten().tolist())
                entries.append(entry | {"num_keypoints": int((keypoints[:, 2] > 0).sum())})
        return entries


def suppressed(entries: Sequence[dict[str, Any]], sigmas: Sequence[float]) -> list[int]:
    """Places of the predictions that are left where a better one stands for those that are much like it.

    The size of a body is the mean area of what the model saw of the picture for either (Xiao et al., 2018, their code).
    """
    order = sorted(range(len(entries)), key=lambda place: -entries[place]["score"])
    keypoints = np.array([entry["keypoints"] for entry in entries]).reshape(len(entries), -1, 3)[:, :, :2]
    areas, kept = np.array([entry["area"] for entry in entries]), []
    while order:
        best, *rest = order
        kept.append(best)
        others = np.array(rest, dtype=np.int64)
        similar = similarities(keypoints[best], keypoints[others], (areas[best] + areas[others]) / 2, sigmas)
        order = others[similar.mean(1) <= SAME].tolist()
    return kept


def similarities(one: np.ndarray, others: np.ndarray, area: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
    """Of each joint of a body [K, 2] with those of others [n, K, 2], for areas [n]: [n, K], whose mean is OKS."""
    variances = (2 * np.asarray(sigmas)) ** 2
    squares = ((others - one) ** 2).sum(2)
    return np.exp(-squares / variances / (area[:, None] + np.spacing(1)) / 2)
