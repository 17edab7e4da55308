"""The contract of every keypoint estimator, its loss, and how positions are read from heatmaps."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F

from .._errors import UserError
from ..necks import Pyramid, PyramidModel, Registry

DECODINGS = ("quarter", "dark")
STRIDE = 4  # of the heatmaps
EPSILON = 1e-10  # what the logarithm of a heatmap is taken of, at least (Zhang et al., 2020, their code)


class Estimator(PyramidModel, ABC):
    """A heatmap for every joint of the one body that an image shows.

    Images come normalised, cropped around a body and resized. Positions (x, y) are in pixels of the images, 0 being the
    middle of the first one, as COCO has them.

    Args:
        backbone: of the model's ``strides``.
        num_classes: number of joints.
        sigma: standard deviation of the Gaussian around a joint, in pixels of a heatmap, that is learned.
        decoding: quarter, a quarter of a heatmap's pixel from the highest one towards its higher neighbours (Newell et
            al., 2016); or dark, the maximum of a Gaussian through the highest one (Zhang et al., 2020, Distribution-
            aware coordinate representation for human pose estimation).

    Raises:
        UserError: no joint, a sigma that is not above 0, an unknown decoding.
    """

    def __init__(self, backbone: Pyramid, num_classes: int, *, sigma: float = 2.0, decoding: str = "dark"):
        super().__init__(backbone, num_classes)
        if not 0 < sigma < math.inf:
            raise UserError(f"sigma must be above 0, got {sigma}")
        if decoding not in DECODINGS:
            raise UserError(f"decoding must be one of {', '.join(DECODINGS)}, got {decoding}")
        self.sigma, self.decoding = sigma, decoding

    @abstractmethod
    def forward(self, images: torch.Tensor) -> dict[str, Any]:
        """The raw outputs, the same in training and evaluation.

        Args:
            images: [B, 3, H, W].

        Returns:
            ``heatmaps`` [B, K, ceil(H / 4), ceil(W / 4)], and what ``losses`` needs beside them.
        """

    def losses(self, raw: dict[str, Any], targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The parts of the loss, to be summed: ``heatmaps``, half the mean squared error (Xiao et al., 2018).

        Joints without weight count as ones without an error.

        Args:
            raw: what ``forward`` gave.
            targets: ``positions`` [B, K, 2] and ``weights`` [B, K], 0 for joints that are not learned from.
        """
        heatmaps = raw["heatmaps"].float()
        wanted = gaussians(targets["positions"], heatmaps.shape[2], heatmaps.shape[3], self.sigma)
        errors = (heatmaps - wanted).square().mean((2, 3))
        return {"heatmaps": 0.5 * (targets["weights"] * errors).mean()}

    def keypoints(self, heatmaps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Heatmaps [B, K, h, w] -> positions [B, K, 2] in pixels of the images, and scores [B, K] in 0 to 1."""
        heatmaps = heatmaps.float()
        with torch.autocast(heatmaps.device.type, enabled=False):
            places, scores = peaks(heatmaps)
            if self.decoding == "dark":
                shifts = dark_shifts(heatmaps, places, self.sigma)
            else:
                shifts = quarter_shifts(heatmaps, places)
        return STRIDE * (places + shifts + 0.5) - 0.5, scores.clamp(0, 1)


ESTIMATORS: Registry[Estimator] = Registry("estimator")
register, build = ESTIMATORS.register, ESTIMATORS.build


def gaussians(positions: torch.Tensor, height: int, width: int, sigma: float) -> torch.Tensor:
    """Heatmaps [B, K, height, width] of positions [B, K, 2] in pixels of the images: 1 at a joint, less around it."""
    centres = ((positions.float() + 0.5) / STRIDE - 0.5)[..., None]  # [B, K, 2, 1]
    columns, rows = (torch.arange(side, device=positions.device) for side in (width, height))
    x, y = (
        (-((axis - centres[:, :, i]) ** 2) / (2 * sigma**2)).exp() for i, axis in enumerate((columns, rows))
    )  # [B, K, width], [B, K, height]
    return y[..., :, None] * x[..., None, :]


def peaks(heatmaps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Column and row [B, K, 2] of the highest pixel of each heatmap [B, K, h, w], and its value [B, K]."""
    scores, index = heatmaps.flatten(2).max(2)
    width = heatmaps.shape[3]
    return torch.stack([index % width, index // width], dim=2), scores


def quarter_shifts(heatmaps: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """From the highest pixel [B, K, 2] a quarter towards the higher neighbour along each axis; none at the edge."""
    padded = F.pad(heatmaps, (1, 1, 1, 1))
    x, y = places[..., 0] + 1, places[..., 1] + 1
    differences = torch.stack(
        [_at(padded, x + 1, y) - _at(padded, x - 1, y), _at(padded, x, y + 1) - _at(padded, x, y - 1)], dim=2
    )
    return 0.25 * differences.sign() * _inside(heatmaps, places, 1)


def dark_shifts(heatmaps: torch.Tensor, places: torch.Tensor, sigma: float) -> torch.Tensor:
    """From the highest pixel [B, K, 2] to the maximum of the Gaussian whose logarithm has its derivatives.

    The heatmap is smoothed by the Gaussian that it was trained on, then -H^-1 d of its logarithm is the way to the
    maximum, for the gradient d and the matrix H of second derivatives (eq. 8 and 9). It is none where there is no
    maximum or no room for the differences, and a pixel along an axis at most.
    """
    logs = smoothed(heatmaps, sigma).clamp(min=EPSILON).log()
    logs = F.pad(logs, (2, 2, 2, 2))
    x, y = places[..., 0] + 2, places[..., 1] + 2
    middle = _at(logs, x, y)
    dx, dy = (_at(logs, x + 1, y) - _at(logs, x - 1, y)) / 2, (_at(logs, x, y + 1) - _at(logs, x, y - 1)) / 2
    dxx = (_at(logs, x + 2, y) - 2 * middle + _at(logs, x - 2, y)) / 4
    dyy = (_at(logs, x, y + 2) - 2 * middle + _at(logs, x, y - 2)) / 4
    corners = _at(logs, x + 1, y + 1) - _at(logs, x - 1, y + 1) - _at(logs, x + 1, y - 1) + _at(logs, x - 1, y - 1)
    dxy = corners / 4
    determinant = dxx * dyy - dxy**2
    peaked = (determinant > 0) & (dxx < 0) & _inside(heatmaps, places, 2)[..., 0]
    shifts = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], dim=2)
    shifts = shifts / torch.where(peaked, determinant, 1)[..., None]
    return torch.where(peaked[..., None], shifts, 0).clamp(-1, 1)


def smoothed(heatmaps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Convolved with a Gaussian, cut off behind 2.5 ``sigma``; what is beyond the edge is 0."""
    B, K, h, w = heatmaps.shape
    reach = math.ceil(2.5 * sigma)
    kernel = torch.arange(-reach, reach + 1, device=heatmaps.device, dtype=heatmaps.dtype)
    kernel = (-(kernel**2) / (2 * sigma**2)).exp()
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    maps = heatmaps.reshape(B * K, 1, h, w)
    maps = F.conv2d(maps, kernel, padding=(0, reach))
    maps = F.conv2d(maps, kernel.transpose(2, 3), padding=(reach, 0))
    return maps.view(B, K, h, w)


def _at(heatmaps: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Values [B, K] at columns and rows [B, K]."""
    index = (y * heatmaps.shape[3] + x)[..., None]
    return heatmaps.flatten(2).gather(2, index)[..., 0]


def _inside(heatmaps: torch.Tensor, places: torch.Tensor, border: int) -> torch.Tensor:
    """bool [B, K, 1]: which places have ``border`` pixels on every side."""
    last = torch.tensor([heatmaps.shape[3], heatmaps.shape[2]], device=places.device) - 1 - border
    return ((places >= border) & (places <= last)).all(2, keepdim=True)
