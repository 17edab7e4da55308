"""Semantic segmentation with any timm backbone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .._errors import UserError
from .._views import AT_ONCE, Views
from ..data import (
    IGNORED,
    ONE_CLASS,
    BadImage,
    MaskAugment,
    MaskTransform,
    class_map,
    is_of_one_class,
    stack_masked,
)
from ..metrics import MeanIoU
from ..necks import Registry
from ..segmentation import SEGMENTERS, Segmenter
from ._task import Card
from ._transfer import Trained, Transfer, TransferArgs, load_model, summed

CHECKED = 32  # masks of a part, spread over it
PYTHON = """\
from foveal import load_segmenter
from PIL import Image

segmenter = load_segmenter("FOLDER")
classes = segmenter.segment([Image.open("picture.jpg")])[0]  # of every pixel [H, W]
print({segmenter.classes[i]: int((classes == i).sum()) for i in classes.unique()})"""


@dataclass(kw_only=True)
class SegmentationArgs(TransferArgs):
    """What a run says of a segmenter, beside what it says of any model over a backbone.

    Attributes:
        image_size: shorter side of the pictures in pixels, and side of the square crops of training.
        segmenter: semantic_fpn or upernet.
        segmenter_args: further arguments of the segmenter, as JSON.
        ignore_index: value in masks of pixels that do not count.
        reduce_zero_label: the value 0 in masks does not count either, and the first class is 1, as in ADE20K.
        augment: what training does to pictures.
    """

    data: ClassVar[str] = "segmentation"

    image_size: int = 512
    max_size: int = 2048
    segmenter: str = "upernet"
    segmenter_args: dict[str, Any] = field(default_factory=dict)
    ignore_index: int = IGNORED
    reduce_zero_label: bool = False
    augment: MaskAugment = field(default_factory=MaskAugment)

    @property
    def head(self) -> tuple[Registry, str, dict[str, Any]]:
        return SEGMENTERS, self.segmenter, self.segmenter_args

    def build(self, data: Any) -> "Segmentation":
        return Segmentation(self, data.classes)


class Segmentation(Transfer):
    """A segmenter, its loss and mean IoU; see ``Transfer``."""

    best = "mIoU"
    stack = staticmethod(stack_masked)
    args: SegmentationArgs
    model: Segmenter

    def check(self, data: Any, train: bool) -> None:
        """Masks of 0 and 255 would have one class, and be learned to the end."""
        counts = np.zeros(IGNORED + 1, np.int64)
        for index in range(0, len(data), max(1, len(data) // CHECKED)):
            try:
                mask = data.annotation(index)["mask"]
                labels = self.args.ignore_index, self.args.reduce_zero_label
                classes = class_map(mask, mask.shape, data.name(index), len(data.classes), *labels)
            except BadImage:  # which the loader says, or passes by
                continue
            counts += np.bincount(classes.ravel(), minlength=IGNORED + 1)
        if is_of_one_class(counts, data.classes):
            raise UserError(f"in {'training' if train else 'validation'} masks {ONE_CLASS}")

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        """Batch {"image": [B, 3, H, W], "mask": B of [H, W]} -> {"loss": scalar, and the parts of it}."""
        return summed(self.model.losses(self.model(batch["image"]), padded_masks(batch)))

    @torch.inference_mode()
    def predict(self, batch: dict) -> list[torch.Tensor]:
        """Batch {"image", "size", "original": [B, 2]} -> for each picture its classes [H, W] in its own size."""
        return [probabilities.argmax(0) for probabilities in predict(self.model, batch, AT_ONCE)]

    def metric(self) -> MeanIoU:
        return MeanIoU(len(self.classes))

    def card(self) -> Card:
        what, short = f"A {self.args.segmenter}", "import foveal; foveal.load_segmenter({folder!r}).segment([PICTURE])"
        return Card(pipeline="image-segmentation", what=what, metrics=("mean_iou",), python=PYTHON, short=short)

    def transform(self, train: bool) -> MaskTransform:
        """Resized and normalised as the backbone expects; in training augmented and cropped."""
        return transform(self.config(), self.args.augment if train else None)

    def config(self) -> dict[str, Any]:
        masks = dict(ignore_index=self.args.ignore_index, reduce_zero_label=self.args.reduce_zero_label)
        return super().config() | masks


def padded_masks(batch: dict) -> torch.Tensor:
    """The masks of a batch [B, H, W] in the size of its images; what is beyond a picture does not count."""
    H, W = batch["image"].shape[2:]
    return torch.stack([F.pad(m, (0, W - m.shape[1], 0, H - m.shape[0]), value=IGNORED) for m in batch["mask"]])


def transform(config: dict[str, Any], augment: MaskAugment | None) -> MaskTransform:
    """From a sample of the data to what ``stack_masked`` takes; without ``augment`` a mask keeps its size."""
    seen = config["pretrained_cfg"]
    sizes: dict[str, Any] = dict(size=config["image_size"], max_size=config["max_size"])
    masks = dict(ignore_index=config["ignore_index"], reduce_zero_label=config["reduce_zero_label"])
    num_classes = len(config["label_names"])
    return MaskTransform(**sizes, mean=seen["mean"], std=seen["std"], augment=augment, num_classes=num_classes, **masks)


def predict(model: Segmenter, batch: dict, views: Views) -> list[torch.Tensor]:
    """Batch {"image", "size", "original"} -> for each picture the classes' probabilities [K, H, W] in its own size."""
    totals: list[Any] = [0.0] * len(batch["image"])
    for scale in views.scales:
        H, W = (max(1, round(side * scale)) for side in batch["image"].shape[2:])
        images = batch["image"]
        if scale != 1:
            images = F.interpolate(images, (H, W), mode="bilinear", antialias=True)
        for flipped in (False, True)[: 1 + views.hflip]:
            logits = seen(model, images.flip(3) if flipped else images, views)
            logits = logits.flip(3) if flipped else logits
            for i, (size, original) in enumerate(zip(batch["size"].tolist(), batch["original"].tolist())):
                h, w = (max(1, round(side * scale)) for side in size)
                own = F.interpolate(logits[i : i + 1, :, :h, :w], original, mode="bilinear")[0]
                totals[i] = totals[i] + own.softmax(0)
    return [total / (len(views.scales) * (1 + views.hflip)) for total in totals]


