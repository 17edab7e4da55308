"""Object detection and instance segmentation with any timm backbone."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from timm.data import resolve_model_data_config
from torchvision.models.detection.roi_heads import paste_masks_in_image

from .._errors import UserError, first_line, unknown
from .._models import weights_folder
from ..data import BoxAugment, BoxTransform, stack_marked
from ..detection import DETECTORS, Detector, build
from ..metrics.coco import CocoAP
from ._task import Task, TaskArgs
from ._weights import DAMAGED, load_state, read_config, read_weights


@dataclass(kw_only=True)
class DetectionArgs(TaskArgs):
    """What a run says of a detector, beside what it says of any task; ``model`` is its backbone.

    Attributes:
        image_size: shorter side of the pictures in pixels; of SSD and SSDLite the side of a square.
        max_size: longest side of the pictures in pixels.
        detector: ssd, ssdlite, retinanet, fcos, atss, faster_rcnn, mask_rcnn, sparse_rcnn or detr.
        detector_args: further arguments of the detector, as JSON.
        frozen_stages: 1 to 4 for layers that are not trained: those of the backbone's map of stride 4, 8, 16 or 32.
        frozen_bn: BatchNorm of the backbone keeps its statistics and is not trained.
        augment: what training does to pictures.
    """

    data: ClassVar[str] = "detection"

    image_size: int = 800
    max_size: int = 1333
    detector: str = "retinanet"
    detector_args: dict[str, Any] = field(default_factory=dict)
    frozen_stages: int = 0
    frozen_bn: bool = False
    augment: BoxAugment = field(default_factory=BoxAugment)

    def __post_init__(self):
        if self.detector not in DETECTORS:
            raise unknown("detector", self.detector, DETECTORS)
        if self.image_size < 1:
            raise UserError(f"image-size must be above 0, got {self.image_size}")
        if self.max_size < self.image_size:
            raise UserError(f"max-size must not be below image-size {self.image_size}, got {self.max_size}")
        if "num_classes" in self.detector_args | self.model_args:
            raise UserError("the number of classes is that of the data; leave num_classes out")
        if self.pretrained and self.weights:
            raise UserError("pretrained and the weights of a file exclude each other")

    def build(self, classes: list[str]) -> "Detection":
        return Detection(self, classes)


class Detection(Task):
    """A detector, its losses and COCO's average precision.

    Args:
        args: detector, backbone, preprocessing, augmentation.
        classes: names of the classes; they travel with the weights.

    Raises:
        UserError: an unknown backbone, arguments that it or the detector does not take, weights of another detector.
    """

    best = "AP"
    model: Detector

    def __init__(self, args: DetectionArgs, classes: list[str]):
        super().__init__()
        self.args, self.classes = args, classes
        self.model = self._build(len(classes), args.pretrained)
        if args.weights is not None:
            load_weights(self.model, args.weights, lambda: self._build(len(classes) + 1, False))

    def _build(self, num_classes: int, pretrained: bool) -> Detector:
        args = self.args
        frozen = dict(frozen_stages=args.frozen_stages, frozen_bn=args.frozen_bn)
        options: dict[str, Any] = dict(pretrained=pretrained, **frozen, backbone_args=args.model_args)
        return build(args.detector, args.model, num_classes, **options, **args.detector_args)

    def check(self, data: Any) -> None:
        self.metric()  # needs a library that is an extra
        if self.model.masks and not data.has_masks:
            raise UserError(f"{self.args.detector} needs masks, which the data does not have; faster_rcnn does without")

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        """Batch {"image": [B, 3, H, W], "size": [B, 2], "target": B dicts} -> {"loss": scalar, and the parts of it}."""
        parts = self.model.losses(self.model(batch["image"], batch["size"]), batch["target"])
        return {"loss": torch.stack(list(parts.values())).sum()} | {k: v.detach() for k, v in parts.items()}

    @torch.inference_mode()
    def predict(self, batch: dict) -> list[dict[str, torch.Tensor]]:
        """Batch {"image", "size", "original": [B, 2]} -> for each picture boxes, scores, labels, and masks if any.

        Boxes [n, 4] are in pixels of the original picture, masks [n, H, W] are bool over all of it.
        """
        return predict(self.model, batch)

    def metric(self) -> CocoAP:
        """Average precision of boxes, and of masks where the detector has them."""
        return CocoAP(len(self.classes), masks=self.model.masks)

    def transform(self, train: bool) -> BoxTransform:
        """Resized and normalised as the backbone expects; in training augmented."""
        return transform(self.model, self.config(), self.args.augment if train else None)

    @staticmethod
    def stack(samples: list[dict]) -> dict:
        return stack_marked(samples)

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width in pixels of the largest pictures."""
        return self.args.image_size, self.args.image_size if self.model.square else self.args.max_size

    def example(self) -> dict:
        """A batch of one blank picture of the largest size."""
        sizes = torch.tensor([self.largest])
        return {"image": torch.zeros(1, 3, *self.largest), "size": sizes, "original": sizes}

    def compile_model(self) -> None:
        """Compile the detector's forward pass; sizes differ from batch to batch, so shapes become dynamic."""
        self.model.compile()

    def config(self) -> dict[str, Any]:
        """Classes, preprocessing, and all that is needed to build the detector again."""
        args, body = self.args, self.model.backbone
        seen = resolve_model_data_config(body.body)
        return dict(
            task="detection",
            detector=args.detector,
            detector_args=args.detector_args,
            architecture=body.architecture,
            model_args=body.model_args,
            label_names=self.classes,
            pretrained_cfg=dict(input_size=(3, *self.largest), mean=seen["mean"], std=seen["std"]),
            image_size=args.image_size,
            max_size=args.max_size,
        )

    def write_config(self, path: Path) -> None:
        """Write what ``load_detector`` reads."""
        path.write_text(json.dumps(self.config(), indent=2))


