"""COCO's average precision of boxes and masks (Lin et al., 2014), by faster-coco-eval."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .._errors import UserError
from ..data import run_length_code
from ._array import array

FIGURES = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5, "AR": 8}  # places in COCO's summary
PREFIXES = {"bbox": "", "segm": "mask_"}
DECIMALS = 3  # of a box in pixels, in results


class CocoAP:
    """Average precision in percent: over IoU 0.50 to 0.95, at 0.50, at 0.75, and of small, medium and large objects.

    Beside it AR, the average recall of at most 100 detections a picture and class. Sizes are those of COCO: small is up
    to 32^2, medium up to 96^2 square pixels of the original picture, by the area that the data states. The size of a
    prediction that meets nothing is that of its box, and for ``mask_`` figures that of its mask.

    Args:
        num_classes: number of classes.
        masks: measure masks too, as ``mask_AP`` and so on.

    Raises:
        UserError: faster-coco-eval is not installed.
    """

    def __init__(self, num_classes: int, masks: bool = False):
        coco_library()  # its absence shows here, and not behind an epoch of training
        self.num_classes, self.masks = num_classes, masks
        self.kinds = ("bbox", "segm") if masks else ("bbox",)
        self.reset()

    def reset(self) -> None:
        self.pictures: list[dict[str, Any]] = []  # their ids, heights and widths
        self.objects: list[dict[str, Any]] = []  # as annotations of COCO; image_id is a place in ``pictures``
        self.found: list[dict[str, Any]] = []  # as results of COCO; likewise
        self._evaluated: dict[str, Any] = {}

    def update(self, predictions: list[dict[str, Any]], batch: dict) -> None:
        """Add a batch.

        Args:
            predictions: for each picture ``boxes`` [n, 4] (x1, y1, x2, y2), ``scores``, ``labels`` [n], and with masks
                ``masks`` bool [n, H, W], in pixels of the original picture.
            batch: ``original``, height and width [B, 2], and ``target``, for each picture ``boxes`` [m, 4], ``labels``,
                ``crowd``, ``area`` [m], ``image_id``, and with masks ``segmentations``: m polygons, run-length codes or
                bool arrays.

        Raises:
            UserError: an object has no mask; faster-coco-eval is not installed.
        """
        self._evaluated = {}
        sizes = array(batch["original"]).tolist()
        for prediction, target, size in zip(predictions, batch["target"], sizes, strict=True):
            place = len(self.pictures)
            self.pictures.append({"id": target["image_id"], "height": size[0], "width": size[1]})
            columns = [_xywh(target["boxes"]), *(target[name].tolist() for name in ("labels", "crowd", "area"))]
            for i, (box, label, crowd, area) in enumerate(zip(*columns, strict=True)):
                entry: dict[str, Any] = dict(image_id=place, category_id=label, bbox=box, area=area, iscrowd=int(crowd))
                if self.masks:
                    code = target["segmentations"] and target["segmentations"][i]
                    if code is None and crowd:  # often marked by its box alone
                        x, y, w, h = box
                        code = [[x, y, x + w, y, x + w, y + h, x, y + h]]
                    if code is None:
                        raise UserError(f"picture {target['image_id']} has an object without a mask")
                    entry["segmentation"] = encode_mask(code, size)
                self.objects.append(entry)
            self.found += _results(prediction, place, range(self.num_classes), self.masks)

    def compute(self) -> dict[str, float]:
        """{"AP": percent, ...}; nan where there is nothing to find, as of everything before the first picture."""
        figures = {}
        for kind in self.kinds:
            evaluation = self._evaluate(kind) if self.objects else None
            figures |= {PREFIXES[kind] + name: value for name, value in percentages(evaluation, FIGURES).items()}
        return figures

    def per_class(self, kind: str = "bbox") -> list[float]:
        """AP of each class in percent, of boxes ("bbox") or masks ("segm"); nan where it has no object."""
        if not self.objects:
            return [float("nan")] * self.num_classes
        precision = np.asarray(self._evaluate(kind).eval["precision"])[:, :, :, 0, -1]  # [IoU, recall, class]
        there = [precision[:, :, label][precision[:, :, label] > -1] for label in range(self.num_classes)]
        return [100 * float(values.mean()) if values.size else float("nan") for values in there]

    def class_objects(self) -> list[int]:
        """Objects of each class, without crowds."""
        labels = [entry["category_id"] for entry in self.objects if not entry["iscrowd"]]
        return np.bincount(np.array(labels, dtype=np.int64), minlength=self.num_classes).tolist()

    def state(self) -> tuple[list, list, list]:
        """What another process needs for ``merge``."""
        return self.pictures, self.objects, self.found

    def merge(self, state: tuple[list, list, list]) -> None:
        """Add what another process has seen."""
        first, (pictures, objects, found) = len(self.pictures), state
        self._evaluated = {}
        self.pictures = self.pictures + pictures
        self.objects = self.objects + [entry | {"image_id": entry["image_id"] + first} for entry in objects]
        self.found = self.found + [entry | {"image_id": entry["image_id"] + first} for entry in found]

    def _evaluate(self, kind: str) -> Any:
        """COCO's evaluation, done once."""
        if kind not in self._evaluated:
            found = self.found
            if kind == "segm":  # else the size of a prediction would be that of its box
                found = [{key: value for key, value in entry.items() if key != "bbox"} for entry in found]
            self._evaluated[kind] = evaluated(self.pictures, self.objects, found, range(self.num_classes), kind)
        return self._evaluated[kind]


