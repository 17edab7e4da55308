"""From pictures to images in numpy and Pillow: what timm, torchvision and ``foveal.data`` do with PyTorch."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..data import fitted
from ._file import Model

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def normalized(picture: Image.Image, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """RGB picture -> float32 [3, H, W]; mean and std are those of values from 0 to 1."""
    scale, shift = np.array([(1 / (255 * s), -m / s) for m, s in zip(mean, std)], np.float32).T
    return np.ascontiguousarray((np.asarray(picture, np.float32) * scale + shift).transpose(2, 0, 1))


def classified(picture: Image.Image, config: dict[str, Any]) -> np.ndarray:
    """What a classifier sees of an RGB picture: timm's ``create_transform`` for evaluation.

    Args:
        config: ``input_size``, ``crop_pct``, ``crop_mode``, ``interpolation``, ``mean`` and ``std``, as timm has them.
    """
    size: tuple[int, int] = tuple(config["input_size"][1:])
    scaled = tuple(math.floor(side / config["crop_pct"]) for side in size)
    mode, kind = config["crop_mode"], INTERPOLATIONS[config["interpolation"]]
    ratios = picture.height / scaled[0], picture.width / scaled[1]
    fill = (0, 0, 0)
    if mode == "squash":
        h, w = scaled
    elif mode == "border":
        h, w = (max(1, round(side / max(ratios))) for side in (picture.height, picture.width))
        fill = tuple(round(255 * value) for value in config["mean"])
    elif scaled[0] == scaled[1]:  # torchvision rounds down, timm to the nearest
        h, w = fitted((picture.height, picture.width), scaled[0], 2**31)
    else:
        h, w = (round(side / min(ratios)) for side in (picture.height, picture.width))
    if (w, h) != picture.size:
        picture = picture.resize((w, h), kind)
    return normalized(centre(picture, size, fill), config["mean"], config["std"])


def centre(picture: Image.Image, size: tuple[int, int], fill: tuple[int, ...]) -> Image.Image:
    """The middle of a picture, height and width ``size``, with a border where it is smaller."""
    H, W = size
    if picture.width < W or picture.height < H:
        outer = Image.new("RGB", (max(W, picture.width), max(H, picture.height)), fill)
        outer.paste(picture, (max(0, (W - picture.width) // 2), max(0, (H - picture.height) // 2)))
        picture = outer
    top, left = (round((side - part) / 2) for side, part in ((picture.height, H), (picture.width, W)))
    return picture.crop((left, top, left + W, top + H))


def whole(
    picture: Image.Image, config: dict[str, Any], fixed: tuple[int, int] | None, mean: Sequence[float], std: Any
) -> tuple[np.ndarray, tuple[int, int]]:
    """What a detector or a segmenter sees of an RGB picture, float32 [3, H, W], and the part (h, w) that shows it.

    Args:
        config: ``image_size``, the shorter side, ``max_size``, the longest, ``square`` and ``pad``: the picture is
            squeezed into a square, or into ``fixed``; sides are rounded up to multiples of a number of pixels, with
            zeros.
        fixed: height and width, if images can have no others; the picture is made to fit into them.
    """
    size = picture.height, picture.width
    if config["square"]:
        h, w = fixed or (config["image_size"], config["image_size"])
    elif fixed is not None:
        scale = min(fixed[0] / size[0], fixed[1] / size[1])
        h, w = (min(most, max(1, round(side * scale))) for side, most in zip(size, fixed))
    else:
        h, w = fitted(size, config["image_size"], config["max_size"])
    if (w, h) != picture.size:
        picture = picture.resize((w, h), Image.Resampling.BILINEAR)
    seen = normalized(picture, mean, std)
    H, W = fixed or (config["pad"] * math.ceil(side / config["pad"]) for side in (h, w))
    return np.pad(seen, ((0, 0), (0, H - h), (0, W - w))), (h, w)


class WholeModel(Model):
    """A model that sees a whole picture; see ``whole``."""

    def _read(self) -> None:
        for name in ("image_size", "max_size", "pad"):
            self.config[name] = int(self.config[name])
        self.config["square"] = bool(self.config["square"])

    def transform(self) -> Any:
        """From a sample of data to what ``stack`` takes."""
        return self._seen

    def _seen(self, sample: dict, draw: Any = None) -> dict:
        picture: Image.Image = sample["image"]
        image, size = whole(picture, self.config, self.file.size, self.mean, self.std)
        return sample | {"image": image, "size": np.array(size), "original": np.array([picture.height, picture.width])}


def enlarged(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """[h, w] -> [H, W], bilinear between the middles of pixels, as PyTorch's ``interpolate`` does."""
    for axis, new in enumerate(size):
        old = values.shape[axis]
        places = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
        low = places.astype(int)
        share = (places - low).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        values = values.take(low, axis) * (1 - share) + values.take(np.minimum(low + 1, old - 1), axis) * share
    return values
