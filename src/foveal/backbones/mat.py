"""MAT Transformer: windows that exchange information by mixing abstract tokens.

X.-T. Vo, dissertation, University of Ulsan, 2023, chapter 4. Self-attention stays inside windows of 7x7; one learnable
abstract token per window reads its window, the abstract tokens of an image attend to one another, and every image
token reads the mixed tokens back. Patches between stages are sampled bilinearly at learned positions.

What the text leaves open and the tables decide, or we do (docs/fidelity.md has the reasons): a 3x3 depthwise
convolution in every MLP and as positional encoding before the attention; projections of C x C, the query of eq. 4.5
being that of eq. 4.2; the abstract token is one vector per block and a query only; one output projection on the sum;
a residual depthwise convolution after bilinear sampling (``pe_dwconv``); LayerNorm at the end of every stage; a
1x1 convolution to 1280 channels before pooling; projections before padding, padded keys masked.
"""

import math
from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates, trunc_normal_, use_fused_attn
from timm.models import register_model
from torch import nn

from ..layers import (
    ConvMlp,
    ConvNorm,
    Linear,
    PyramidBackbone,
    ResidualDWConv,
    Stage,
    four_stages,
    has_symbols,
    init_tokens,
    is_exporting,
    is_fast_path,
    notrace,
    on_gpu,
)
from . import _timm

__all__ = ["MAT"]

MIXERS = ("none", "window", "mat")
PATCH_EMBEDS = ("bilinear", "conv", "merge")


