"""Parameters and multiply-adds, in closed form, of the head of the thesis that foveal does not have.

Counted are convolutions and transposed convolutions, one per multiply-add, for one image. Norms and biases count as
parameters only; activations, resampling and pooling count nothing.

It takes the channels of the backbone at strides 4, 8, 16, 32 and the (H, W) of the image in pixels, and
raises ``ValueError`` if there are not four channels. A layer's ``positions`` are the places where its weights are used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class Cost:
    """Size and work of a part of a network.

    Attributes:
        parameters: number of parameters.
        macs: multiply-adds for one image.
    """

    parameters: int
    macs: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters + other.parameters, self.macs + other.macs)


def simple_baseline(channels: Sequence[int], size: tuple[int, int], num_keypoints: int = 17) -> Cost:
    """SimpleBaseline: three transposed 4x4 convolutions with stride 2 on the last map, then a 1x1 convolution."""
    _check(channels)
    area = _areas(size, levels=4)[3]
    cost = Cost(0, 0)
    for width in (channels[3], 256, 256):
        cost += _conv_norm(width, 256, 4, area)  # transposed: an input position meets the whole kernel
        area *= 4
    return cost + _conv(256, num_keypoints, 1, area)


def _conv(inputs: int, outputs: int, kernel: int, positions: int) -> Cost:
    """Convolution with bias."""
    weights = inputs * outputs * kernel * kernel
    return Cost(weights + outputs, weights * positions)


def _conv_norm(inputs: int, outputs: int, kernel: int, positions: int) -> Cost:
    """Convolution without bias, then BatchNorm: a scale and a shift per channel."""
    weights = inputs * outputs * kernel * kernel
    return Cost(weights + 2 * outputs, weights * positions)


def _areas(size: tuple[int, int], levels: int) -> list[int]:
    """Positions of the maps at strides 4, 8, 16, ...; odd sizes are halved upwards."""
    return [ceil(size[0] / stride) * ceil(size[1] / stride) for stride in (4 * 2**level for level in range(levels))]


def _check(channels: Sequence[int]) -> None:
    if len(channels) != 4:
        raise ValueError(f"expected the channels at strides 4, 8, 16 and 32, got {len(channels)}: {tuple(channels)}")
