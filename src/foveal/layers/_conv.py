"""Convolutions that the families share.

Maps are channels-last, [B, H, W, C], where it says so: such a map is at once a map for convolutions (its view
[B, C, H, W] has the memory format ``torch.channels_last``) and a list of tokens [B, H*W, C] for linear layers; neither
view copies.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import nn

from ._fast import BARE, Linear, are_bare, fused_linear, has_hooks, has_onednn, is_fast_path, notrace


@notrace
class ConvNorm(nn.Module):
    """Convolution, BatchNorm and, with ``act``, GELU, [B, C, H, W] -> [B, C', H', W'].

    On the fast path the norm's scale and shift move into the kernel where that is smaller than the map, and GELU into
    the convolution.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        act: bool = False,
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
        self.act = nn.GELU() if act else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions = x.shape[2] * x.shape[3]
        if is_fast_path(x) and self.is_foldable() and positions > self.conv.weight[0].numel():
            return self.forward_fast(x)
        return self.act(self.norm(self.conv(x)))

    @torch.jit.unused
    def is_foldable(self) -> bool:
        """Whether nothing was put in the place of a part or around it, and the norm takes its running statistics."""
        return are_bare(self.conv, self.norm, self.act) and not self.norm.training

    @torch.jit.unused
    def forward_fast(self, x: torch.Tensor) -> torch.Tensor:
        """The definition in one convolution, or one linear layer where the kernel is 1x1."""
        conv, norm = self.conv, self.norm
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        scale = norm.weight * (var + norm.eps).rsqrt()
        shift = norm.bias - (mean if conv.bias is None else mean - conv.bias) * scale
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        gelu = isinstance(self.act, nn.GELU)
        if conv.kernel_size == (1, 1) and conv.stride == (1, 1):
            return fused_linear(x.permute(0, 2, 3, 1), weight.flatten(1), shift, gelu).permute(0, 3, 1, 2)
        return fused_conv(x, weight, shift, conv.stride[0], conv.groups, gelu)


def fused_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: Optional[torch.Tensor],
    stride: int = 1,
    groups: int = 1,
    gelu: bool = False,
) -> torch.Tensor:
    """``F.conv2d`` with "same" padding, then GELU if wanted, on the fast path: fused by oneDNN where it exists."""
    pad = weight.shape[-1] // 2
    if gelu and has_onednn():
        return torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, [pad, pad], [stride, stride], [1, 1], groups, "gelu", [], "none"
        )
    x = F.conv2d(x, weight, bias, stride=stride, padding=pad, groups=groups)
    return F.gelu(x) if gelu else x


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution with bias and "same" zero padding, [B, H, W, C] -> [B, H, W, C]."""

    def __init__(self, dim: int, kernel_size: int = 3, device=None, dtype=None):
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, device=device, dtype=dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(input.permute(0, 3, 1, 2), self.weight, self.bias).permute(0, 2, 3, 1)


BARE.add(DepthwiseConv)


@notrace
class ResidualDWConv(nn.Module):
    """x + DWConv(x), [B, H, W, C] -> [B, H, W, C]: the conditional positional encoding of CPVT, among others.

    On the fast path the identity is one more on the kernel's centre.
    """

    def __init__(self, dim: int, kernel_size: int = 3, device=None, dtype=None):
        super().__init__()
        self.conv = DepthwiseConv(dim, kernel_size, device=device, dtype=dtype)
        self.pad = kernel_size // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if is_fast_path(x) and self.is_bare():
            weight = self.conv.weight.clone()
            weight[:, :, self.pad, self.pad] += 1
            return self.conv._conv_forward(x.permute(0, 3, 1, 2), weight, self.conv.bias).permute(0, 2, 3, 1)
        return x + self.conv(x)

    @torch.jit.unused
    def is_bare(self) -> bool:
        """Whether nothing was put in the place of the convolution or around it."""
        return are_bare(self.conv)

    @torch.jit.ignore()
    def fuse(self) -> nn.Module:
        """The same as one convolution, for inference; this module is used up."""
        with torch.no_grad():
            self.conv.weight[:, :, self.pad, self.pad] += 1
        return self.conv


@notrace
class ConvMlp(nn.Module):
    """Linear -> depthwise 3x3 convolution -> GELU -> Linear, [B, H, W, C] -> [B, H, W, C].

    The convolution between the two layers is needed by every parameter count of Tables 4.2, 4.3, 4.9 and 5.1, and
    absent from the row "Pure MLP" of Table 4.9 and from EMSNet (``dwconv=False``).

    The fast path fuses GELU into what stands before it, and the addition of a shortcut into the second layer.
    """

    def __init__(
        self, dim: int, mlp_ratio: float = 4.0, dwconv: bool = True, bias: bool = True, device=None, dtype=None
    ):
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.fc1 = Linear(dim, hidden, bias=bias, device=device, dtype=dtype)
        self.dwconv = DepthwiseConv(hidden, device=device, dtype=dtype) if dwconv else None
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, dim, bias=bias, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if is_fast_path(x) and self.is_bare():
            return self.forward_fast(x, None)
        x = self.fc1(x)
        if self.dwconv is not None:
            x = self.dwconv(x)
        return self.fc2(self.act(x))

    @torch.jit.unused
    def is_bare(self) -> bool:
        """Whether nothing was put in the place of a part, around it or around the whole."""
        parts = (self.fc1, self.act, self.fc2) if self.dwconv is None else (self.fc1, self.dwconv, self.act, self.fc2)
        return are_bare(*parts) and not has_hooks(self)

    @torch.jit.unused
    def forward_fast(self, x: torch.Tensor, shortcut: Optional[torch.Tensor]) -> torch.Tensor:
        """The definition, plus a shortcut."""
        fc1, conv, fc2 = self.fc1, self.dwconv, self.fc2
        x = fused_linear(x, fc1.weight, fc1.bias, gelu=conv is None)
        if conv is not None:
            x = x.permute(0, 3, 1, 2)
            x = fused_conv(x, conv.weight, conv.bias, groups=conv.groups, gelu=True).permute(0, 2, 3, 1)
        return fused_linear(x, fc2.weight, fc2.bias, shortcut=shortcut)
