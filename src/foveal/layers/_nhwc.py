"""Layers on channels-last maps [B, H, W, C]: what MAT Transformer and PartialFormer have in common.

A channels-last map is at once a map for convolutions (its view [B, C, H, W] has the memory format
``torch.channels_last``) and a list of tokens [B, H*W, C] for linear layers; neither view copies.
"""

import torch
from torch import nn


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution with bias and "same" zero padding, [B, H, W, C] -> [B, H, W, C]."""

    def __init__(self, dim: int, kernel_size: int = 3, device=None, dtype=None):
        super().__init__(
            dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, device=device, dtype=dtype
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._conv_forward(x.permute(0, 3, 1, 2), self.weight, self.bias)
        return x.permute(0, 2, 3, 1)


class PositionalConv(nn.Module):
    """Conditional positional encoding, x + DWConv(x), [B, H, W, C] -> [B, H, W, C] (CPVT; Fig. 5.3)."""

    def __init__(self, dim: int, kernel_size: int = 3, device=None, dtype=None):
        super().__init__()
        self.conv = DepthwiseConv(dim, kernel_size, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x)


class DWConvMlp(nn.Module):
    """Linear -> 3x3 depthwise convolution -> GELU -> Linear, [B, H, W, C] -> [B, H, W, C].

    The convolution between the two layers is needed by every parameter count of Tables 4.2, 4.3, 4.9 and 5.1, and
    absent only from the row "Pure MLP" of Table 4.9 (``dwconv=False``).
    """

    def __init__(self, dim: int, mlp_ratio: float = 4.0, dwconv: bool = True, device=None, dtype=None):
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.fc1 = nn.Linear(dim, hidden, device=device, dtype=dtype)
        self.dwconv = DepthwiseConv(hidden, device=device, dtype=dtype) if dwconv else nn.Identity()
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x))))
