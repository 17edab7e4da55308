"""Image classification with any timm model."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from timm.data import Mixup, create_transform, resolve_model_data_config
from timm.models._hub import save_config_for_hf

from .._classes import class_positions
from .._errors import UserError, first_line
from .._models import create_model
from ..data import OnImage
from ..metrics import Accuracy
from ._task import Card, Task, TaskArgs
from ._weights import load_weights

PYTHON = """\
import timm
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

import foveal  # registers the models with timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or hf-hub:USER/NAME
transform = create_transform(**resolve_model_data_config(model))
scores = model(transform(Image.open("picture.jpg").convert("RGB"))[None]).softmax(dim=-1)[0]
print(model.pretrained_cfg["label_names"][scores.argmax()])"""


@dataclass(kw_only=True)
class Augment:
    """What training does to pictures, by timm's transforms and Mixup.

    Attributes:
        crop_scale: smallest share of a picture's area that a random crop keeps.
        crop_ratio: widest aspect ratio of a crop; its inverse is the narrowest.
        hflip: probability of a mirrored picture.
        color_jitter: strength of colour jitter; without effect beside auto_augment, as in timm.
        auto_augment: timm's policy, as rand-m9-mstd0.5-inc1; empty for none.
        train_interpolation: of crops; random draws bilinear or bicubic.
        random_erasing: probability of random erasing (per-pixel noise).
        mixup: alpha of Mixup; 0 for none.
        cutmix: alpha of CutMix; 0 for none.
        mix_prob: probability that a batch is mixed at all.
        mix_switch: probability of CutMix where both are on.
    """

    crop_scale: float = 0.08
    crop_ratio: float = 4 / 3
    hflip: float = 0.5
    color_jitter: float = 0.0
    auto_augment: str = ""
    train_interpolation: Literal["random", "bilinear", "bicubic"] = "random"
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    mix_switch: float = 0.5

    def __post_init__(self):
        for name in ("hflip", "random_erasing", "mix_prob", "mix_switch"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name.replace('_', '-')} must be in [0, 1], got {getattr(self, name)}")
        for name in ("color_jitter", "mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name.replace('_', '-')} must not be below 0, got {getattr(self, name)}")
        if not 0 < self.crop_scale <= 1 or not 1 <= self.crop_ratio < math.inf:
            given = f"{self.crop_scale} and {self.crop_ratio}"
            raise UserError(f"crop-scale must be in (0, 1] and crop-ratio at least 1, got {given}")
        if not (self.mixup or self.cutmix) and (self.mix_prob, self.mix_switch) != (1.0, 0.5):
            raise UserError("mix-prob and mix-switch have no effect without mixup or cutmix")


@dataclass(kw_only=True)
class ClassificationArgs(TaskArgs):
    """What a run says of a classifier, beside what it says of any task.

    Attributes:
        crop_pct: share of the picture's shorter side that evaluation keeps; the model's own if not given.
        smoothing: label smoothing.
        augment: what training does to pictures.
        teacher: classifier to learn from: a timm name with weights, or a folder; empty for none.
        distill: learn the teacher's probabilities (soft) or its decision (hard); Touvron et al., 2021, eq. 2 and 3.
        distill_weight: share of the teacher in the loss.
        temperature: of both sides' probabilities, soft only.
    """

    data: ClassVar[str] = "classification"

    crop_pct: float | None = None
    smoothing: float = 0.1
    augment: Augment = field(default_factory=Augment)
    teacher: str = ""
    distill: Literal["soft", "hard"] = "soft"
    distill_weight: float = 0.5
    temperature: float = 1.0

    def __post_init__(self):
        for name, value in (("image-size", self.image_size), ("temperature", self.temperature)):
            if value <= 0:
                raise UserError(f"{name} must be above 0, got {value}")
        for name, value in (("crop-pct", self.crop_pct), ("distill-weight", self.distill_weight)):
            if value is not None and not 0 < value <= 1:
                raise UserError(f"{name} must be in (0, 1], got {value}")
        if not 0 <= self.smoothing < 1:
            raise UserError(f"smoothing must be in [0, 1), got {self.smoothing}")
        if not self.teacher and (self.distill, self.distill_weight, self.temperature) != ("soft", 0.5, 1.0):
            raise UserError("distill, distill-weight and temperature have no effect without a teacher")
        if "num_classes" in self.model_args:
            raise UserError("the number of classes is that of the data; leave num_classes out of model-args")
        if self.pretrained and self.weights:
            raise UserError("pretrained and the weights of a file exclude each other")

    def build(self, data: Any) -> "Classification":
        return Classification(self, data.classes)


class Classification(Task):
    """A timm classifier, cross-entropy and accuracy.

    Args:
        args: model, preprocessing, augmentation, teacher.
        classes: names of the classes; they travel with the weights.

    Raises:
        UserError: an unknown model or policy, weights of another architecture, a teacher of other classes.
    """

    best = "top1"

    def __init__(self, args: ClassificationArgs, classes: list[str]):
        super().__init__()
        self.args, self.classes = args, classes
        self.model = create_model(args.model, args.pretrained, num_classes=len(classes), **args.model_args)
        if args.weights is not None:
            other = partial(create_model, args.model, num_classes=len(classes) + 1, **args.model_args)
            load_weights(self.model, args.weights, other)
        mixed: Any = dict(label_smoothing=args.smoothing, num_classes=len(classes))
        augment = args.augment
        mixed |= dict(prob=augment.mix_prob, switch_prob=augment.mix_switch)
        self.mix = Mixup(augment.mixup, augment.cutmix, **mixed) if augment.mixup or augment.cutmix else None
        self.teacher = Teacher(args.teacher, classes, self.data_config()) if args.teacher else None
        self.transform(train=True)  # an unknown policy fails here and not in the first batch

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        """Batch {"image": [B, 3, H, W], "label": [B]} -> {"loss": scalar}, and with a teacher its part "distill"."""
        images, target = batch["image"], batch["label"]
        if self.mix is not None and self.training:
            if len(images) % 2:
                raise ValueError("Mixup and CutMix need an even batch")
            images, target = mix(self.mix, images, target)
        logits = self.model(images).float()
        smoothing = self.args.smoothing if target.ndim == 1 else 0.0  # Mixup has smoothed its targets
        loss = F.cross_entropy(logits, target, label_smoothing=smoothing)
        if self.teacher is None or not self.training:
            return {"loss": loss}
        distill = self.teacher.loss(logits, images, self.args)
        weight = self.args.distill_weight
        return {"loss": (1 - weight) * loss + weight * distill, "distill": distill.detach()}

    @torch.inference_mode()
    def predict(self, batch: dict) -> torch.Tensor:
        """Batch {"image": [B, 3, H, W]} -> probabilities [B, classes]."""
        return self.model(batch["image"]).float().softmax(dim=-1)

    def metric(self) -> Accuracy:
        """Top-1 accuracy, and top-5 where there are more classes than that."""
        return Accuracy((1, 5) if len(self.classes) > 5 else (1,))

    def data_config(self) -> dict[str, Any]:
        """timm's preprocessing at this run's size."""
        size, config = self.args.image_size, resolve_model_data_config(self.model)
        config |= dict(input_size=(3, size, size), crop_pct=self.args.crop_pct or config["crop_pct"])
        return {name: config[name] for name in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")}

    def transform(self, train: bool) -> Callable[[dict, Callable[[], dict]], dict]:
        """A sample's RGB picture becomes a normalised tensor [3, image_size, image_size], by timm's transform."""
        chosen, augment = self.data_config(), self.args.augment
        if train:
            chosen |= dict(
                is_training=True,
                scale=(augment.crop_scale, 1.0),
                ratio=(1 / augment.crop_ratio, augment.crop_ratio),
                hflip=augment.hflip,
                color_jitter=augment.color_jitter or None,
                auto_augment=augment.auto_augment or None,
                interpolation=augment.train_interpolation,
                re_prob=augment.random_erasing,
                re_mode="pixel",
            )
        try:
            transform: Any = create_transform(**chosen)
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"unknown augmentation {augment.auto_augment!r}: {first_line(error)}") from None
        return OnImage(transform)

    def example(self) -> dict:
        """A batch {"image": [1, 3, image_size, image_size]}."""
        return {"image": torch.zeros(1, 3, self.args.image_size, self.args.image_size)}

    def write_config(self, path: Path) -> None:
        """Write timm's config.json; ``timm.create_model("local-dir:FOLDER", pretrained=True)`` gives the same model."""
        write_config(self.model, self.config(), path)

    def config(self) -> dict[str, Any]:
        """What timm's config.json says beside the weights: classes and preprocessing."""
        seen = self.data_config() | dict(test_input_size=None, test_crop_pct=None, pool_size=None)
        return dict(label_names=self.classes, pretrained_cfg=seen)

    def card(self) -> Card:
        short = 'import foveal, timm; timm.create_model("local-dir:{folder}/best", pretrained=True)'
        common: dict[str, Any] = dict(pipeline="image-classification", library="timm", metrics=("accuracy",))
        return Card(**common, what="An image classifier", python=PYTHON, short=short)


