"""The class of every pixel, from the values of a mask."""

from collections.abc import Sequence

import numpy as np

from ._decode import BadImage

IGNORED = 255  # the class of pixels that do not count, behind ``class_map``
ONE_CLASS = "all pixels that count are of one class; 255 does not count, so two classes are 0 and 1, not 0 and 255"


def class_map(
    mask: np.ndarray,
    size: Sequence[int],
    name: str,
    num_classes: int,
    ignore_index: int = IGNORED,
    reduce_zero_label: bool = False,
) -> np.ndarray:
    """Classes uint8 [H, W], 255 where a pixel does not count, of a mask's values.

    Args:
        mask: [H, W].
        size: height and width of its picture.
        name: of the picture.
        num_classes, ignore_index, reduce_zero_label: see ``MaskTransform``.

    Raises:
        BadImage: the mask is of another size than its picture, or has a value beyond the classes.
    """
    if mask.shape != tuple(size):
        (h, w), (H, W) = mask.shape, size
        raise BadImage(name, f"its mask is {w}x{h}, the picture {W}x{H}")
    first = int(reduce_zero_label)
    counts = mask != ignore_index
    if reduce_zero_label:
        counts &= mask != 0
    values = mask[counts]
    if values.size and not (first <= values.min() and values.max() < first + num_classes):
        odd, last = int(values.min() if values.min() < first else values.max()), first + num_classes - 1
        more = "" if reduce_zero_label else "; give --reduce-zero-label if 0 means that a pixel does not count"
        raise BadImage(name, f"its mask has the value {odd}, and classes are {first} to {last}{more}")
    return np.where(counts, mask - first, IGNORED).astype(np.uint8)


def is_of_one_class(counts: np.ndarray, classes: Sequence[str]) -> bool:
    """Whether ``counts`` of each value in class maps [256] have some that do not count, and one class of several."""
    return bool(counts[IGNORED]) and len(classes) > 1 and int((counts[:IGNORED] > 0).sum()) == 1
