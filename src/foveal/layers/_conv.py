"""Convolutions that the families share.

Maps are channels-last, [B, H, W, C], where it says so: such a map is at once a map for convolutions (its view
[B, C, H, W] has the memory format ``torch.channels_last``) and a list of tokens [B, H*W, C] for linear layers; neither
view copies.
"""

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import nn

from ._fast import is_fast_path

GROUP_SIZE = 2**18  # elements of a hidden map that ConvMlp makes at once on the fast path: 1 MiB


@register_notrace_module
class ConvNorm(nn.Module):
    """Convolution and BatchNorm, [B, C, H, W] -> [B, C', H', W'].

    On the fast path the norm's scale and shift move into the kernel where that is smaller than the map.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_chs,
            out_chs,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        self.norm = nn.BatchNorm2d(out_chs, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions = x.shape[2] * x.shape[3]
        if is_fast_path(x) and not self.training and positions > self.conv.weight[0].numel():
            norm, mean = self.norm, self.norm.running_mean
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            shift = norm.bias - (mean if self.conv.bias is None else mean - self.conv.bias) * scale
            return self.conv._conv_forward(x, self.conv.weight * scale.view(-1, 1, 1, 1), shift)
        return self.norm(self.conv(x))


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution with bias and "same" zero padding, [B, H, W, C] -> [B, H, W, C]."""

    def __init__(self, dim: int, kernel_size: int = 3, device=None, dtype=None):
        super().__init__(
            dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, device=device, dtype=dtype
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x.permute(0, 3, 1, 2), self.weight, self.bias).permute(0, 2, 3, 1)


@register_notrace_module
class ResidualDWConv(nn.Module):
    """x + DWConv(x), [B, H, W, C] -> [B, H, W, C]: the conditional positional encoding of CPVT, among others.

    On the fast path the identity is one more on the kernel's centre.
    """

    def __init__(self, dim: int, kernel_size: int = 3, device=None, dtype=None):
        super().__init__()
        self.conv = DepthwiseConv(dim, kernel_size, device=device, dtype=dtype)
        self.pad = kernel_size // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if is_fast_path(x):
            weight = self.conv.weight.clone()
            weight[:, :, self.pad, self.pad] += 1
            return self.conv._conv_forward(x.permute(0, 3, 1, 2), weight, self.conv.bias).permute(0, 2, 3, 1)
        return x + self.conv(x)


@register_notrace_module
class ConvMlp(nn.Module):
    """Linear -> depthwise 3x3 convolution -> GELU -> Linear, [B, H, W, C] -> [B, H, W, C].

    The convolution between the two layers is needed by every parameter count of Tables 4.2, 4.3, 4.9 and 5.1, and
    absent from the row "Pure MLP" of Table 4.9 and from EMSNet (``dwconv=False``).

    Hidden channels do not see one another, so on the fast path a large hidden map is made, used and dropped a group of
    channels at a time: the same sums in another order, in memory that stays in cache.
    """

    def __init__(
        self, dim: int, mlp_ratio: float = 4.0, dwconv: bool = True, bias: bool = True, device=None, dtype=None
    ):
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.fc1 = nn.Linear(dim, hidden, bias=bias, device=device, dtype=dtype)
        self.dwconv = DepthwiseConv(hidden, device=device, dtype=dtype) if dwconv else None
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim, bias=bias, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if is_fast_path(x) and x[..., 0].numel() * self.fc1.out_features > GROUP_SIZE:
            return self.forward_grouped(x)
        x = self.fc1(x)
        if self.dwconv is not None:
            x = self.dwconv(x)
        return self.fc2(self.act(x))

    @torch.jit.unused
    def forward_grouped(self, x: torch.Tensor) -> torch.Tensor:
        """The definition, a group of hidden channels at a time."""
        fc1, conv, fc2 = self.fc1, self.dwconv, self.fc2
        size = max(16, GROUP_SIZE // x[..., 0].numel() // 16 * 16)
        out = x.new_zeros(1)
        for start in range(0, fc1.out_features, size):
            part = slice(start, start + size)
            y = F.linear(x, fc1.weight[part], None if fc1.bias is None else fc1.bias[part])
            if conv is not None:
                y = y.permute(0, 3, 1, 2)
                y = F.conv2d(y, conv.weight[part], conv.bias[part], padding=1, groups=y.shape[1]).permute(0, 2, 3, 1)
            y = self.act(y).flatten(0, 2)
            weight = fc2.weight[:, part]
            out = F.linear(y, weight, fc2.bias) if start == 0 else out.addmm_(y, weight.t())
        return out.view(x.shape)