def transform(model: Detector, config: dict[str, Any], augment: BoxAugment | None) -> BoxTransform:
    """From a sample of the data to what ``stack_marked`` takes; without ``augment`` the target stays as it is."""
    seen = config["pretrained_cfg"]
    size: dict[str, Any] = dict(size=config["image_size"], max_size=config["max_size"], square=model.square)
    return BoxTransform(**size, mean=seen["mean"], std=seen["std"], augment=augment, masks=model.masks)


def predict(model: Detector, batch: dict) -> list[dict[str, torch.Tensor]]:
    """``Detection.predict``."""
    found = model.detections(model(batch["image"], batch["size"]), batch["size"])
    for prediction, size, original in zip(found, batch["size"].tolist(), batch["original"].tolist()):
        (h, w), (H, W) = size, original
        prediction["boxes"] = prediction["boxes"] * prediction["boxes"].new_tensor([W / w, H / h, W / w, H / h])
        if "masks" in prediction:
            pasted = paste_masks_in_image(prediction["masks"][:, None], prediction["boxes"], (H, W))
            prediction["masks"] = pasted[:, 0] > 0.5
    return found


def load_weights(model: Detector, path: Path, other: Callable[[], Detector]) -> None:
    """Load a file of a detector's weights; what depends on the classes is left as it is where their number differs.

    Args:
        path: safetensors, or a checkpoint that holds nothing but tensors.
        other: makes the same detector for another number of classes, which shows what depends on it.

    Raises:
        UserError: no such file, code in it, another detector or backbone.
    """
    state, own = read_weights(path), model.state_dict()
    different = [key for key in state.keys() & own.keys() if state[key].shape != own[key].shape]
    if different:
        theirs = other().state_dict()
        for key in different:
            if theirs[key].shape != own[key].shape:  # it depends on the number of classes
                state[key] = own[key]
    load_state(model, state, path)


class DetectorModel:
    """A trained detector with its classes and preprocessing, in evaluation mode.

    Attributes:
        classes: their names.
        masks: whether predictions have masks.
    """

    def __init__(self, name: str, model: Detector, config: dict[str, Any], device: str, precision: str):
        self.name, self.config = name, config
        self.model, self.device, self.bfloat16 = model.eval().to(device), torch.device(device), precision == "bf16"
        self.classes: list[str] = list(config["label_names"])
        self.masks = model.masks

    def transform(self) -> BoxTransform:
        """From a sample of data to what ``stack`` takes."""
        return transform(self.model, self.config, None)

    @staticmethod
    def stack(samples: list[dict]) -> dict:
        """From samples to a batch."""
        return stack_marked(samples)

    @torch.inference_mode()
    def predict(self, batch: dict) -> list[dict[str, torch.Tensor]]:
        """A batch -> for each picture boxes [n, 4] in its own pixels, scores, labels, and masks if any, on the CPU."""
        moved = {name: batch[name].to(self.device) for name in ("image", "size", "original")}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            found = predict(self.model, moved)
        return [{name: value.cpu() for name, value in prediction.items()} for prediction in found]

    def detect(self, pictures: list[Image.Image]) -> list[dict[str, torch.Tensor]]:
        """``predict`` of RGB pictures of any sizes."""
        seen = self.transform()
        samples = [seen({"image": picture, "name": "", "target": {}}, dict) for picture in pictures]
        return self.predict(self.stack(samples))


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
        UserError: no such folder, damaged weights, no detector.
    """
    if not Path(name).is_dir():
        raise UserError(f"no such folder: {name}; expected the folder of a run of a detector")
    folder = weights_folder(Path(name))
    config = read_config(folder)
    if config.get("task") != "detection":
        raise UserError(f"{name} holds no detector")
    config |= {k: v for k, v in dict(image_size=image_size, max_size=max_size).items() if v is not None}
    if not 0 < config["image_size"] <= config["max_size"]:
        raise UserError(f"image-size must be above 0 and at most max-size, got {config['image_size']}")
    try:
        args: dict[str, Any] = dict(backbone_args=config["model_args"], **config["detector_args"])
        model = build(config["detector"], config["architecture"], len(config["label_names"]), **args)
        model.load_state_dict(read_weights(folder / "model.safetensors"))
    except DAMAGED as error:
        raise UserError(f"cannot load {folder}, written by another version or damaged: {first_line(error)}") from None
    return DetectorModel(name, model, config, device, precision)
