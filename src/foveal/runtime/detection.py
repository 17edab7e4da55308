"""Detectors, decoding and suppression of what is found twice being in the file."""

from typing import Any

import numpy as np
from PIL import Image

from .._errors import UserError
from ._pictures import WholeModel, enlarged


class Detector(WholeModel):
    """A detector of an ONNX file."""

    needs = ("boxes", "scores", "labels", "pictures")

    @property
    def square(self) -> bool:
        """Whether pictures are squeezed into a square."""
        return self.config["square"]

    @property
    def masks(self) -> bool:
        """Whether predictions have masks."""
        return "masks" in self.file.outputs

    def predict(self, batch: dict, threshold: float = 0.0) -> list[dict[str, np.ndarray]]:
        """A batch -> for each picture what ``detect`` gives; a picture at a time, for the file takes one to fill it."""
        rows = zip(batch["image"], batch["size"].tolist(), batch["original"].tolist())
        return [self._found(self.file.run(image[None]), size, original, threshold) for image, size, original in rows]

    def detect(self, pictures: list[Image.Image], threshold: float = 0.0) -> list[dict[str, np.ndarray]]:
        """What is in pictures of any sizes.

        Args:
            pictures: they are seen in RGB; an orientation in EXIF is ignored.
            threshold: what has a lower score is left out.

        Returns:
            For each picture ``boxes`` [n, 4] (x1, y1, x2, y2) in its pixels, ``scores`` [n] from high to low,
            ``labels`` [n], indices into ``classes``, and ``masks`` bool [n, H, W] if any.

        Raises:
            UserError: the threshold is not in 0 to 1.
        """
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold must be in [0, 1], got {threshold}")
        samples = [self._seen({"image": picture.convert("RGB")}) for picture in pictures]
        return self.predict(self.stack(samples), threshold) if samples else []

    def _found(self, raw: dict[str, np.ndarray], size: Any, original: Any, threshold: float) -> dict[str, np.ndarray]:
        """What was found in an image, in the pixels of its picture."""
        kept = (raw["scores"] >= threshold) & (raw["pictures"] == 0)
        (h, w), (H, W) = size, original
        limits = np.array([w, h, w, h], np.float32)  # beyond them an image of a fixed size is empty
        boxes = np.minimum(raw["boxes"][kept], limits) * np.array([W / w, H / h, W / w, H / h], np.float32)
        found = {"boxes": boxes, "scores": raw["scores"][kept], "labels": raw["labels"][kept]}
        if self.masks:
            masks = [pasted(mask, box, (H, W)) for mask, box in zip(raw["masks"][kept], boxes)]
            found["masks"] = np.stack(masks) if masks else np.zeros((0, H, W), bool)
        return found


def pasted(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Probabilities [m, m] over a box (x1, y1, x2, y2) -> the mask bool [H, W], as torchvision pastes it."""
    (H, W), (m, _) = size, mask.shape
    mask = np.pad(mask, 1)
    half, middle = (box[2:] - box[:2]) * np.float32(0.5), (box[:2] + box[2:]) * np.float32(0.5)
    half = half * np.float32((m + 2) / m)  # the border belongs to the mask
    (x1, y1), (x2, y2) = (np.trunc(middle - half).astype(int).tolist(), np.trunc(middle + half).astype(int).tolist())
    values = enlarged(mask, (max(1, y2 - y1 + 1), max(1, x2 - x1 + 1)))
    found = np.zeros(size, bool)
    left, right, top, bottom = max(x1, 0), min(x2 + 1, W), max(y1, 0), min(y2 + 1, H)
    if right > left and bottom > top:
        found[top:bottom, left:right] = values[top - y1 : bottom - y1, left - x1 : right - x1] > 0.5
    return found
