"""Keypoints of bodies whose boxes are known, with any timm backbone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image

from .._errors import UserError
from ..data import Bodies, JointAugment, Joints, JointTransform, stack_bodies
from ..keypoints import ESTIMATORS, STRIDE, Estimator
from ..metrics import OksAP
from ..necks import Registry
from ._task import Card
from ._transfer import Trained, Transfer, TransferArgs, load_model, summed

PYTHON = """\
from foveal import load_keypoints
from PIL import Image

model = load_keypoints("FOLDER")
found = model.estimate(Image.open("picture.jpg"), [(10, 20, 110, 220)])[0]  # of the body in a box (x1, y1, x2, y2)
print(dict(zip(model.joints.names, found["keypoints"].tolist())), found["scores"])"""


@dataclass(kw_only=True)
class KeypointArgs(TransferArgs):
    """What a run says of a keypoint estimator, beside what it says of any model over a backbone.

    Attributes:
        image_size: width in pixels of what is cut out around a body; a multiple of 4.
        max_size: its height in pixels; a multiple of 4.
        estimator: simple_baseline.
        estimator_args: further arguments of the estimator, as JSON: decoding, sigma, channels.
        flip_test: heatmaps of evaluation are means of those of the picture and of the mirrored picture.
        augment: what training does to bodies.
    """

    data: ClassVar[str] = "keypoints"

    image_size: int = 192
    max_size: int = 256
    estimator: str = "simple_baseline"
    estimator_args: dict[str, Any] = field(default_factory=dict)
    flip_test: bool = True
    augment: JointAugment = field(default_factory=JointAugment)

    def __post_init__(self):
        super().__post_init__()
        check_sides(self.image_size, self.max_size)

    @property
    def head(self) -> tuple[Registry, str, dict[str, Any]]:
        return ESTIMATORS, self.estimator, self.estimator_args

    @property
    def largest(self) -> tuple[int, int]:
        return self.max_size, self.image_size

    def build(self, data: Bodies) -> "Keypoints":
        return Keypoints(self, data.joints, data.categories)


class Keypoints(Transfer):
    """A keypoint estimator, its loss and average precision by OKS; see ``Transfer``.

    Args:
        args: estimator, backbone, preprocessing, augmentation.
        joints: what is marked on a body.
        categories: names of the kinds of bodies; they travel with the weights.
    """

    best = "AP"
    stack = staticmethod(stack_bodies)
    args: KeypointArgs
    model: Estimator

    def __init__(self, args: KeypointArgs, joints: Joints, categories: list[str]):
        super().__init__(args, list(joints.names))
        self.joints, self.categories = joints, categories

    def check(self, data: Any, train: bool) -> None:
        self.metric()  # needs a library that is an extra
        if train and self.args.augment.half_body > 0 and not self.joints.lower:
            raise UserError(
                "half-body needs joints named hip, knee or ankle, which the data does not have; set it to 0"
            )

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        """Batch {"image": [B, 3, H, W], "positions": [B, K, 2], "weights": [B, K]} -> {"loss": scalar, and parts}."""
        return summed(self.model.losses(self.model(batch["image"]), batch))

    @torch.inference_mode()
    def predict(self, batch: dict) -> list[dict[str, torch.Tensor]]:
        """Batch {"image", "matrix": [B, 2, 3]} -> for each body ``keypoints`` [K, 2] in its picture, ``scores`` [K]."""
        return predict(self.model, batch, self.joints, self.args.flip_test)

    def metric(self) -> OksAP:
        return OksAP(self.joints)

    def card(self) -> Card:
        short = "import foveal; foveal.load_keypoints({folder!r}).estimate(PICTURE, BOXES)"
        what = f"A {self.args.estimator}"
        return Card(pipeline="keypoint-detection", what=what, python=PYTHON, short=short)

    def transform(self, train: bool) -> JointTransform:
        """Cut out, resized and normalised as the backbone expects; in training augmented."""
        return transform(self.config(), self.args.augment if train else None)

    def example(self) -> dict:
        """A batch of one blank image."""
        return {"image": torch.zeros(1, 3, *self.args.largest), "matrix": torch.eye(2, 3)[None]}

    def config(self) -> dict[str, Any]:
        bodies = dict(joints=self.joints.to_dict(), categories=self.categories)
        return super().config() | bodies | {"flip_test": self.args.flip_test}


def check_sides(*sides: int) -> None:
    """Raise UserError unless heatmaps fit into an image of these sides exactly, so that mirrored ones do."""
    if odd := [side for side in sides if side % STRIDE]:
        raise UserError(f"image-size and max-size must be multiples of {STRIDE}, got {odd[0]}")


def transform(config: dict[str, Any], augment: JointAugment | None) -> JointTransform:
    """From a sample of the data to what ``stack_bodies`` takes."""
    seen, joints = config["pretrained_cfg"], Joints.from_dict(config["joints"])
    size = config["max_size"], config["image_size"]
    return JointTransform(size=size, mean=seen["mean"], std=seen["std"], joints=joints, augment=augment)


def predict(model: Estimator, batch: dict, joints: Joints, flip_test: bool) -> list[dict[str, torch.Tensor]]:
    """``Keypoints.predict``."""
    images = batch["image"]
    heatmaps = model(images)["heatmaps"].float()
    if flip_test:
        mirrored = model(images.flip(3))["heatmaps"].float()
        heatmaps = (heatmaps + mirrored.flip(3)[:, joints.mirrored]) / 2
    positions, scores = model.keypoints(heatmaps)
    x, y = (positions + 0.5).unbind(2)  # matrices go between edges of pixels
    rows = batch["matrix"][..., None].unbind(1)
    places = torch.stack([a * x + b * y + c - 0.5 for a, b, c in (row.unbind(1) for row in rows)], dim=2)
    return [{"keypoints": found, "scores": score} for found, score in zip(places, scores)]


class KeypointModel(Trained):
    """A trained keypoint estimator with its joints and preprocessing, in evaluation mode; see ``Trained``.

    Attributes:
        joints: what is marked on a body.
        categories: names of the kinds of bodies that it was trained on.
    """

    stack = staticmethod(stack_bodies)

    def __init__(self, *args: Any):
        super().__init__(*args)
        check_sides(self.config["image_size"], self.config["max_size"])
        self.joints, self.categories = Joints.from_dict(self.config["joints"]), list(self.config["categories"])

    def transform(self) -> JointTransform:
        """From a sample of data to what ``stack`` takes."""
        return transform(self.config, None)

    @torch.inference_mode()
    def predict(self, batch: dict) -> list[dict[str, torch.Tensor]]:
        """A batch -> for each body ``keypoints`` [K, 2] in pixels of its picture and ``scores`` [K], on the CPU."""
        moved = {name: batch[name].to(self.device) for name in ("image", "matrix")}
        with self.autocast():
            found = predict(self.model, moved, self.joints, self.config["flip_test"])
        return [{name: value.cpu() for name, value in prediction.items()} for prediction in found]

    def estimate(self, picture: Image.Image, boxes: Sequence[Sequence[float]]) -> list[dict[str, torch.Tensor]]:
        """The keypoints of bodies in a picture.

        Args:
            picture: it is seen in RGB; an orientation in EXIF is ignored.
            boxes: (x1, y1, x2, y2) of each body in pixels.

        Returns:
            For each box ``keypoints`` [K, 2], x and y of each of ``joints`` in pixels, 0 being the middle of the first
            one, and ``scores`` [K] in 0 to 1, on the CPU.

        Raises:
            UserError: a box without width or height.
        """
        seen, samples = self.transform(), []
        for box in boxes:
            target = {"box": np.asarray(box, dtype=np.float32)}
            if not (target["box"][2:] > target["box"][:2]).all():
                raise UserError(f"a box must have width and height, got {target['box'].tolist()}")
            samples.append(seen({"image": picture.convert("RGB"), "name": "", "target": target}, dict))
        return self.predict(self.stack(samples)) if samples else []


def load_keypoints(
    name: str,
    *,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    image_size: int | None = None,
    max_size: int | None = None,
) -> KeypointModel:
    """Load the keypoint estimator of a run.

    Args:
        name: the run's folder, or one of weights and config.json.
        device: as torch names it.
        precision: bf16 runs under autocast.
        image_size: width in pixels of what is cut out around a body, if not that of training.
        max_size: its height in pixels, if not that of training.

    Raises:
        UserError: no such folder, damaged weights, no keypoint estimator.
    """
    options: dict[str, Any] = dict(device=device, precision=precision, image_size=image_size, max_size=max_size)
    return load_model(KeypointModel, "keypoints", ESTIMATORS, name, **options)
