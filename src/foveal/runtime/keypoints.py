"""Keypoint estimators, and how positions are read from heatmaps; ``foveal.keypoints`` says where it is from."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from .._errors import UserError
from ..data import Joints, look, warped
from ._file import Model
from ._pictures import normalized

EPSILON = 1e-10  # what the logarithm of a heatmap is taken of, at least


class KeypointModel(Model):
    """A keypoint estimator of an ONNX file.

    Attributes:
        joints: what is marked on a body.
        categories: names of the kinds of bodies that it was trained on.
    """

    needs = ("heatmaps",)

    def _read(self) -> None:
        height, width = self.file.size or self.config["input_size"][1:]
        self.size, self.padding = (int(height), int(width)), float(self.config["padding"])
        self.config |= dict(max_size=self.size[0], image_size=self.size[1], flip_test=bool(self.decoding["flip_test"]))
        self.fill = tuple(round(255 * value) for value in self.mean)
        about = self.decoding
        self.method, self.sigma, self.stride = str(about["method"]), float(about["sigma"]), int(about["stride"])
        if self.method not in ("quarter", "dark"):
            raise ValueError(f"unknown decoding {self.method!r}")
        self.mirror = [int(place) for place in about["mirror"]]
        pairs = tuple((a, b) for a, b in enumerate(self.mirror) if a < b)
        skeleton = tuple((int(a), int(b)) for a, b in about["skeleton"])
        self.joints = Joints(tuple(self.classes), skeleton, pairs, tuple(map(float, about["sigmas"])))
        self.categories = [str(name) for name in about["categories"]]

    def transform(self) -> Any:
        """From a sample of data to what ``stack`` takes."""
        return self._seen

    def _seen(self, sample: dict, draw: Any = None) -> dict:
        matrix = look(sample["target"]["box"].tolist(), self.size, self.padding)
        seen = warped(sample["image"], matrix, self.size, self.fill)
        return sample | {"image": normalized(seen, self.mean, self.std), "matrix": matrix.astype(np.float32)}

    @staticmethod
    def stack(samples: Sequence[dict]) -> dict:
        """Samples -> a batch; images have one size."""
        batch = Model.stack(samples)
        return batch | {"image": np.stack(batch["image"])}

    def predict(self, batch: dict) -> list[dict[str, np.ndarray]]:
        """A batch -> for each body ``keypoints`` [K, 2] in pixels of its picture and ``scores`` [K]."""
        images = batch["image"]
        heatmaps = self.file.run(images)["heatmaps"]
        if self.config["flip_test"]:
            mirrored = self.file.run(images[..., ::-1])["heatmaps"]
            heatmaps = (heatmaps + mirrored[..., ::-1][:, self.mirror]) / 2
        positions, scores = decoded(heatmaps, self.method, self.sigma, self.stride)
        matrices = batch["matrix"]
        places = (positions + 0.5) @ matrices[:, :, :2].transpose(0, 2, 1) + matrices[:, None, :, 2] - 0.5
        return [{"keypoints": found, "scores": score} for found, score in zip(places, scores)]

    def estimate(self, picture: Image.Image, boxes: Sequence[Sequence[float]]) -> list[dict[str, np.ndarray]]:
        """The keypoints of bodies in a picture.

        Args:
            picture: it is seen in RGB; an orientation in EXIF is ignored.
            boxes: (x1, y1, x2, y2) of each body in pixels.

        Returns:
            For each box ``keypoints`` [K, 2], x and y of each of ``joints`` in pixels, 0 being the middle of the first
            one, and ``scores`` [K] in 0 to 1.

        Raises:
            UserError: a box without width or height.
        """
        picture, samples = picture.convert("RGB"), []
        for values in boxes:
            box = np.asarray(values, np.float32)
            if not (box[2:] > box[:2]).all():
                raise UserError(f"a box must have width and height, got {box.tolist()}")
            samples.append(self._seen({"image": picture, "target": {"box": box}}))
        return self.predict(self.stack(samples)) if samples else []


def decoded(heatmaps: np.ndarray, method: str, sigma: float, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps [B, K, h, w] -> positions [B, K, 2] in pixels of the images, and scores [B, K] in 0 to 1.

    Args:
        method: quarter or dark.
        sigma: of the Gaussian around a joint, in pixels of a heatmap.
        stride: of the heatmaps.
    """
    h, w = heatmaps.shape[2:]
    index = heatmaps.reshape(*heatmaps.shape[:2], -1).argmax(2)
    places = np.stack([index % w, index // w], axis=2)
    scores = _at(heatmaps, places, 0, 0)
    shifts = dark_shifts(heatmaps, places, sigma) if method == "dark" else quarter_shifts(heatmaps, places)
    return (stride * (places + shifts + 0.5) - 0.5).astype(np.float32), scores.clip(0, 1)


def quarter_shifts(heatmaps: np.ndarray, places: np.ndarray) -> np.ndarray:
    """From the highest pixel [B, K, 2] a quarter towards the higher neighbour along each axis; none at the edge."""
    maps = _framed(heatmaps, 1)
    dx = _at(maps, places + 1, 1, 0) - _at(maps, places + 1, -1, 0)
    dy = _at(maps, places + 1, 0, 1) - _at(maps, places + 1, 0, -1)
    return 0.25 * np.sign(np.stack([dx, dy], axis=2)) * _inside(heatmaps, places, 1)[..., None]


def dark_shifts(heatmaps: np.ndarray, places: np.ndarray, sigma: float) -> np.ndarray:
    """From the highest pixel [B, K, 2] to the maximum of the Gaussian whose logarithm has its derivatives."""
    logs = _framed(np.log(np.maximum(smoothed(heatmaps, sigma), np.float32(EPSILON))), 2)
    near = {(x, y): _at(logs, places + 2, x, y) for x in range(-2, 3) for y in range(-2, 3) if x * y in (-1, 0, 1)}
    dx, dy = (near[1, 0] - near[-1, 0]) / 2, (near[0, 1] - near[0, -1]) / 2
    dxx = (near[2, 0] - 2 * near[0, 0] + near[-2, 0]) / 4
    dyy = (near[0, 2] - 2 * near[0, 0] + near[0, -2]) / 4
    dxy = (near[1, 1] - near[-1, 1] - near[1, -1] + near[-1, -1]) / 4
    determinant = dxx * dyy - dxy**2
    peaked = (determinant > 0) & (dxx < 0) & _inside(heatmaps, places, 2)
    shifts = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=2)
    shifts = shifts / np.where(peaked, determinant, 1)[..., None]
    return np.where(peaked[..., None], shifts, 0).clip(-1, 1)


def smoothed(heatmaps: np.ndarray, sigma: float) -> np.ndarray:
    """Convolved with a Gaussian, cut off behind 2.5 ``sigma``; what is beyond the edge is 0."""
    reach = math.ceil(2.5 * sigma)
    kernel = np.exp(-(np.arange(-reach, reach + 1, dtype=np.float32) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (3, 2):
        length = heatmaps.shape[axis]
        border = [(0, 0)] * 4
        border[axis] = (reach, reach)
        framed = np.pad(heatmaps, border)
        heatmaps = sum(  # type: ignore[assignment]
            weight * framed.take(range(step, step + length), axis) for step, weight in enumerate(kernel)
        )
    return heatmaps


def _framed(maps: np.ndarray, border: int) -> np.ndarray:
    """With zeros on all sides."""
    return np.pad(maps, ((0, 0), (0, 0), (border, border), (border, border)))


def _at(maps: np.ndarray, places: np.ndarray, right: int, down: int) -> np.ndarray:
    """Values [B, K] of maps [B, K, h, w] beside columns and rows [B, K, 2]."""
    B, K = maps.shape[:2]
    return maps[np.arange(B)[:, None], np.arange(K), places[..., 1] + down, places[..., 0] + right]


def _inside(heatmaps: np.ndarray, places: np.ndarray, border: int) -> np.ndarray:
    """bool [B, K]: which places have ``border`` pixels on every side."""
    last = np.array([heatmaps.shape[3], heatmaps.shape[2]]) - 1 - border
    return np.asarray(((places >= border) & (places <= last)).all(2))
