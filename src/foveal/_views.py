"""How a model sees pictures: what ``predict`` and ``eval`` can change of it."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from ._errors import UserError


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What happens to a picture before the model sees it; what is not given is the model's own.

    Attributes:
        image_size: height and width in pixels; one number for a square.
        crop_pct: share of the resized picture that is kept.
        crop_mode: cut the centre out, squash the picture, or add borders to it.
        interpolation: of resizing.
        mean: of each channel, subtracted.
        std: of each channel, divided by.
    """

    image_size: tuple[int, ...] | None = None
    crop_pct: float | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def __post_init__(self):
        if self.image_size is not None and (len(self.image_size) not in (1, 2) or min(self.image_size) < 1):
            raise UserError(f"image-size takes one or two numbers above 0, got {self.image_size}")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise UserError(f"crop-pct must be in (0, 1], got {self.crop_pct}")
        if self.std is not None and min(self.std) <= 0:
            raise UserError(f"std must be above 0, got {self.std}")

    def args(self) -> dict[str, Any]:
        """What timm's scripts call these."""
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "image_size"}
        if self.image_size is not None:
            given["input_size"] = (3, self.image_size[0], self.image_size[-1])
        return {name: value for name, value in given.items() if value is not None}


AS_TRAINED = Preprocessing()


@dataclass(kw_only=True, frozen=True)
class Views:
    """How a picture is looked at to predict.

    Attributes:
        slide: side in pixels of windows that slide over the picture, whose logits are averaged; 0 for all at once.
        stride: from one window to the next, in pixels; 0 for two thirds of ``slide``.
        scales: of the picture's size; probabilities are averaged.
        hflip: also mirrored.
    """

    slide: int = 0
    stride: int = 0
    scales: tuple[float, ...] = (1.0,)
    hflip: bool = False

    def __post_init__(self):
        if self.slide < 0 or self.stride < 0:
            raise UserError(f"slide and stride must not be below 0, got {self.slide} and {self.stride}")
        if self.stride and not self.slide:
            raise UserError("--stride has no effect without --slide")
        if self.stride > self.slide:
            raise UserError(f"stride must not exceed slide {self.slide}, got {self.stride}")
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"scales must be above 0, got {', '.join(map(str, self.scales)) or 'none'}")


AT_ONCE = Views()
