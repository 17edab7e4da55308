"""EMSNet: efficient multi-scale spatial interactions.

X.-T. Vo, dissertation, University of Ulsan, 2023, chapter 3. Every block mixes tokens at several scales: half of the
channels go through a *static* operator (whitening, depthwise convolutions on pooled maps, a gate), half through a
*dynamic* one (convolution-based self-attention on patches of 4, global self-attention on patches of 6).

What the text leaves open and the tables decide, or we do (docs/fidelity.md has the reasons): input and output
projections of C x C around the two operators; C_s = C_d = C/2; 1x1 convolutions of the patch embeddings expand by 2
(by 1 before G-MHSA); no biases but the classifier's; heads of 32 channels; pre-norm BatchNorm; the mean of eq. 3.1 is
over pixels (``whiten_axis="channel"`` is the other reading).

Maps are channels-last, [B, H, W, C], inside a block, so that a 1x1 convolution is a ``Linear`` and a slice of channels
needs no copy.
"""

from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import register_model
from torch import nn

from ..layers import (
    ConvMlp,
    ConvNorm,
    DepthwiseConv,
    Linear,
    PyramidBackbone,
    Stage,
    four_stages,
    has_symbols,
    is_exporting,
    is_fast_path,
    notrace,
    on_gpu,
)
from . import _timm

__all__ = ["EMSNet"]

MIXERS = ("identity", "whiten", "pe2", "pe4", "gated", "cmhsa", "gmhsa")  # rows of Table 3.5


def pw(in_chs: int, out_chs: int, **dd) -> Linear:
    """1x1 convolution without bias on a channels-last map."""
    return Linear(in_chs, out_chs, bias=False, **dd)


