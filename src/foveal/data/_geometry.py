"""Sizes and values of pictures on their way into a batch, with whatever annotation."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2


def pixels(picture: Image.Image) -> torch.Tensor:
    """RGB picture -> uint8 [3, H, W], with the channels of a pixel side by side."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def resized(image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """uint8 [3, H, W] -> [3, h, w]."""
    return v2.functional.resize(image, list(size), antialias=True)


def nearest(masks: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Masks [n, H, W] in another size, from the pixel below each new pixel's middle.

    PyTorch's interpolation is three times slower.
    """
    rows, columns = ((np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(size, masks.shape[1:]))
    return torch.from_numpy(masks.numpy().take(columns, 2).take(rows, 1))


def normalized(image: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 [3, h, w] -> float32 [3, h, w], with the channels of a pixel side by side.

    Mean and std are those of values from 0 to 1.
    """
    h, w = image.shape[1:]
    scale, shift = torch.tensor([(1 / (255 * s), -m / s) for m, s in zip(mean, std)]).T.repeat(1, w)
    rows = image.permute(1, 2, 0).reshape(h, w * 3).float()  # whole rows: over three values nothing vectorises
    return rows.mul_(scale).add_(shift).view(h, w, 3).permute(2, 0, 1)


def padded(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Images [3, h, w] -> [B, 3, H, W] in channels-last memory, with zeros on the right and the lower side.

    H and W are those of the largest image, rounded up to multiples of 32.
    """
    H, W = (32 * math.ceil(max(image.shape[axis] for image in images) / 32) for axis in (1, 2))
    batch = torch.empty(len(images), 3, H, W, memory_format=torch.channels_last)
    for place, image in zip(batch, images):
        h, w = image.shape[1:]
        place[:, :h, :w] = image
        place[:, h:], place[:, :h, w:] = 0, 0
    return batch