def write_config(model: Any, config: dict[str, Any], path: Path) -> None:
    """Write timm's config.json of a model.

    Args:
        config: ``label_names`` and ``pretrained_cfg`` to store in it.
    """
    save_config_for_hf(model, str(path), model_config=config)
    stored = json.loads(path.read_text())
    stored["model_args"].pop("num_classes", None)  # it stands beside them, and transformers would pass it twice
    path.write_text(json.dumps(stored, indent=2))


mix: Any = torch.compiler.disable(Mixup.__call__)  # it would be compiled anew for each share that it draws


class Teacher:
    """A frozen classifier that a student learns from, at its own size; no part of the student's parameters.

    Args:
        name: a timm name with weights, or a folder.
        classes: the student's, among which the teacher's are found as ``class_positions`` does.
        student: the student's preprocessing.
    """

    def __init__(self, name: str, classes: list[str], student: dict[str, Any]):
        self.model = create_model(name, pretrained=True).eval().requires_grad_(False)
        names = self.model.pretrained_cfg.get("label_names")
        own = list(names) if names else None
        self.positions = class_positions(f"teacher {name}", own, self.model.num_classes, classes)
        config = resolve_model_data_config(self.model)
        mean, std, own_mean, own_std = (
            torch.tensor(values).view(1, -1, 1, 1)
            for values in (student["mean"], student["std"], config["mean"], config["std"])
        )
        self.scale, self.shift = std / own_std, (mean - own_mean) / own_std
        self.size = config["input_size"][1:]

    def __deepcopy__(self, memo: dict) -> "Teacher":
        return self  # averaged weights share it

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """The student's images [B, 3, H, W] -> logits [B, classes]."""
        if self.scale.device != images.device:
            self.scale, self.shift = self.scale.to(images.device), self.shift.to(images.device)
            self.model.to(images.device)
        images = images * self.scale + self.shift
        if self.size != images.shape[2:]:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True)
        return self.model(images).float()[:, self.positions]

    def loss(self, logits: torch.Tensor, images: torch.Tensor, args: ClassificationArgs) -> torch.Tensor:
        """Cross-entropy with the teacher's decision, or divergence from its probabilities at a temperature."""
        target = self.logits(images)
        if args.distill == "hard":
            return F.cross_entropy(logits, target.argmax(dim=1))
        student, teacher = (F.log_softmax(x / args.temperature, dim=1) for x in (logits, target))
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * args.temperature**2
