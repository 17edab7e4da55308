"""Image classification with any timm model."""

from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import create_transform, resolve_model_data_config

from .._errors import check_model
from ..metrics import Accuracy
from ._task import Task


class Classification(Task):
    """A timm classifier, cross-entropy and accuracy.

    Args:
        model: any timm model's name.
        classes: names of the classes; they travel with the weights.
        image_size: side of the square pictures in pixels.
        model_args: further arguments of the model.
        smoothing: label smoothing.

    Raises:
        UserError: an unknown model.
    """

    def __init__(
        self,
        model: str,
        classes: list[str],
        image_size: int,
        model_args: dict[str, Any] | None = None,
        pretrained: bool = False,
        smoothing: float = 0.0,
    ):
        super().__init__()
        check_model(model)
        self.model = timm.create_model(model, pretrained=pretrained, num_classes=len(classes), **(model_args or {}))
        self.classes = classes
        self.image_size = image_size
        self.smoothing = smoothing

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        """Batch {"image": [B, 3, H, W], "label": [B]} -> {"loss": scalar}."""
        logits = self.model(batch["image"])
        return {"loss": F.cross_entropy(logits.float(), batch["label"], label_smoothing=self.smoothing)}

    @torch.inference_mode()
    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] -> probabilities [B, classes]."""
        return self.model(images).float().softmax(dim=-1)

    def metric(self) -> Accuracy:
        """Top-1 accuracy, and top-5 where there are more classes than that."""
        return Accuracy((1, 5) if len(self.classes) > 5 else (1,))

    def transform(self, train: bool) -> Callable:
        """timm's transform from an RGB picture to a normalised tensor [3, image_size, image_size].

        Training crops at random (at least 60 % of the area) and flips.
        """
        config = resolve_model_data_config(self.model) | {"input_size": (3, self.image_size, self.image_size)}
        chosen: dict[str, Any] = {name: config[name] for name in ("input_size", "interpolation", "mean", "std")}
        if train:
            chosen |= dict(is_training=True, scale=(0.6, 1.0), ratio=(0.8, 1.25), color_jitter=None)
            chosen |= dict(interpolation="bilinear")
        else:
            chosen |= dict(crop_pct=1.0)
        transform: Any = create_transform(**chosen)
        return transform

    def config(self) -> dict[str, Any]:
        """What timm's config.json says beside the weights: classes and preprocessing."""
        return dict(
            label_names=self.classes,
            pretrained_cfg=dict(
                input_size=(3, self.image_size, self.image_size), test_input_size=None, crop_pct=1.0, pool_size=None
            ),
        )
