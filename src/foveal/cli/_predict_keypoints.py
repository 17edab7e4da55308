"""``foveal predict`` of a keypoint estimator."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from .._draw import draw_bodies
from .._errors import UserError, some
from ..metrics.coco import DECIMALS
from ._load import load_model
from ._predict_detection import look_at


def predict_bodies(
    model: str,
    pictures: Sequence[Path],
    *,
    boxes: str | None,
    threshold: float,
    out: Path | None,
    device: str,
    on_bad_image: Literal["stop", "skip"],
    as_json: bool,
) -> int:
    """Print or draw the joints of bodies in pictures and videos; arguments are those of the command."""

    def load() -> Callable:
        return partial(look_for_bodies, *load_estimator(model, boxes, device), threshold, as_json)

    return look_at(pictures, load, "bodies", threshold, out, on_bad_image, as_json)


def load_estimator(model: str, boxes: str | None, device: str) -> tuple[Any, Any]:
    """A keypoint estimator, and the detector of its bodies or None; raises UserError."""
    keypoints = load_model("keypoints", model, device=device)
    detector = None if boxes is None else load_model("detection", boxes, device=device)
    if detector is not None and not {*detector.classes} & {*keypoints.categories}:
        known = f"{some(detector.classes, 4)}; {model} knows {some(keypoints.categories, 4)}"
        raise UserError(f"{boxes} finds no bodies: it finds {known}")
    return keypoints, detector


def look_for_bodies(
    keypoints: Any,
    detector: Any,
    threshold: float,
    as_json: bool,
    picture: Image.Image,
    where: dict[str, Any],
    drawn: bool,
) -> tuple[list[tuple[str, float]], Image.Image]:
    """Names and scores of the boxes in a picture, and the picture, on which joints are ``drawn`` or not."""
    names, scores, boxes = ["body"], [1.0], [[0.0, 0.0, float(picture.width), float(picture.height)]]
    if detector is not None:
        (found,) = detector.detect([picture], threshold)
        columns = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist())
        rows = [(detector.classes[label], score, box) for label, score, box in columns]
        rows = [(n, s, b) for n, s, b in rows if n in keypoints.categories and b[2] > b[0] and b[3] > b[1]]
        names, scores, boxes = ([row[i] for row in rows] for i in range(3))
    bodies = keypoints.estimate(picture, boxes)
    if as_json:
        answer = where | dict(height=picture.height, width=picture.width, joints=keypoints.classes)
        answer["boxes"] = [[round(value, DECIMALS) for value in box] for box in boxes]
        answer |= dict(labels=names, scores=[round(score, 6) for score in scores])
        answer["keypoints"] = [
            [[*(round(v, DECIMALS) for v in place), round(score, 6)] for place, score in zip(*columns)]
            for columns in ((body["keypoints"].tolist(), body["scores"].tolist()) for body in bodies)
        ]
        print(json.dumps(answer))
    return [*zip(names, scores)], draw_bodies(picture, bodies, keypoints.joints.skeleton) if drawn else picture