@notrace
class CoordinateDWConv(nn.Module):
    """Depthwise 1x3, then depthwise 3x1 convolution (eq. 3.11), [B, H, W, C] -> [B, H, W, C].

    Between the two stands nothing: on a GPU and on the fast path they are one 3x3 convolution whose kernel is the outer
    product.
    """

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        self.weight_w = nn.Parameter(torch.empty(dim, 1, 1, 3, device=device, dtype=dtype))
        self.weight_h = nn.Parameter(torch.empty(dim, 1, 3, 1, device=device, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2)
        groups = x.shape[1]
        if on_gpu(x) or is_fast_path(x):
            x = F.conv2d(x, self.weight_h * self.weight_w, padding=1, groups=groups)
        else:
            x = F.conv2d(x, self.weight_w, padding=(0, 1), groups=groups)
            x = F.conv2d(x, self.weight_h, padding=(1, 0), groups=groups)
        return x.permute(0, 2, 3, 1)

    @torch.jit.ignore()
    def fuse(self) -> nn.Module:
        """The same as one convolution, for inference."""
        conv = DepthwiseConv(len(self.weight_w))
        conv.weight, conv.bias = nn.Parameter((self.weight_h * self.weight_w).detach()), None
        return conv


@notrace
class Propagation(nn.Module):
    """Depthwise transposed convolution, kernel = stride = p, [B, h, w, C] -> [B, H, W, C] with H <= h*p, W <= w*p.

    Every output pixel has one source: on a GPU, where cuDNN takes several times as long, and on the fast path it is a
    product with the broadcast kernel.
    """

    def __init__(self, dim: int, patch_size: int, device=None, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(patch_size, 1, patch_size, dim, device=device, dtype=dtype))

    def forward(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        if has_symbols(height, width):  # of which a crop would guess whether it crops
            patch = self.weight.shape[0]
            y, x_ = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
            weight = self.weight[y % patch, 0][:, x_ % patch]  # [H, W, C]
            return x[:, y // patch][:, :, x_ // patch] * weight
        if on_gpu(x) or is_fast_path(x) or is_exporting():
            B, h, _, _ = x.shape
            weight = self.weight.to(x.dtype) if on_gpu(x) else self.weight  # types differ under autocast
            x = x.flatten(0, 1)[:, None, :, None] * weight  # [B * h, p, w, p, C], five axes as Core ML has them
            x = x.flatten(2, 3).view(B, h * x.shape[1], -1, x.shape[-1])
        else:
            weight = self.weight.permute(3, 1, 0, 2)  # [C, 1, p, p]
            x = F.conv_transpose2d(x.permute(0, 3, 1, 2), weight, stride=weight.shape[2:], groups=weight.shape[0])
            x = x.permute(0, 2, 3, 1)
        return x[:, :height, :width]


class PatchEmbed(nn.Module):
    """PE_i of section 3.3.1: pooling by p, then a 1x1 convolution, [B, C, H, W] -> [B, ceil(H/p), ceil(W/p), C']."""

    def __init__(self, in_chs: int, out_chs: int, patch_size: int, pool: str, device=None, dtype=None):
        super().__init__()
        self.patch_size = patch_size
        if pool == "max":
            self.pool = nn.MaxPool2d(patch_size, ceil_mode=True)
        else:
            self.pool = nn.AvgPool2d(patch_size, ceil_mode=True, count_include_pad=False)
        self.proj = pw(in_chs, out_chs, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        H, W = x.shape[2], x.shape[3]
        beyond = has_symbols(H, W) or (is_exporting() and min(H, W) < self.patch_size)
        x = pool_whole(x, self.pool) if beyond else self.pool(x)
        return self.proj(x.permute(0, 2, 3, 1))


@torch.jit.ignore()
def pool_whole(x: torch.Tensor, pool: Any) -> torch.Tensor:
    """What a pool with ``ceil_mode`` gives, by one without on a padded map: OpenVINO takes no kernel beyond a map."""
    patch, sizes = pool.kernel_size, x.shape[2:]
    windows = [(size + patch - 1) // patch for size in sizes]
    down, right = [number * patch - size for number, size in zip(windows, sizes)]
    if isinstance(pool, nn.MaxPool2d):
        return F.max_pool2d(F.pad(x, (0, right, 0, down), value=float("-inf")), patch, patch)
    x = F.avg_pool2d(F.pad(x, (0, right, 0, down)), patch, patch)
    places = [torch.arange(number, device=x.device) * patch for number in windows]
    rows, cols = [(size - place).clamp(max=patch) / patch for size, place in zip(sizes, places)]  # shares not padded
    return x / (rows[:, None] * cols)


def heads_of(dim: int) -> int:
    """Heads of 32 channels, or of a few more where 32 does not divide them; raises ValueError if none fit."""
    heads = max(1, dim // 32)
    if dim % heads:
        raise ValueError(f"attention over {dim} channels would have {heads} heads, which do not divide them")
    return heads


class CMHSA(nn.Module):
    """Convolution-based multi-head self-attention (eq. 3.9, 3.10; Fig. 3.4), [B, H, W, C] -> [B, H, W, C].

    Windows of 3x3 with stride 2 overlap; in each, nine queries attend to nine keys with weights that a convolution
    predicts from the window's centre. No scale, no position encoding.
    """

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        dd: dict[str, Any] = dict(device=device, dtype=dtype)
        self.num_heads = heads_of(dim)
        self.dwconv = nn.Conv2d(dim, dim, 3, stride=2, groups=dim, bias=False, **dd)
        self.attn = pw(dim, 81 * self.num_heads, **dd)  # M of eq. 3.9
        self.v: Any = pw(dim, dim, **dd)  # N of eq. 3.10, pointwise: the same before Unfold as after it
        self.proj = pw(dim, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, H, W, _ = x.shape
        C = self.dwconv.in_channels
        if self.v is None:  # fused: the embedding gives both
            x, v = x.chunk(2, dim=-1)
        else:
            v = self.v(x)
        # Where sizes are symbols and no number of windows may be 1: one more window, which no position reads.
        after = 3 if has_symbols(H, W) else 1
        # Padded here and not by the convolution, whose bfloat16 gradient in oneDNN is at times not finite on maps one
        # position wide (torch 2.14).
        pads = (0, 0, 1, after, 1, after)
        s = self.dwconv(F.pad(x, pads).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        h, w = s.shape[1], s.shape[2]
        attn = self.attn(s).view(B, h * w, self.num_heads, 9, 9).softmax(dim=-1)  # eq. 3.9

        if is_exporting():  # few operators, for other runtimes; their indices are constants there
            taps, covers = overlap(H, W, h, w, x.device)
            v = F.pad(v.flatten(1, 2), (0, 0, 0, 1))[:, taps]  # Unfold
            v = v.view(B, h * w, 9, self.num_heads, -1).transpose(2, 3)
            x = (attn @ v).transpose(2, 3).reshape(B, h * w * 9, C)  # eq. 3.10
            x = F.pad(x, (0, 0, 0, 1))[:, covers].view(B, 4, H, W, C).sum(dim=1)  # Fold
            return self.proj(x)
        v = F.pad(v, pads).unfold(1, 3, 2).unfold(2, 3, 2)  # [B, h, w, C, 3, 3]
        v = v.reshape(B, h * w, self.num_heads, C // self.num_heads, 9).transpose(-2, -1)
        x = (attn @ v).view(B, h, w, self.num_heads, 3, 3, -1).permute(0, 1, 4, 2, 5, 3, 6)  # eq. 3.10
        x = fold_axis(fold_axis(x, 1), 2).flatten(3)  # [B, 2h, 2w, C]
        return self.proj(x[:, :H, :W])


def fold_axis(taps: torch.Tensor, dim: int) -> torch.Tensor:
    """Fold of windows of 3 with stride 2 and padding 1 along one axis: [.., n, 3, ..] -> [.., 2n, ..].

    Position 2i lies in the middle of window i; position 2i + 1 is the last of window i and the first of window i + 1.
    """
    first, middle, last = taps.unbind(dim + 1)
    after = [0, 0] * (first.dim() - 1 - dim) + [0, 1]
    following = F.pad(first, after).narrow(dim, 1, first.shape[dim])
    return torch.stack((middle, last + following), dim + 1).flatten(dim, dim + 1)


def overlap(height: int, width: int, h: int, w: int, device: torch.device) -> Tuple[torch.Tensor, torch.Tensor]:
    """Where windows of 3x3 with stride 2 and padding 1 lie on a map [height, width].

    Args:
        h: rows of windows; those beyond (height + 1) // 2 cover nothing.
        w: columns of windows; likewise.

    Returns:
        The position under each tap of each window, [h*w*9], height*width where there is none; and the taps over each
        position, at most four, [4*height*width], h*w*9 where there are fewer.
    """
    tap = torch.arange(3, device=device) - 1
    y = (2 * torch.arange(h, device=device)[:, None] + tap)[:, None, :, None]  # [h, 1, 3, 1]
    x = (2 * torch.arange(w, device=device)[:, None] + tap)[None, :, None, :]  # [1, w, 1, 3]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    taps = torch.where(inside, y * width + x, height * width).flatten()

    covers = []
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    for down in range(2):  # a position lies under window p // 2 and, where it is odd, under the next
        for right in range(2):
            row, col = y // 2 + down, x // 2 + right
            tap_y, tap_x = y - 2 * row + 1, x - 2 * col + 1
            inside = (tap_y >= 0) & (tap_x >= 0) & (row < (height + 1) // 2) & (col < (width + 1) // 2)
            covers.append(torch.where(inside, (row * w + col) * 9 + tap_y * 3 + tap_x, h * w * 9).flatten())
    return taps, torch.cat(covers)


class GMHSA(nn.Module):
    """Global multi-head self-attention over all positions, [B, H, W, C] -> [B, H, W, C]."""

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        self.num_heads = heads_of(dim)
        self.qkv = pw(dim, 3 * dim, device=device, dtype=dtype)
        self.proj = pw(dim, dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, H, W, _ = x.shape
        q, k, v = self.qkv(x).view(B, H * W, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)  # [B, heads, H*W, C/heads]
        return self.proj(x.transpose(1, 2).reshape(B, H, W, -1))


class ScaleBranch(nn.Module):
    """Prop_p(mixer(PE_p(x))): eq. 3.2, 3.3, 3.6 and 3.7, [B, C, H, W] -> [B, H, W, C']."""

    def __init__(self, in_chs: int, mixer: nn.Module, out_chs: int, patch_size: int, pool: str, **dd):
        super().__init__()
        self.embed = PatchEmbed(in_chs, out_chs, patch_size, pool, **dd)
        self.mixer = mixer
        self.prop = Propagation(out_chs, patch_size, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.prop(self.mixer(self.embed(x)), x.shape[2], x.shape[3])

    @torch.jit.ignore()
    def fuse(self) -> nn.Module:
        """The same with the mixer's first layers in the embedding's, for inference; this module is used up."""
        mixer: Any = self.mixer
        embed, kind = self.embed.proj.weight, type(self.mixer)
        if kind is GMHSA and isinstance(mixer.qkv, nn.Linear):
            self.embed.proj = joined(mixer.qkv.weight @ embed)
            mixer.qkv = nn.Identity()
        elif kind is CMHSA and mixer.v is not None:
            self.embed.proj = joined(torch.cat((embed, mixer.v.weight @ embed)))
            mixer.v = None
        return self


class Whiten(nn.Module):
    """X - mean(X) over some axes (eq. 3.1), [B, H, W, C] -> [B, H, W, C]."""

    def __init__(self, dims: Tuple[int, ...]):
        super().__init__()
        self.dims = dims

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(self.dims, keepdim=True)


class StaticOperator(nn.Module):
    """Static operator (eq. 3.1-3.5), [B, H, W, C_s] -> [B, H, W, out_chs].

    Args:
        dim: channels C_s.
        mixer: how far down Table 3.5 to go: ``whiten``, ``pe2``, ``pe4`` or ``gated`` (whole; out_chs = C_s).
        split: shares of the three sub-branches (patches of 2, identity, patches of 4); Table 3.7.
        channel_split: False gives every sub-branch all channels (Table 3.9).
        whiten_axis: mean of eq. 3.1 over ``spatial`` positions or over the ``channel`` axis.
    """

    def __init__(self, dim: int, mixer: str, split: Tuple[float, ...], channel_split: bool, whiten_axis: str, **dd):
        super().__init__()
        self.whiten = Whiten((1, 2) if whiten_axis == "spatial" else (3,))
        self.gated = mixer == "gated"
        self.pw_in = pw(dim, 2 * dim if self.gated else dim, **dd)  # the 1x1 of eq. 3.1, and that of eq. 3.5
        self.dwconv = self.branch2 = self.branch4 = self.proj = None
        self.out_chs = dim
        self.chs = [dim, dim, dim]
        if mixer == "whiten":
            return
        if mixer == "pe2":
            split = (0.5, 0.5, 0.0)
        self.channel_split = channel_split
        if channel_split:
            self.chs = [round(dim * share) for share in split]
            self.chs[1] = dim - self.chs[0] - self.chs[2]
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False, **dd)
        wide2, wide4 = 2 * self.chs[0], 2 * self.chs[2]
        self.branch2 = ScaleBranch(self.chs[0], CoordinateDWConv(wide2, **dd), wide2, 2, "max", **dd)
        self.out_chs = wide2 + self.chs[1] + wide4
        if mixer != "pe2":
            self.branch4 = ScaleBranch(self.chs[2], CoordinateDWConv(wide4, **dd), wide4, 4, "max", **dd)
        if self.gated:
            self.proj = pw(self.out_chs, dim, **dd)
            self.out_chs = dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = self.pw_in(x)
        value = t
        if self.gated:
            t, value = t.chunk(2, dim=-1)
        x = self.whiten(t)  # X_w
        if self.dwconv is None or self.branch2 is None:
            return x
        x = self.dwconv(x.permute(0, 3, 1, 2))  # X_m
        m1, m2, m3 = x.split(self.chs, dim=1) if self.channel_split else [x, x, x]
        y = [self.branch2(m1), m2.permute(0, 2, 3, 1)]  # eq. 3.2
        if self.branch4 is not None:
            y.append(self.branch4(m3))  # eq. 3.3
        x = torch.cat(y, dim=-1)
        if self.proj is not None:
            x = value * self.proj(x).sigmoid()  # eq. 3.4, 3.5
        return x


class DynamicOperator(nn.Module):
    """Dynamic operator (eq. 3.6-3.8), [B, H, W, C_d] -> [B, H, W, C_d].

    Args:
        dim: channels C_d.
        mixer: ``cmhsa`` (all channels to C-MHSA) or ``gmhsa`` (half to each).
        channel_split: False gives both branches all channels and half the width (Table 3.9).
    """

    def __init__(self, dim: int, mixer: str, channel_split: bool, **dd):
        super().__init__()
        self.channel_split = channel_split
        self.global_branch = None
        if mixer == "cmhsa":
            chs1, out1, out2 = dim, 2 * dim, 0
        elif channel_split:
            chs1, out1, out2 = dim // 2, dim, dim // 2
        else:
            chs1, out1, out2 = dim, dim // 2, dim // 4
        self.chs = [chs1, dim - chs1]
        self.conv_branch = ScaleBranch(chs1, CMHSA(out1, **dd), out1, 4, "avg", **dd)
        if out2:
            self.global_branch = ScaleBranch(
                self.chs[1] if channel_split else dim, GMHSA(out2, **dd), out2, 6, "avg", **dd
            )
        self.proj = pw(out1 + out2, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2)
        if self.global_branch is None:
            return self.proj(self.conv_branch(x))
        x1, x2 = x.split(self.chs, dim=1) if self.channel_split else [x, x]
        y = [self.conv_branch(x1), self.global_branch(x2)]  # eq. 3.7, 3.6
        return self.proj(torch.cat(y, dim=-1))  # eq. 3.8


class MultiScaleInteraction(nn.Module):
    """Multi-scale spatial interaction (Fig. 3.3), [B, H, W, C] -> [B, H, W, C]; arguments as in ``EMSNet``."""

    def __init__(
        self,
        dim: int,
        mixer: str,
        static_split: Tuple[float, ...],
        channel_split: bool,
        fusion: bool,
        whiten_axis: str,
        **dd,
    ):
        super().__init__()
        self.static = self.dynamic = None
        self.channel_split = channel_split
        self.proj_in = pw(dim, dim, **dd)
        out_chs = dim
        if mixer in ("cmhsa", "gmhsa"):
            width = dim // 2 if channel_split else dim
            self.static = StaticOperator(width, "gated", static_split, channel_split, whiten_axis, **dd)
            self.dynamic = DynamicOperator(width, mixer, channel_split, **dd)
            out_chs = 2 * width
            self.chs = [width, width]
        elif mixer != "identity":
            self.static = StaticOperator(dim, mixer, static_split, channel_split, whiten_axis, **dd)
            out_chs = self.static.out_chs
        self.proj_out = pw(out_chs, dim, **dd) if fusion else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.proj_in(x)
        if self.static is not None and self.dynamic is not None:
            xs, xd = x.split(self.chs, dim=-1) if self.channel_split else [x, x]
            x = torch.cat((self.static(xs), self.dynamic(xd)), dim=-1)
        elif self.static is not None:
            x = self.static(x)
        return self.proj_out(x)

    @torch.jit.ignore()
    def fuse(self) -> nn.Module:
        """The same with linear layers that follow one another in one, for inference; this module is used up."""
        static: Any = self.static
        dynamic: Any = self.dynamic
        out = self.proj_out
        if static is None or dynamic is None or not self.channel_split or not isinstance(out, nn.Linear):
            return self
        if not isinstance(static.pw_in, nn.Linear):
            return self
        width = self.chs[0]
        first, last, bias = self.proj_in.weight, out.weight, self.proj_in.bias
        if bias is not None:  # of a norm before it
            bias = torch.cat((static.pw_in.weight @ bias[:width], bias[width:]))
        self.proj_in = joined(torch.cat((static.pw_in.weight @ first[:width], first[width:])), bias)
        self.proj_out = joined(torch.cat((last[:, :width], last[:, width:] @ dynamic.proj.weight), dim=1))
        static.pw_in = dynamic.proj = nn.Identity()
        self.chs = [2 * width, width]
        return self


@torch.no_grad()
def joined(weight: torch.Tensor, bias: Optional[torch.Tensor] = None) -> Linear:
    """A linear layer of a weight [out, in] and a bias [out], if any."""
    linear = pw(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    linear.weight.copy_(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear


@notrace
class EMSBlock(nn.Module):
    """x + MSI(BN(x)), then x + MLP(BN(x)) (Fig. 3.3), [B, H, W, C] -> [B, H, W, C]."""

    def __init__(self, dim: int, mlp_ratio: float, drop_path: float, dd: dict, **mixer_args):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim, **dd)
        self.mixer = MultiScaleInteraction(dim, **mixer_args, **dd)
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.BatchNorm2d(dim, **dd)
        self.mlp = ConvMlp(dim, mlp_ratio, dwconv=False, bias=False, **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.drop_path1(self.mixer(y))
        y = self.norm2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if is_fast_path(x) and not self.training and self.mlp.is_bare():
            return self.mlp.forward_fast(y, x)
        return x + self.drop_path2(self.mlp(y))

    @torch.jit.ignore()
    def start_small(self) -> None:
        """Make the last layer of each residual branch a tenth of itself, so that a new block is near the identity."""
        for last in (self.mixer.proj_out, self.mlp.fc2):
            if isinstance(last, nn.Linear):
                nn.init.normal_(last.weight, std=0.1 * last.in_features**-0.5)

    @torch.jit.ignore()
    def fuse(self) -> nn.Module:
        """The same with both norms inside the linear layers behind them, for inference; this module is used up."""
        self.norm1 = fold_into(self.norm1, self.mixer.proj_in)
        self.norm2 = fold_into(self.norm2, self.mlp.fc1)
        return self


@torch.no_grad()
def fold_into(norm: nn.Module, linear: nn.Linear) -> nn.Module:
    """Let a linear layer do what the BatchNorm before it does; what is left in the norm's place."""
    if not isinstance(norm, nn.BatchNorm2d):
        return norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = linear.weight @ (norm.bias - norm.running_mean * scale)
    linear.bias = nn.Parameter(shift if linear.bias is None else linear.bias + shift)
    linear.weight.mul_(scale)
    return nn.Identity()


class EMSNet(PyramidBackbone):
    """EMSNet (section 3.3, Table 3.1).

    Args:
        embed_dims: channels C_i of the four stages.
        depths: blocks L_i of the four stages.
        mlp_ratios: expansion of the channel MLP per stage.
        mixer: row of Table 3.5 up to which the block is built: ``identity``, ``whiten``, ``pe2``, ``pe4``, ``gated``,
            ``cmhsa`` or ``gmhsa`` (the whole block).
        static_split: shares of the static operator's sub-branches, (patches of 2, identity, patches of 4); Table 3.7.
        channel_split: split channels between operators and branches, or give all to each ("w/o channel splitting").
        fusion: output projection over both operators, or none ("w/o fusion").
        whiten_axis: mean of eq. 3.1 over ``spatial`` positions (as eq. 3.12) or the ``channel`` axis (as its sentence).
        drop_path_rate: stochastic depth of the last block, linear from 0.
        **head: ``num_classes``, ``in_chans``, ``global_pool``, ``drop_rate`` of ``PyramidBackbone``.

    Raises:
        ValueError: an unknown ``mixer`` or ``whiten_axis``, shares that do not add up to 1, a switch that the chosen
            mixer does not have, channels that the heads do not divide, other than one entry a stage.
    """

    def __init__(
        self,
        embed_dims: Tuple[int, ...] = (32, 64, 128, 192),
        depths: Tuple[int, ...] = (2, 2, 4, 2),
        mlp_ratios: Tuple[float, ...] = (8, 8, 4, 4),
        mixer: str = "gmhsa",
        static_split: Tuple[float, ...] = (0.25, 0.5, 0.25),
        channel_split: bool = True,
        fusion: bool = True,
        whiten_axis: str = "spatial",
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
        device=None,
        dtype=None,
        **head,
    ):
        four_stages(embed_dims=embed_dims, depths=depths, mlp_ratios=mlp_ratios)
        if mixer not in MIXERS:
            raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {mixer!r}")
        if whiten_axis not in ("spatial", "channel"):
            raise ValueError(f"whiten_axis must be spatial or channel, got {whiten_axis!r}")
        if len(static_split) != 3 or abs(sum(static_split) - 1) > 1e-6 or min(static_split) <= 0:
            raise ValueError(f"static_split must be three positive shares of sum 1, got {static_split}")
        if not (channel_split and fusion) and mixer != "gmhsa":
            raise ValueError("channel_split=False and fusion=False are variants of the whole block, mixer='gmhsa'")
        if not channel_split and not fusion:
            raise ValueError("fusion=False needs channel_split=True: the concatenation would have twice the channels")
        dd: dict[str, Any] = dict(device=device, dtype=dtype)
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)  # of blocks, by stage
        switches: dict[str, Any] = dict(
            mixer=mixer, static_split=static_split, channel_split=channel_split, fusion=fusion, whiten_axis=whiten_axis
        )
        stages = []
        for i, (dim, mlp_ratio) in enumerate(zip(embed_dims, mlp_ratios)):
            downsample = ConvNorm(embed_dims[i - 1], dim, 3, stride=2, **dd) if i > 0 else nn.Identity()
            blocks = [EMSBlock(dim, mlp_ratio, rate, dd, **switches) for rate in rates[i]]
            stages.append(Stage(downsample, blocks))
        super().__init__(
            stem=nn.Sequential(
                ConvNorm(in_chans, embed_dims[0], 3, stride=2, act=True, **dd),
                ConvNorm(embed_dims[0], embed_dims[0], 3, stride=2, **dd),
            ),
            stages=stages,
            dims=embed_dims,
            final=nn.BatchNorm2d(embed_dims[-1], **dd),
            num_features=embed_dims[-1],
            in_chans=in_chans,
            **head,
            **dd,
        )
        self.apply(_init_weights)
        for block in self.modules():
            if isinstance(block, EMSBlock):
                block.start_small()


def _init_weights(module: nn.Module) -> None:
    """Keep the variance: up to eight layers follow one another without a norm, and small weights would multiply."""
    if isinstance(module, Propagation):
        nn.init.ones_(module.weight)  # starts as nearest-neighbour upsampling
    elif isinstance(module, CoordinateDWConv):
        nn.init.normal_(module.weight_w, std=3**-0.5)
        nn.init.normal_(module.weight_h, std=3**-0.5)
    elif isinstance(module, nn.Conv2d) and module.groups > 1:
        nn.init.normal_(module.weight, std=(2.0 / module.weight[0].numel()) ** 0.5)
    elif isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


default_cfgs = _timm.default_cfgs("stem.0.conv", "emsnet_xxtiny", "emsnet_xtiny", "emsnet_tiny", "test_emsnet")


@register_model
def emsnet_xxtiny(pretrained: bool = False, **kwargs) -> EMSNet:
    """EMSNet-XXTiny (Table 3.1)."""
    args = dict(embed_dims=(32, 64, 128, 192), depths=(2, 2, 4, 2))
    return _timm.build(EMSNet, "emsnet_xxtiny", pretrained, args, kwargs)


@register_model
def emsnet_xtiny(pretrained: bool = False, **kwargs) -> EMSNet:
    """EMSNet-XTiny (Table 3.1)."""
    args = dict(embed_dims=(32, 64, 96, 128), depths=(3, 3, 10, 2), drop_path_rate=0.05)
    return _timm.build(EMSNet, "emsnet_xtiny", pretrained, args, kwargs)


@register_model
def emsnet_tiny(pretrained: bool = False, **kwargs) -> EMSNet:
    """EMSNet-Tiny (Table 3.1)."""
    args = dict(embed_dims=(64, 96, 128, 256), depths=(3, 3, 10, 2), drop_path_rate=0.1)
    return _timm.build(EMSNet, "emsnet_tiny", pretrained, args, kwargs)


@register_model
def test_emsnet(pretrained: bool = False, **kwargs) -> EMSNet:
    """A tiny EMSNet for tests."""
    args = dict(embed_dims=(16, 24, 32, 40), depths=(1, 1, 2, 1), mlp_ratios=(2, 2, 2, 2))
    return _timm.build(EMSNet, "test_emsnet", pretrained, args, kwargs)
