"""Sizes of pictures, boxes, and matrices between a picture and what is cut out of it, in numpy and Pillow alone."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

PADDING = 1.25  # of a box, on its sides in all (Xiao et al., 2018, their code)


def fitted(size: Sequence[int], shorter: int, longest: int) -> tuple[int, int]:
    """Height and width that a picture of ``size`` gets, rounded down as torchvision's ``Resize`` does.

    Args:
        shorter: side in pixels.
        longest: side in pixels; a picture that is longer gets a smaller shorter side.
    """
    h, w = size
    short, long = shorter, shorter * max(h, w) // min(h, w)
    if long > longest:
        short, long = max(1, longest * short // long), longest
    return (short, long) if h <= w else (long, short)


def tight(masks: Any) -> np.ndarray:
    """Boxes float32 [n, 4] around masks bool [n, H, W]; zeros for a mask without a pixel."""
    (_, H, W), rows, columns = masks.shape, masks.any(2), masks.any(1)
    edges = columns.argmax(1), rows.argmax(1), W - columns[:, ::-1].argmax(1), H - rows[:, ::-1].argmax(1)
    return (np.stack(edges, axis=1) * rows.any(1, keepdims=True)).astype(np.float32)


def look(box: Sequence[float], size: tuple[int, int], padding: float = PADDING, angle: float = 0.0) -> np.ndarray:
    """The matrix [2, 3] from places in an image of ``size`` to those in the picture, both in pixels from the edge.

    The box is seen whole, in the middle, with room around it, in its own proportions.

    Args:
        box: (x1, y1, x2, y2) in pixels.
        size: height and width in pixels.
        padding: factor of the box's size.
        angle: by which the picture is turned, in degrees, clockwise.
    """
    x1, y1, x2, y2 = box
    H, W = size
    step = padding * max((x2 - x1) / W, (y2 - y1) / H)  # pixels of the picture for one of the image
    cos, sin = step * math.cos(math.radians(angle)), step * math.sin(math.radians(angle))
    turn = np.array([[cos, sin], [-sin, cos]])
    middle = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    return np.concatenate([turn, (middle - turn @ (W / 2, H / 2))[:, None]], axis=1)


def inverse(matrix: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Places [n, 2] that ``matrix`` [2, 3] maps to the given ones."""
    (a, b, c), (d, e, f) = matrix
    x, y = places[:, 0] - c, places[:, 1] - f
    return np.stack([e * x - b * y, a * y - d * x], axis=1) / (a * e - b * d)


def warped(picture: Image.Image, matrix: np.ndarray, size: tuple[int, int], fill: tuple[int, ...]) -> Image.Image:
    """What a matrix [2, 3], from places in an image of ``size`` to those in the picture, shows of the picture.

    Bilinear; where it makes the picture smaller than half, pixels are averaged in squares before.
    """
    H, W = size
    step = int(math.sqrt(abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])))
    if step > 1:
        corners = matrix[:, :2] @ [[0, W, 0, W], [0, 0, H, H]] + matrix[:, 2:]
        low, high = np.floor(corners.min(1) - step), np.ceil(corners.max(1) + step)
        x1, y1 = (max(0, int(edge)) for edge in low)
        x2, y2 = (min(side, int(edge)) for side, edge in zip(picture.size, high))
        if x2 > x1 and y2 > y1:
            picture = picture.reduce(step, box=(x1, y1, x2, y2))
            matrix = (matrix - [[0, 0, x1], [0, 0, y1]]) / step
    return picture.transform(
        (W, H), Image.Transform.AFFINE, matrix.flatten().tolist(), Image.Resampling.BILINEAR, fillcolor=fill
    )