@notrace
class MATAttention(nn.Module):
    """MAT attention (section 4.3.1; Fig. 4.2), [B, H, W, C] -> [B, H, W, C].

    Sizes that the window does not divide are padded behind the projections, and the padded keys are masked: the
    result is that of attention over partial windows.

    Args:
        dim: channels C.
        num_heads: heads h.
        window_size: side w of a window.
        mix: exchange information over abstract tokens; False is plain window attention (Table 4.9).
        abstract_kv: the abstract token is a key and a value too, as in eq. 4.2, and as it is: no projection acts on it.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 7,
        mix: bool = True,
        abstract_kv: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd: dict[str, Any] = dict(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.window_size = window_size
        self.scale = (dim // num_heads) ** -0.5
        self.mix = mix
        self.abstract_kv = abstract_kv
        self.fused_attn = use_fused_attn()
        self.qkv = Linear(dim, 3 * dim, **dd)
        self.proj = Linear(dim, dim, **dd)
        if mix:
            self.abstract = nn.Parameter(torch.empty(1, num_heads, 1, dim // num_heads, **dd))
            self.mix_qkv = Linear(dim, 3 * dim, **dd)
            self.mix_proj = Linear(dim, dim, **dd)
            self.fuse_kv = Linear(dim, 2 * dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, H, W, C = x.shape
        wh = ww = self.window_size
        whole, spare = False, 1
        if not has_symbols(H, W):  # no branch on them, and no size that could be 1
            wh, ww = min(wh, H), min(ww, W)  # nothing to pad on maps smaller than a window
            whole, spare = H % wh == 0 and W % ww == 0, 0
        rows, cols = (H + wh - 1) // wh, (W + ww - 1) // ww
        num_windows = rows * cols + spare

        # Token merging: project, then cut into windows, [B*Nw, h, w*w, d] each.
        t = self.qkv(x)
        mask: Optional[torch.Tensor] = None
        back: Optional[torch.Tensor] = None
        if whole:
            windows = t.view(B, rows, wh, cols, ww, 3, self.num_heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
        else:
            order, real, back = window_order(H, W, wh, ww, num_windows, x.device)
            windows = t.flatten(1, 2)[:, order].view(B, num_windows, wh * ww, 3, self.num_heads, -1)
            windows = windows.permute(3, 0, 1, 4, 2, 5)
            mask = self.real_keys(B, real.view(num_windows, 1, 1, wh * ww))
        q, k, v = windows.reshape(3, B * num_windows, self.num_heads, wh * ww, -1).unbind(0)
        if not self.mix:
            y = self.attend(q, k, v, mask)
            return self.proj(self.unwindow(y, back, B, H, W, wh, ww).reshape(B, H, W, C))

        # Token abstraction (eq. 4.1, 4.2): the abstract token reads its window as one more query.
        abstract = self.abstract.expand(q.shape[0], -1, -1, -1)
        if self.abstract_kv:
            k, v = torch.cat((k, abstract), dim=2), torch.cat((v, abstract), dim=2)
        y = self.attend(torch.cat((q, abstract), dim=2), k, v, mask)
        image = self.unwindow(y[:, :, :-1], back, B, H, W, wh, ww)  # X', [B, H, W, h, d]
        a = y[:, :, -1].reshape(B, num_windows, C)  # A'
        mask = (torch.arange(num_windows, device=x.device) < rows * cols)[None] if spare else None  # [1, Nw]

        inference = on_gpu(x) and not torch.is_grad_enabled()
        if num_windows == 1 and (inference or is_fast_path(x) or is_exporting()):
            # One window: both softmaxes run over one key, so Z is the value of the only mixed token.
            if is_exporting():  # where the other rows of both weights would stay in the file
                a = self.mix_proj(F.linear(a, self.mix_qkv.weight[2 * C :], self.mix_qkv.bias[2 * C :]))
                z = F.linear(a, self.fuse_kv.weight[C:], self.fuse_kv.bias[C:])
            else:
                z = self.fuse_kv(self.mix_proj(self.mix_qkv(a)[..., 2 * C :]))[..., C:]
            return self.proj(image.reshape(B, H, W, C) + z.unsqueeze(1))

        # Mixing abstract tokens (eq. 4.3, 4.4).
        q, k, v = self.split_heads(self.mix_qkv(a), 3).unbind(0)
        a = self.mix_proj(self.attend(q, k, v, mask).transpose(1, 2).flatten(2))  # [B, Nw, C]

        # Token fusion (eq. 4.5): every image token reads all mixed tokens with the query of eq. 4.2.
        q = self.split_heads(t[..., :C].flatten(1, 2), 1)[0]
        k, v = self.split_heads(self.fuse_kv(a), 2).unbind(0)
        z = self.read(q, k, v, mask).transpose(1, 2)  # [B, H*W, h, d]
        return self.proj((image + z.view(image.shape)).flatten(3))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
        """softmax(q k^T / sqrt(d)) v over [.., tokens, d]; ``mask`` is True at keys that exist."""
        if self.fused_attn and (mask is None or not is_exporting()):  # which would guard it against rows without keys
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        attn = (q * self.scale) @ k.transpose(-2, -1)
        if mask is not None:
            attn = attn.masked_fill(~mask, float("-inf"))
        return attn.softmax(dim=-1) @ v

    def read(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
        """``attend`` for many queries and few keys; a softmax over a middle axis vectorises over the queries."""
        if self.fused_attn and q.is_cuda:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        attn = (k * self.scale) @ q.transpose(-2, -1)  # [B, h, Nw, N]
        if mask is not None:
            attn = attn.masked_fill(~mask.transpose(-2, -1), float("-inf"))
        return attn.softmax(dim=-2).transpose(-2, -1) @ v

    def split_heads(self, x: torch.Tensor, parts: int) -> torch.Tensor:
        """[B, N, parts*C] -> [parts, B, h, N, d]."""
        return x.view(x.shape[0], x.shape[1], parts, self.num_heads, -1).permute(2, 0, 3, 1, 4)

    def unwindow(
        self, x: torch.Tensor, back: Optional[torch.Tensor], batch: int, height: int, width: int, wh: int, ww: int
    ) -> torch.Tensor:
        """Windows of (wh, ww), [B*Nw, h, wh*ww, d] -> [B, H, W, h, d], without the padding."""
        if back is not None:
            x = x.transpose(1, 2).reshape(batch, -1, self.num_heads, x.shape[-1])[:, back]
            return x.view(batch, height, width, self.num_heads, -1)
        x = x.view(batch, height // wh, width // ww, self.num_heads, wh, ww, x.shape[-1])
        return x.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)

    def real_keys(self, batch: int, real: torch.Tensor) -> torch.Tensor:
        """True where a key is no padding, [Nw, 1, 1, wh*ww] -> [B*Nw, 1, 1, keys]; an abstract token is real."""
        if self.abstract_kv:
            real = F.pad(real, (0, 1), value=True)
        return real.repeat(batch, 1, 1, 1)


def window_order(
    height: int, width: int, wh: int, ww: int, num_windows: int, device: torch.device
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions of a map in the order of its windows, row by row in both.

    Windows beyond the map repeat its last position.

    Returns:
        The position at each place of each window [Nw*wh*ww], whether it is no padding [Nw*wh*ww], and the place of each
        position [H*W].
    """
    cols = (width + ww - 1) // ww
    place = torch.arange(num_windows * wh * ww, device=device)
    window, inside = place // (wh * ww), place % (wh * ww)
    row = window // cols
    y, x = row * wh + inside // ww, (window - row * cols) * ww + inside % ww  # ONNX has no % by a symbol
    order = y.clamp(max=height - 1) * width + x.clamp(max=width - 1)
    real = ((y < height) & (x < width)) | (window >= (height + wh - 1) // wh * cols)
    position = torch.arange(height * width, device=device)
    y = position // width
    x = position - y * width
    back = (y // wh * cols + x // ww) * (wh * ww) + y % wh * ww + x % ww
    return order, real, back


@notrace
class MATBlock(nn.Module):
    """Positional encoding, MAT attention, MLP (Fig. 4.2a), [B, H, W, C] -> [B, H, W, C].

    ``mixer="none"`` is the pure MLP block of section 4.3.3: x + MLP(LN(x)).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mixer: str,
        window_size: int,
        mlp_ratio: float,
        mlp_dwconv: bool,
        abstract_kv: bool,
        drop_path: float,
        **dd,
    ):
        super().__init__()
        self.attn = None
        if mixer != "none":
            self.cpe = ResidualDWConv(dim, **dd)
            self.norm1 = nn.LayerNorm(dim, **dd)
            self.attn = MATAttention(dim, num_heads, window_size, mixer == "mat", abstract_kv, **dd)
            self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.mlp = ConvMlp(dim, mlp_ratio, mlp_dwconv, **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.attn is not None:
            x = self.cpe(x)
            x = x + self.drop_path1(self.attn(self.norm1(x)))
        y = self.norm2(x)
        if is_fast_path(x) and not self.training and self.mlp.is_bare():
            return self.mlp.forward_fast(y, x)
        return x + self.drop_path2(self.mlp(y))


@notrace
class BilinearPatchEmbed(nn.Module):
    """Bilinear patch embedding (section 4.3.2; Fig. 4.3), [B, C, H, W] -> [B, C', ceil(H/2), ceil(W/2)].

    Each output cell samples the map once, bilinearly, at the centre of its 2x2 patch plus a learned offset in pixels.

    Args:
        dwconv: the residual 3x3 depthwise convolution behind the sampling, which the counts need and the text lacks.
    """

    def __init__(self, in_chs: int, out_chs: int, dwconv: bool = True, device=None, dtype=None):
        super().__init__()
        dd: dict[str, Any] = dict(device=device, dtype=dtype)
        self.offset_dwconv = nn.Conv2d(in_chs, in_chs, 3, stride=2, padding=1, groups=in_chs, bias=False, **dd)
        self.act = nn.GELU()
        self.offset = nn.Linear(in_chs, 2, bias=False, **dd)  # 1x1 convolution to (dx, dy)
        self.dwconv = ResidualDWConv(in_chs, **dd) if dwconv else None
        self.proj = ConvNorm(in_chs, out_chs, 1, bias=True, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.sample(x, self.positions(x))
        if self.dwconv is not None:
            x = self.dwconv(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.proj(x)

    def positions(self, x: torch.Tensor) -> torch.Tensor:
        """Where each output cell samples the map: [B, H', W', 2] as (x, y) in pixels; [0, 0] is the first pixel."""
        offset = self.offset(self.act(self.offset_dwconv(x)).permute(0, 2, 3, 1))
        if offset.dtype != torch.float64:
            offset = offset.float()  # a half-precision position would be off by pixels
        centre_x = torch.arange(offset.shape[2], device=x.device) * 2 + 0.5
        centre_y = torch.arange(offset.shape[1], device=x.device) * 2 + 0.5
        return torch.stack((offset[..., 0] + centre_x, offset[..., 1] + centre_y[:, None]), dim=-1)

    def sample(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Bilinear samples of [B, C, H, W] at the positions, clamped to the map, [B, C, H', W']."""
        size = torch.tensor([x.shape[3], x.shape[2]], device=x.device)
        grid = (2 * positions + 1) / size - 1
        s = F.grid_sample(x.to(grid.dtype), grid, mode="bilinear", padding_mode="border", align_corners=False)
        return s.to(x.dtype)


class PatchMerging(nn.Module):
    """2x2 patches side by side, then a 1x1 convolution (Table 4.9), [B, C, H, W] -> [B, C', ceil(H/2), ceil(W/2)]."""

    def __init__(self, in_chs: int, out_chs: int, device=None, dtype=None):
        super().__init__()
        self.proj = ConvNorm(4 * in_chs, out_chs, 1, bias=True, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        return self.proj(F.pixel_unshuffle(x, 2))


class MAT(PyramidBackbone):
    """MAT Transformer (section 4.3, Tables 4.3 and 4.12).

    Args:
        embed_dim: channels C of stage 1; stage i has C * 2^(i-1).
        depths: blocks of the four stages.
        num_heads: heads of the four stages; only stages with a mixer use them.
        mixers: token mixer of each stage, ``none``, ``window`` or ``mat`` (Table 4.2 moves it, Table 4.9 changes it).
        window_size: side of a window.
        mlp_ratio: expansion of the MLP.
        mlp_dwconv: depthwise convolution in the MLP; False is the row "Pure MLP" of Table 4.9.
        patch_embed: ``bilinear``, ``conv`` (3x3) or ``merge`` (2x2 patches); Table 4.9.
        pe_dwconv: residual depthwise convolution in the bilinear patch embedding; False is the text to the letter.
        abstract_kv: the abstract token is a key and a value too, as in eq. 4.2, but without its projections.
        head_hidden: channels of the 1x1 convolution before pooling.
        drop_path_rate: stochastic depth of the last block, linear from 0 (0.05 in Table 4.10).
        **head: ``num_classes``, ``global_pool``, ``drop_rate`` of ``PyramidBackbone``.

    Raises:
        ValueError: an unknown mixer or patch embedding, heads that do not divide the channels, other than four entries
            where there is one a stage.
    """

    def __init__(
        self,
        embed_dim: int = 32,
        depths: Tuple[int, ...] = (2, 2, 6, 6),
        num_heads: Tuple[int, ...] = (2, 4, 8, 16),
        mixers: Tuple[str, ...] = ("none", "none", "mat", "mat"),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        mlp_dwconv: bool = True,
        patch_embed: str = "bilinear",
        pe_dwconv: bool = True,
        abstract_kv: bool = False,
        head_hidden: int = 1280,
        drop_path_rate: float = 0.05,
        in_chans: int = 3,
        device=None,
        dtype=None,
        **head,
    ):
        dd: dict[str, Any] = dict(device=device, dtype=dtype)
        dims = tuple(embed_dim * 2**i for i in range(4))
        four_stages(depths=depths, num_heads=num_heads, mixers=mixers)
        if unknown := set(mixers) - set(MIXERS):
            raise ValueError(f"mixers must be of {', '.join(MIXERS)}, got {', '.join(sorted(unknown))}")
        if patch_embed not in PATCH_EMBEDS:
            raise ValueError(f"patch_embed must be one of {', '.join(PATCH_EMBEDS)}, got {patch_embed!r}")
        for dim, heads, mixer in zip(dims, num_heads, mixers):
            if mixer != "none" and dim % heads:
                raise ValueError(f"num_heads must divide the channels of a stage, got {heads} for {dim}")
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)  # of blocks, by stage
        stages = []
        for i, dim in enumerate(dims):
            downsample = nn.Identity()
            if i > 0 and patch_embed == "bilinear":
                downsample = BilinearPatchEmbed(dims[i - 1], dim, pe_dwconv, **dd)
            elif i > 0 and patch_embed == "merge":
                downsample = PatchMerging(dims[i - 1], dim, **dd)
            elif i > 0:
                downsample = ConvNorm(dims[i - 1], dim, 3, stride=2, bias=True, **dd)
            blocks = [
                MATBlock(
                    dim, num_heads[i], mixers[i], window_size, mlp_ratio, mlp_dwconv, abstract_kv, drop_path=rate, **dd
                )
                for rate in rates[i]
            ]
            stages.append(Stage(downsample, blocks, nn.LayerNorm(dim, **dd)))
        c = embed_dim // 2
        super().__init__(
            stem=nn.Sequential(  # Table 4.12
                ConvNorm(in_chans, c, 3, stride=2, bias=True, act=True, **dd),
                ConvNorm(c, c, 3, groups=c, bias=True, act=True, **dd),
                ConvNorm(c, embed_dim, 3, stride=2, bias=True, **dd),
            ),
            stages=stages,
            dims=dims,
            final=ConvNorm(dims[-1], head_hidden, 1, bias=True, act=True, **dd),
            num_features=head_hidden,
            in_chans=in_chans,
            **head,
            **dd,
        )
        self.apply(init_tokens)
        for stage in stages:
            # By fan-out alone L of them multiply the stream's variance by 3^L; so it is e^2 at most. With 3^L a channel
            # grows in training beyond what LayerNorm and BatchNorm cope with (docs/evidence.md).
            convs = [module.conv for module in stage.modules() if isinstance(module, ResidualDWConv)]
            for conv in convs:
                nn.init.normal_(conv.weight, std=math.sqrt(2 / (conv.weight[0].numel() * len(convs))))
        for module in self.modules():
            if isinstance(module, BilinearPatchEmbed):
                nn.init.zeros_(module.offset.weight)  # starts as 2x2 average pooling
            elif isinstance(module, MATAttention) and module.mix:
                trunc_normal_(module.abstract, std=0.02)

    @torch.jit.ignore()
    def no_weight_decay(self) -> set[str]:
        """The abstract tokens."""
        return {name for name, _ in self.named_parameters() if name.endswith(".abstract")}


default_cfgs = _timm.default_cfgs("stem.0.conv", "mat_1", "mat_2", "mat_3", "mat_4", "mat_5", "test_mat")


@register_model
def mat_1(pretrained: bool = False, **kwargs) -> MAT:
    """MAT-1 (Table 4.3)."""
    args = dict(embed_dim=24, depths=(2, 2, 6, 6), num_heads=(3, 6, 12, 24))
    return _timm.build(MAT, "mat_1", pretrained, args, kwargs)


@register_model
def mat_2(pretrained: bool = False, **kwargs) -> MAT:
    """MAT-2 (Table 4.3)."""
    args = dict(embed_dim=32, depths=(2, 2, 6, 6), num_heads=(2, 4, 8, 16))
    return _timm.build(MAT, "mat_2", pretrained, args, kwargs)


@register_model
def mat_3(pretrained: bool = False, **kwargs) -> MAT:
    """MAT-3 (Table 4.3)."""
    args = dict(embed_dim=36, depths=(2, 2, 8, 8), num_heads=(2, 4, 8, 16))
    return _timm.build(MAT, "mat_3", pretrained, args, kwargs)


@register_model
def mat_4(pretrained: bool = False, **kwargs) -> MAT:
    """MAT-4 (Table 4.3)."""
    args = dict(embed_dim=48, depths=(3, 3, 8, 8), num_heads=(3, 6, 12, 24))
    return _timm.build(MAT, "mat_4", pretrained, args, kwargs)


@register_model
def mat_5(pretrained: bool = False, **kwargs) -> MAT:
    """MAT-5 (Table 4.3)."""
    args = dict(embed_dim=64, depths=(2, 2, 8, 8), num_heads=(4, 8, 16, 32))
    return _timm.build(MAT, "mat_5", pretrained, args, kwargs)


@register_model
def test_mat(pretrained: bool = False, **kwargs) -> MAT:
    """A tiny MAT Transformer for tests."""
    args = dict(embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), head_hidden=64)
    return _timm.build(MAT, "test_mat", pretrained, args, kwargs)
