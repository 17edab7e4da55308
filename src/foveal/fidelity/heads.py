"""Parameters and multiply-adds, in closed form, of heads of the thesis that foveal does not have.

Counted are convolutions and transposed convolutions, one per multiply-add, for one image. Norms and biases count as
parameters only; activations, resampling and pooling count nothing. The heads are those of mmsegmentation (Semantic FPN,
UperNet) and SimpleBaseline; what these leave open (the auxiliary head) follows from the thesis's totals of backbone
plus head in Tables 4.8, 5.6 and 5.7.

Every function takes the channels of the backbone at strides 4, 8, 16, 32 and the (H, W) of the image in pixels, and
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

    def __mul__(self, copies: int) -> "Cost":
        return Cost(self.parameters * copies, self.macs * copies)


def semantic_fpn(channels: Sequence[int], size: tuple[int, int], num_classes: int = 150) -> Cost:
    """Semantic FPN: a path of 3x3 convolutions to stride 4 from every level, added up and classified."""
    _check(channels)
    areas = _areas(size, levels=4)
    paths = _conv_norm(256, 128, 3, areas[0])
    for level in (1, 2, 3):  # one convolution before each upsampling by 2
        paths += _conv_norm(256, 128, 3, areas[level])
        for finer in range(1, level):
            paths += _conv_norm(128, 128, 3, areas[finer])
    return _fpn(channels, areas) + paths + _conv(128, num_classes, 1, areas[0])


def upernet(channels: Sequence[int], size: tuple[int, int], num_classes: int = 150) -> Cost:
    """UperNet: pyramid pooling of the last map, FPN of 512 channels, fusion at stride 4, auxiliary FCN head.

    The auxiliary head is used in training only: Table 5.7 includes its parameters and not its multiply-adds.
    """
    _check(channels)
    areas = _areas(size, levels=4)
    pooling = _conv_norm(channels[3] + 4 * 512, 512, 3, areas[3])
    for bins in (1, 2, 3, 6):
        pooling += _conv_norm(channels[3], 512, 1, bins * bins)
    neck = Cost(0, 0)
    for width, area in zip(channels[:3], areas[:3], strict=True):
        neck += _conv_norm(width, 512, 1, area) + _conv_norm(512, 512, 3, area)
    fusion = _conv_norm(4 * 512, 512, 3, areas[0]) + _conv(512, num_classes, 1, areas[0])
    auxiliary = _conv_norm(channels[2], 256, 3, positions=0) + _conv(256, num_classes, 1, positions=0)
    return pooling + neck + fusion + auxiliary


def simple_baseline(channels: Sequence[int], size: tuple[int, int], num_keypoints: int = 17) -> Cost:
    """SimpleBaseline: three transposed 4x4 convolutions with stride 2 on the last map, then a 1x1 convolution."""
    _check(channels)
    area = _areas(size, levels=4)[3]
    cost = Cost(0, 0)
    for width in (channels[3], 256, 256):
        cost += _conv_norm(width, 256, 4, area)  # transposed: an input position meets the whole kernel
        area *= 4
    return cost + _conv(256, num_keypoints, 1, area)


def _fpn(channels: Sequence[int], areas: Sequence[int]) -> Cost:
    """Feature pyramid network of 256 channels: a 1x1 and a 3x3 convolution per level, with bias, without norm."""
    cost = Cost(0, 0)
    for width, area in zip(channels, areas, strict=True):
        cost += _conv(width, 256, 1, area) + _conv(256, 256, 3, area)
    return cost


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
