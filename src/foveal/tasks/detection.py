"""Object detection and instance segmentation with any timm backbone."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torchvision.models.detection.roi_heads import paste_masks_in_image

from .._errors import UserError
from ..data import BoxAugment, BoxTransform, Marked, stack_marked
from ..detection import DETECTORS, Detector
from ..metrics.coco import CocoAP
from ..necks import Registry
from ._task import Card
from ._transfer import Trained, Transfer, TransferArgs, load_model, summed

PYTHON = """\
from foveal import load_detector
from PIL import Image

detector = load_detector("FOLDER")
found = detector.detect([Image.open("picture.jpg")], threshold=0.5)[0]  # boxes in pixels, scores, labels
print(found["boxes"], found["scores"], [detector.classes[label] for label in found["labels"]])"""


@dataclass(kw_only=True)
class DetectionArgs(TransferArgs):
    """What a run says of a detector, beside what it says of any model over a backbone.

    Attributes:
        image_size: shorter side of the pictures in pixels; of SSD and SSDLite the side of a square.
        detector: ssd, ssdlite, retinanet, fcos, atss, faster_rcnn, mask_rcnn, sparse_rcnn or detr.
        detector_args: further arguments of the detector, as JSON.
        augment: what training does to pictures.
    """

    data: ClassVar[str] = "detection"

    image_size: int = 800
    detector: str = "retinanet"
    detector_args: dict[str, Any] = field(default_factory=dict)
    augment: BoxAugment = field(default_factory=BoxAugment)

    @property
    def head(self) -> tuple[Registry, str, dict[str, Any]]:
        return DETECTORS, self.detector, self.detector_args

    @property
    def largest(self) -> tuple[int, int]:
        return self.image_size, self.image_size if DETECTORS[self.detector].square else self.max_size

    def build(self, data: Any) -> "Detection":
        return Detection(self, data.classes)


def _unmasked(data: Any) -> str:
    """Which pictures of some data have an object without a mask."""
    without = data.without_mask()
    if len(without) == sum(map(bool, map(len, data.objects))):
        return "the data does not have"
    return f"objects in {len(without)} pictures do not have, {data.name(without[0])} among them"


class Detection(Transfer):
    """A detector, its losses and COCO's average precision; see ``Transfer``."""

    best = "AP"
    stack = staticmethod(stack_marked)
    args: DetectionArgs
    model: Detector

    def check(self, data: Any, train: bool) -> None:
        self.metric()  # needs a library that is an extra
        if isinstance(data, Marked) and not any(map(len, data.objects)):
            raise UserError(f"the {'training' if train else 'validation'} pictures have no objects")
        if self.model.masks and not data.has_masks:
            raise UserError(f"{self.args.detector} needs masks, which {_unmasked(data)}; faster_rcnn does without")
        if train and self.args.augment.copy_paste > 0 and not data.has_masks:
            raise UserError(f"copy-paste needs masks, which {_unmasked(data)}; leave --copy-paste out")

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        """Batch {"image": [B, 3, H, W], "size": [B, 2], "target": B dicts} -> {"loss": scalar, and the parts of it}."""
        return summed(self.model.losses(self.model(batch["image"], batch["size"]), batch["target"]))

    @torch.inference_mode()
    def predict(self, batch: dict) -> list[dict[str, torch.Tensor]]:
        """Batch {"image", "size", "original": [B, 2]} -> for each picture boxes, scores, labels, and masks if any.

        Boxes [n, 4] are in pixels of the original picture, masks [n, H, W] are bool over all of it.
        """
        return predict(self.model, batch)

    def metric(self) -> CocoAP:
        """Average precision of boxes, and of masks where the detector has them."""
        return CocoAP(len(self.classes), masks=self.model.masks)

    def card(self) -> Card:
        what, short = f"A {self.args.detector}", "import foveal; foveal.load_detector({folder!r}).detect([PICTURE])"
        return Card(pipeline="object-detection", what=what, python=PYTHON, short=short)

    def transform(self, train: bool) -> BoxTransform:
        """Resized and normalised as the backbone expects; in training augmented."""
        return transform(self.model, self.config(), self.args.augment if train else None)