def evaluated(
    pictures: list[dict[str, Any]],
    objects: list[dict[str, Any]],
    found: list[dict[str, Any]],
    labels: Iterable[int],
    kind: str,
    **options: Any,
) -> Any:
    """An evaluation by faster-coco-eval that has run.

    Among detections of equal scores the order of the pictures decides. It is that of their ids, so that it does not
    depend on which process has seen which.

    Args:
        pictures: as images of COCO, with ids of any kind.
        objects: as annotations of COCO; image_id is a place in ``pictures``.
        found: as results of COCO; likewise.
        labels: of the categories.
        kind: bbox, segm or keypoints.
        options: of the evaluation.

    Raises:
        UserError: faster-coco-eval is not installed.
    """
    library, ids = coco_library(), [picture["id"] for picture in pictures]
    order = sorted(range(len(ids)), key=lambda place: (isinstance(ids[place], str), ids[place]))
    rank = {place: number for number, place in enumerate(order)}
    truth = library.COCO(
        {
            "images": [pictures[place] | {"id": number} for number, place in enumerate(order)],
            "annotations": [
                entry | {"id": number, "image_id": rank[entry["image_id"]]}
                for number, entry in enumerate(objects, start=1)
            ],
            "categories": [{"id": label, "name": str(label)} for label in labels],
        }
    )
    results = truth.loadRes([entry | {"image_id": rank[entry["image_id"]]} for entry in found])
    evaluation = library.COCOeval_faster(truth, results, kind, **options)
    evaluation.run()
    return evaluation


def percentages(evaluation: Any, places: dict[str, int]) -> dict[str, float]:
    """Figures of an evaluation's summary in percent; nan where there is nothing to find, as in None."""
    values = {name: -1.0 if evaluation is None else float(evaluation.stats[place]) for name, place in places.items()}
    return {name: 100 * value if value >= 0 else float("nan") for name, value in values.items()}


def coco_results(
    predictions: list[dict[str, Any]], image_ids: Sequence[Any], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Predictions as COCO's results JSON has them: boxes (x, y, width, height), and masks if any.

    pycocotools takes the size of such a prediction from its box. To get the ``mask_`` figures of ``CocoAP`` for small,
    medium and large objects from it, leave ``bbox`` out, as detectron2 does.

    Args:
        predictions: as ``CocoAP.update`` takes them.
        image_ids: how the data numbers each picture.
        category_ids: how it numbers each class.
    """
    entries = []
    for prediction, image_id in zip(predictions, image_ids, strict=True):
        entries += _results(prediction, image_id, category_ids, "masks" in prediction)
    for entry in entries:
        entry["bbox"] = [round(value, DECIMALS) for value in entry["bbox"]]
        entry["score"] = float(str(np.float32(entry["score"])))  # the shortest number that is this one
    return entries


def _results(
    prediction: dict[str, Any], image_id: Any, category_ids: Sequence[int], masks: bool
) -> list[dict[str, Any]]:
    boxes, scores, labels = _xywh(prediction["boxes"]), prediction["scores"].tolist(), prediction["labels"].tolist()
    entries: list[dict[str, Any]] = [
        dict(image_id=image_id, category_id=category_ids[label], bbox=box, score=score)
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]
    if masks:
        for entry, mask in zip(entries, array(prediction["masks"]), strict=True):
            entry["segmentation"] = encode_mask(mask, mask.shape)
    return entries


def encode_mask(mask: Any, size: Sequence[int]) -> dict[str, Any]:
    """COCO's compressed run-length code {"size", "counts"}, whose counts are text.

    Args:
        mask: bool [H, W], polygons, or a run-length code of either form.
        size: (H, W) in pixels.

    Raises:
        UserError: faster-coco-eval is not installed.
    """
    code = run_length_code(mask, size)
    counts = code["counts"]
    return {"size": [int(side) for side in size], "counts": counts.decode() if isinstance(counts, bytes) else counts}


def _xywh(boxes: Any) -> list[list[float]]:
    values = array(boxes).astype(np.float64)
    return np.concatenate([values[:, :2], values[:, 2:] - values[:, :2]], axis=1).tolist()


def coco_library() -> Any:
    """faster-coco-eval; raises UserError if it is not installed."""
    try:
        import faster_coco_eval
    except ImportError:
        raise UserError("average precision needs faster-coco-eval: pip install 'foveal[coco]'") from None
    return faster_coco_eval
