"""Segmenters."""

from typing import Any

import numpy as np
from PIL import Image

from .._errors import UserError
from .._views import AT_ONCE, Views
from ..data import IGNORED, class_map
from ._pictures import WholeModel, enlarged


class Segmenter(WholeModel):
    """A segmenter of an ONNX file."""

    needs = ("logits",)

    def _read(self) -> None:
        super()._read()
        if not self.decoding["full_size"]:
            raise UserError(f"{self.name} gives logits at a quarter of the size: export it without --raw")

    def _seen(self, sample: dict, draw: Any = None) -> dict:
        seen = super()._seen(sample, draw)
        if "mask" in sample:
            labels = int(self.config.get("ignore_index", IGNORED)), bool(self.config.get("reduce_zero_label", False))
            seen["mask"] = class_map(sample["mask"], seen["original"], sample["name"], len(self.classes), *labels)
        return seen

    def predict(self, batch: dict, views: Views = AT_ONCE) -> list[np.ndarray]:
        """A batch -> for each picture what ``segment`` gives."""
        if views != AT_ONCE:
            raise UserError(f"{self.name} looks at a picture once; slide, scales and hflip are for the folder of a run")
        found = []
        for image, (h, w), original in zip(batch["image"], batch["size"].tolist(), batch["original"].tolist()):
            logits = self.file.run(image[None])["logits"][0, :, :h, :w]
            found.append(likeliest(logits, original))
        return found

    def segment(self, pictures: list[Image.Image], views: Views = AT_ONCE) -> list[np.ndarray]:
        """The class of every pixel of pictures of any sizes.

        Args:
            pictures: they are seen in RGB; an orientation in EXIF is ignored.

        Returns:
            For each picture indices into ``classes`` [H, W].
        """
        samples = [self._seen({"image": picture.convert("RGB")}) for picture in pictures]
        return self.predict(self.stack(samples), views) if samples else []


def likeliest(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Logits [K, h, w] -> the class of the highest at each place [H, W], the logits in between being bilinear."""
    best, classes = enlarged(logits[0], size), np.zeros(size, np.int64)
    for label in range(1, len(logits)):  # one after the other: all at once are many times the memory
        values = enlarged(logits[label], size)
        higher = values > best
        best[higher], classes[higher] = values[higher], label
    return classes