def transform(model: Detector, config: dict[str, Any], augment: BoxAugment | None) -> BoxTransform:
    """From a sample of the data to what ``stack_marked`` takes; without ``augment`` the target stays as it is."""
    seen = config["pretrained_cfg"]
    size: dict[str, Any] = dict(size=config["image_size"], max_size=config["max_size"], square=model.square)
    return BoxTransform(**size, mean=seen["mean"], std=seen["std"], augment=augment, masks=model.masks)


def predict(model: Detector, batch: dict, threshold: float = 0.0) -> list[dict[str, torch.Tensor]]:
    """``Detection.predict`` without what has a score below ``threshold``."""
    found = []
    raw = model.detections(model(batch["image"], batch["size"]), batch["size"])
    for prediction, size, original in zip(raw, batch["size"].tolist(), batch["original"].tolist()):
        prediction = {name: value[prediction["scores"] >= threshold] for name, value in prediction.items()}
        (h, w), (H, W) = size, original
        prediction["boxes"] = prediction["boxes"] * prediction["boxes"].new_tensor([W / w, H / h, W / w, H / h])
        if "masks" in prediction:
            pasted = paste_masks_in_image(prediction["masks"][:, None], prediction["boxes"], (H, W))
            prediction["masks"] = pasted[:, 0] > 0.5
        found.append(prediction)
    return found


class DetectorModel(Trained):
    """A trained detector with its classes and preprocessing, in evaluation mode; see ``Trained``."""

    stack = staticmethod(stack_marked)

    @property
    def masks(self) -> bool:
        """Whether predictions have masks."""
        return self.model.masks

    @property
    def square(self) -> bool:
        """Whether pictures are squeezed into a square."""
        return self.model.square

    def transform(self) -> BoxTransform:
        """From a sample of data to what ``stack`` takes."""
        return transform(self.model, self.config, None)

    @torch.inference_mode()
    def predict(self, batch: dict, threshold: float = 0.0) -> list[dict[str, torch.Tensor]]:
        """A batch -> for each picture what ``detect`` gives."""
        moved = {name: batch[name].to(self.device) for name in ("image", "size", "original")}
        with self.autocast():
            found = predict(self.model, moved, threshold)
        return [{name: value.cpu() for name, value in prediction.items()} for prediction in found]

    def detect(self, pictures: list[Image.Image], threshold: float = 0.0) -> list[dict[str, torch.Tensor]]:
        """What is in pictures of any sizes.

        Args:
            pictures: they are seen in RGB; an orientation in EXIF is ignored.
            threshold: what has a lower score is left out; no detector gives all that scores next to nothing.

        Returns:
            For each picture ``boxes`` [n, 4] (x1, y1, x2, y2) in its pixels, ``scores`` [n] from high to low,
            ``labels`` [n], indices into ``classes``, and ``masks`` bool [n, H, W] if any, on the CPU.

        Raises:
            UserError: the threshold is not in 0 to 1.
        """
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold must be in [0, 1], got {threshold}")
        if not pictures:
            return []
        seen = self.transform()
        samples = [seen({"image": p.convert("RGB"), "name": "", "target": {}}, dict) for p in pictures]
        return self.predict(self.stack(samples), threshold)


def load_detector(
    name: str,
    *,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    image_size: int | None = None,
    max_size: int | None = None,
) -> DetectorModel:
    """Load the detector of a run.

    Args:
        name: the run's folder, or one of weights and config.json.
        device: as torch names it.
        precision: bf16 runs under autocast.
        image_size: shorter side of the pictures in pixels, if not that of training.
        max_size: longest side in pixels, if not that of training.

    Raises:
        UserError: no such folder, damaged weights, no detector, an ``image_size`` above ``max_size``.
    """
    options: dict[str, Any] = dict(device=device, precision=precision, image_size=image_size, max_size=max_size)
    return load_model(DetectorModel, "detection", DETECTORS, name, **options)