def seen(model: Segmenter, images: torch.Tensor, views: Views) -> torch.Tensor:
    """Logits [B, K, H, W] of images [B, 3, H, W], all at once or as the mean over windows."""
    H, W = images.shape[2:]
    side = views.slide
    if not side or (side >= H and side >= W):
        return model.logits(images)
    stride = views.stride or max(1, 2 * side // 3)
    total, count = images.new_zeros(len(images), model.num_classes, H, W), images.new_zeros(H, W)
    for top in starts(H, side, stride):
        for left in starts(W, side, stride):
            window = (..., slice(top, top + side), slice(left, left + side))
            total[window] += model.logits(images[window])
            count[window] += 1
    return total / count


def starts(length: int, side: int, stride: int) -> Sequence[int]:
    """Where windows begin that cover a length; the last ends with it."""
    last = max(0, length - side)
    return [*range(0, last, stride), last]


class SegmenterModel(Trained):
    """A trained segmenter with its classes and preprocessing, in evaluation mode; see ``Trained``."""

    stack = staticmethod(stack_masked)

    def transform(self) -> MaskTransform:
        """From a sample of data to what ``stack`` takes."""
        return transform(self.config, None)

    @torch.inference_mode()
    def predict(self, batch: dict, views: Views = AT_ONCE) -> list[torch.Tensor]:
        """A batch -> for each picture what ``segment`` gives."""
        moved = {name: batch[name].to(self.device) for name in ("image", "size", "original")}
        with self.autocast():
            found = predict(self.model, moved, views)
        return [probabilities.argmax(0).cpu() for probabilities in found]

    def segment(self, pictures: list[Image.Image], views: Views = AT_ONCE) -> list[torch.Tensor]:
        """The class of every pixel of pictures of any sizes.

        Args:
            pictures: they are seen in RGB; an orientation in EXIF is ignored.
            views: how each is looked at; all at once by default.

        Returns:
            For each picture indices into ``classes`` [H, W], on the CPU.
        """
        if not pictures:
            return []
        seen = self.transform()
        samples = [seen({"image": p.convert("RGB"), "name": ""}, dict) for p in pictures]
        return self.predict(self.stack(samples), views)


def load_segmenter(
    name: str,
    *,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    image_size: int | None = None,
    max_size: int | None = None,
) -> SegmenterModel:
    """Load the segmenter of a run; arguments and errors are those of ``load_detector``."""
    options: dict[str, Any] = dict(device=device, precision=precision, image_size=image_size, max_size=max_size)
    return load_model(SegmenterModel, "segmentation", SEGMENTERS, name, **options)
