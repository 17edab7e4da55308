"""What happens to pictures with a class for every pixel."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from .._errors import UserError
from ._class_map import IGNORED, class_map
from ._geometry import nearest, normalized, padded, pixels, resized
from ._shapes import fitted

TRIES = 10  # windows that are tried for a mixed one (mmsegmentation)


@dataclass(kw_only=True)
class MaskAugment:
    """What training does to pictures and masks, in the order scale, crop, hflip, photometric.

    Attributes:
        scale: range of factors of the size of evaluation, of which each picture draws one.
        max_class_share: share of a crop's pixels that one class may have; after ten tries any crop will do. 1 for any.
        hflip: probability of a mirrored picture.
        photometric: brightness, contrast, saturation and hue are changed as for SSD (Liu et al., 2016, section 2.2).
    """

    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    hflip: float = 0.5
    photometric: bool = True

    def __post_init__(self):
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise UserError(f"scale must be two factors above 0 in order, got {self.scale[0]} {self.scale[1]}")
        for name in ("max_class_share", "hflip"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name.replace('_', '-')} must be in [0, 1], got {getattr(self, name)}")


class MaskTransform:
    """From a sample with an RGB picture and a mask to one that ``stack_masked`` takes.

    Args:
        size: shorter side in pixels at evaluation, and the side of a square crop in training.
        max_size: longest side in pixels; a picture that is longer gets a smaller shorter side.
        mean, std: of each channel, of values from 0 to 1.
        augment: what training does; None for evaluation, which leaves the mask in the original's size.
        num_classes: above which, in the mask, there is no class.
        ignore_index: the mask's value of pixels that do not count.
        reduce_zero_label: 0 does not count either, and the first class is 1.
    """

    def __init__(
        self,
        *,
        size: int,
        max_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: MaskAugment | None,
        num_classes: int,
        ignore_index: int = IGNORED,
        reduce_zero_label: bool = False,
    ):
        self.size, self.max_size, self.mean, self.std, self.augment = size, max_size, mean, std, augment
        self.labels = num_classes, ignore_index, reduce_zero_label
        self.colour = v2.RandomPhotometricDistort() if augment is not None and augment.photometric else v2.Identity()
        self.fill = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8)  # about 0 when normalised

    def __call__(self, sample: dict, draw: Callable[[], dict]) -> dict:
        """{"image": RGB picture, "name", "mask": [H, W]} -> what ``stack_masked`` takes.

        Without "mask", as of a picture to predict, there is no "mask" afterwards.

        Returns:
            "image" float32 [3, h, w], "size" (h, w), "original": the size of the picture before, "name", and "mask"
            uint8: classes, 255 where a pixel does not count, [size, size] in training, else of the original's size.

        Raises:
            BadImage: the mask is of another size than its picture, or has a value beyond the classes.
        """
        picture: Image.Image = sample["image"]
        image, found = pixels(picture), {}
        if "mask" in sample:
            classes = class_map(sample["mask"], image.shape[1:], sample["name"], *self.labels)
            found["mask"] = torch.from_numpy(classes)
        if self.augment is not None:
            image, found["mask"] = self._augmented(self.augment, image, found["mask"])
        else:
            image = resized(image, fitted(image.shape[1:], self.size, self.max_size))
        return {
            "image": normalized(image, self.mean, self.std),
            "size": torch.tensor(image.shape[1:]),
            "original": torch.tensor([picture.height, picture.width]),
            "name": sample["name"],
            **found,
        }

    def _augmented(
        self, augment: MaskAugment, image: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[3, H, W], [H, W] -> [3, size, size], [size, size]."""
        side, factor = self.size, random.uniform(*augment.scale)
        h, w = (max(1, round(length * factor)) for length in fitted(image.shape[1:], side, self.max_size))
        mask = nearest(mask[None], (h, w))[0]
        top, left = self._window(augment, mask)
        image = resized(image, (h, w))[:, top : top + side, left : left + side]
        mask = mask[top : top + side, left : left + side]
        if random.random() < augment.hflip:
            image, mask = image.flip(2), mask.flip(1)
        image = self.colour(image)
        border = (0, side - mask.shape[1], 0, side - mask.shape[0])
        if any(border):
            framed = self.fill.repeat(side, side, 1).permute(2, 0, 1)
            framed[:, : mask.shape[0], : mask.shape[1]] = image
            image, mask = framed, F.pad(mask, border, value=IGNORED)
        return image, mask

    def _window(self, augment: MaskAugment, mask: torch.Tensor) -> tuple[int, int]:
        """Upper left corner of a crop in which no class has more than its share."""
        top = left = 0
        for _ in range(TRIES):
            top, left = (random.randint(0, max(0, length - self.size)) for length in mask.shape)
            if augment.max_class_share == 1:
                break
            inside = mask[top : top + self.size, left : left + self.size]
            counts = torch.bincount(inside.flatten(), minlength=IGNORED + 1)[:IGNORED]
            if (counts > 0).sum() > 1 and counts.max() < augment.max_class_share * counts.sum():
                break
        return top, left


def stack_masked(samples: list[dict]) -> dict:
    """Samples of ``MaskTransform`` -> a batch; images get zeros on the right and the lower side.

    Returns:
        "image" [B, 3, H, W], where H and W are those of the largest picture, rounded up to multiples of 32, "size" and
        "original" [B, 2], lists "mask" of int64 [h, w], if any, and "name".
    """
    batch: dict = {name: [sample[name] for sample in samples] for name in samples[0]}
    batch |= {"image": padded(batch["image"])} | {name: torch.stack(batch[name]) for name in ("size", "original")}
    if "mask" in batch:
        batch["mask"] = [mask.long() for mask in batch["mask"]]
    return batch
