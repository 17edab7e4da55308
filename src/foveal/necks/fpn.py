"""Feature pyramid network (Lin et al., 2017), over torchvision's."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7


class FPN(nn.Module):
    """Maps of equal width from those of a backbone.

    Args:
        in_channels: of the backbone's maps, from fine to coarse.
        out_channels: of all maps that come out.
        extra: coarser maps beyond the backbone's: "input" and "output" add two by convolutions of stride 2, the first
            of them on the backbone's, or the pyramid's, coarsest map; "pool" adds one by subsampling.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        extra: Literal["input", "output", "pool"] | None = None,
    ):
        super().__init__()
        blocks: Any = None
        if extra == "pool":
            blocks = LastLevelMaxPool()
        elif extra is not None:
            blocks = LastLevelP6P7(in_channels[-1] if extra == "input" else out_channels, out_channels)
            blocks.use_P5 = extra == "output"  # and not whether the numbers of channels happen to be equal
        self.layers = FeaturePyramidNetwork(list(in_channels), out_channels, blocks)

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Maps [B, C_i, H_i, W_i] -> maps [B, out_channels, H_i, W_i], and the extra ones."""
        return list(self.layers({str(i): x for i, x in enumerate(maps)}).values())
