"""PartialFormer: a few foreground tokens attend to one another, one query reads the background.

X.-T. Vo, dissertation, University of Ulsan, 2023, chapter 5. Tokens are ranked by the mean of their channels. The first
N_F of them and one learnable abstract token go through multi-head self-attention whose heads an MLP mixes (MMSA,
eq. 5.5); the abstract token's row then is the single query that reads all other tokens (SQA, eq. 5.6, 5.7).

What the text leaves open and the tables decide, or we do (docs/fidelity.md has the reasons): widths double; the score
is taken before the LayerNorm (behind it every mean is zero); a 3x3 depthwise convolution in the MLP and as positional
encoding; stem of three convolutions; N_F = N/128, N/16, N/8, N/4; HeadMLP expands by 4, ChannelMLP reduces by 32; the
classifier has a hidden layer of 1280. ``reading="tables"`` is the second reading: it meets every figure of Tables 5.1
to 5.7 but contradicts the text in where the output projection acts.

What is computed is exactly the equations, folded where they allow it. MMSA commutes with any order of its tokens, so
the N_F largest scores suffice and nothing is sorted. All background tokens share one query q, so their keys and values
are never made: K q = X (W_K^T q), and the softmax weights a give a V = (a X) W_V + b_V because they sum to 1.
"""

import warnings
from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm2d, calculate_drop_path_rates, trunc_normal_
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
    init_tokens,
    is_fast_path,
    notrace,
)
from . import _timm

__all__ = ["PartialFormer"]

ATTENTIONS = ("partial", "fg_only", "bg_mean", "full")
QUERIES = ("abstract", "learned", "fg_mean")
SCORES = ("mean", "l2", "random", "mean_normed")
READINGS = {
    "text": dict(stem="conv3", proj_tokens="foreground", fg_div=(128, 16, 8, 4)),
    "tables": dict(stem="conv7", proj_tokens="all", fg_div=(49, 64, 16, 3)),
}
EPS = 1e-6


class HeadMLP(nn.Module):
    """MLP over the heads of attention logits with the softmax over keys inside (eq. 5.5), [B, h, M, M] -> [B, h, M, M].

    A bias before the softmax would cancel, so there is none.
    """

    def __init__(self, num_heads: int, expand: int, device=None, dtype=None):
        super().__init__()
        self.fc1 = nn.Linear(num_heads, expand * num_heads, bias=False, device=device, dtype=dtype)
        self.fc2 = nn.Linear(expand * num_heads, num_heads, bias=False, device=device, dtype=dtype)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        # Heads last: a softmax over a middle axis with a long contiguous last one vectorises.
        x = self.fc1(logits.permute(0, 2, 3, 1)).softmax(dim=2)
        return self.fc2(x).permute(0, 3, 1, 2).contiguous()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Start near ordinary softmax attention: copies of the identity, plus noise."""
        heads = self.fc2.out_features
        expand = self.fc1.out_features // heads
        eye = torch.eye(heads, device=self.fc1.weight.device, dtype=self.fc1.weight.dtype).repeat(expand, 1)
        self.fc1.weight.copy_(eye + 0.02 * torch.randn_like(eye))
        self.fc2.weight.copy_((eye + 0.02 * torch.randn_like(eye)).T / expand)


class ChannelMLP(nn.Sequential):
    """Linear d -> m, LayerNorm, ReLU, Linear m -> d with m = max(8, d / r) (eq. 5.7), [B, 1, d] -> [B, 1, d]."""

    def __init__(self, dim: int, reduction: int, device=None, dtype=None):
        dd: dict[str, Any] = dict(device=device, dtype=dtype)
        hidden = max(8, dim // reduction)
        super().__init__(
            nn.Linear(dim, hidden, **dd), nn.LayerNorm(hidden, eps=EPS, **dd), nn.ReLU(), nn.Linear(hidden, dim, **dd)
        )


@notrace
class PartialAttention(nn.Module):
    """Partial attention (section 5.3.2, eq. 5.4-5.7; Fig. 5.4, 5.5); arguments as in ``PartialFormer``."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        fg_div: int,
        head_expand: int = 4,
        channel_reduction: int = 32,
        attention: str = "partial",
        query: str = "abstract",
        score: str = "mean",
        proj_tokens: str = "foreground",
        sqa_residual: bool = True,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd: dict[str, Any] = dict(device=device, dtype=dtype)
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.fg_div = fg_div
        self.attention = attention
        self.query = query
        self.score = score
        self.project_all = proj_tokens == "all"
        self.sqa_residual = sqa_residual
        self.qkv = Linear(dim, 3 * dim, **dd)
        self.proj = Linear(dim, dim, **dd)
        self.head_mlp = HeadMLP(num_heads, head_expand, **dd) if head_expand else None
        self.channel_mlp = None
        self.abstract = None
        if attention in ("partial", "bg_mean"):
            self.channel_mlp = (
                ChannelMLP(dim, channel_reduction, **dd) if channel_reduction else nn.Linear(dim, dim, **dd)
            )
        if attention == "partial" and query != "fg_mean":
            self.abstract = nn.Parameter(torch.empty(1, 1, dim, **dd))

    def forward(self, x: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        """Tokens behind and before the LayerNorm, [B, N, d] each -> [B, N, d]."""
        if self.attention == "full":
            return self.proj(self.mmsa(x))
        B, N, C = x.shape
        foreground = self.foreground(x, raw)  # [B, N_F]
        index = foreground.unsqueeze(-1).expand(-1, -1, C)
        x_f = x.gather(1, index)
        if self.abstract is not None and self.query == "abstract":
            x_f = torch.cat((self.abstract.expand(B, -1, -1).to(x_f.dtype), x_f), dim=1)  # X'_F

        o_f = self.mmsa(x_f)
        if not self.project_all:
            o_f = self.proj(o_f)
        q_a = o_f[:, :1]
        if self.query == "abstract" and self.abstract is not None:
            o_f = o_f[:, 1:]
        elif self.query == "learned" and self.abstract is not None:
            q_a = self.abstract.expand(B, -1, -1)
        elif self.query == "fg_mean":
            q_a = o_f.mean(dim=1, keepdim=True)

        o_b = x
        if self.channel_mlp is not None:
            y = self.channel_mlp(self.background(x, q_a, foreground))  # Y'_B, [B, 1, d]
            o_b = x + y if self.sqa_residual else y.expand(-1, N, -1)  # eq. 5.7
        out = o_b.scatter(1, index, o_f.to(o_b.dtype))  # foreground rows over the background's, in raster order
        return self.proj(out) if self.project_all else out

    def foreground(self, x: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        """Indices of the N_F tokens of highest score, in any order, [B, N_F] (eq. 5.4)."""
        if self.score == "mean":
            score = raw.float().mean(dim=-1)
        elif self.score == "l2":
            score = torch.linalg.vector_norm(raw.float(), dim=-1)
        elif self.score == "random":
            score = torch.rand(raw.shape[:2], device=raw.device)
        else:
            score = x.float().mean(dim=-1)
        num_foreground = (x.shape[1] + self.fg_div - 1) // self.fg_div
        if is_fast_path(score) and num_foreground < x.shape[1]:
            return self.first_of_equal(score, num_foreground)
        return score.topk(num_foreground, dim=1, sorted=False).indices

    @torch.jit.unused
    def first_of_equal(self, score: torch.Tensor, number: int) -> torch.Tensor:
        """The same, and of equal scores, which padding has, the first: so do ONNX Runtime and OpenVINO."""
        values, indices = score.topk(number + 1, dim=1)
        if bool((values[:, -1] == values[:, -2]).any()):
            indices = score.sort(dim=1, descending=True, stable=True).indices
        return indices[:, :number]

    def mmsa(self, x: torch.Tensor) -> torch.Tensor:
        """Mixed multi-head self-attention without its output projection, [B, M, d] -> [B, M, d] (eq. 5.5)."""
        B, M, C = x.shape
        q, k, v = self.qkv(x).view(B, M, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.head_mlp is not None:
            x = self.head_mlp((q * self.scale) @ k.transpose(-2, -1)) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v)
        return x.transpose(1, 2).reshape(B, M, C)

    def background(self, x: torch.Tensor, query: torch.Tensor, foreground: torch.Tensor) -> torch.Tensor:
        """What one query reads from the background, Y_B of eq. 5.6, [B, 1, d]."""
        B, N, C = x.shape
        h = self.num_heads
        folded, k, v = self.is_foldable(), x, x
        if not folded:
            k, v = self.qkv(x)[..., C:].view(B, N, 2, h, -1).permute(2, 0, 3, 1, 4).unbind(0)  # [B, h, N, d_h]
        if self.attention == "bg_mean":
            a = torch.ones_like(x[..., 0]).scatter(1, foreground, 0.0)
            a = (a / a.sum(dim=1, keepdim=True).clamp(min=1)).unsqueeze(1).expand(-1, h, -1)
        else:
            if folded:
                w_k = self.qkv.weight[C : 2 * C].view(h, -1, C)
                u = (query.view(B, h, -1).transpose(0, 1) * self.scale) @ w_k  # W_K^T q, [h, B, d]
                logits = x @ u.permute(1, 2, 0)  # [B, N, h]
            else:
                logits = (k @ (query.view(B, h, -1, 1) * self.scale)).squeeze(-1).transpose(1, 2)
            # The lowest float16 and not -inf: where every token is foreground (a 1x1 map) the softmax must stay finite.
            index = foreground.unsqueeze(-1).expand(-1, -1, h)
            a = logits.scatter(1, index, -65504.0).softmax(dim=1).transpose(1, 2)
        if not folded:
            return (a.unsqueeze(2) @ v).reshape(B, 1, C)
        z = a @ x  # [B, h, d]
        w_v = self.qkv.weight[2 * C :].view(h, -1, C)
        y = z.transpose(0, 1) @ w_v.transpose(1, 2)  # [h, B, d_h]
        return y.transpose(0, 1).reshape(B, 1, C) + self.qkv.bias[2 * C :]

    def is_foldable(self) -> bool:
        """Whether keys and values are ``qkv``'s weights times the tokens; not where an adapter stands in its place."""
        if torch.jit.is_scripting():
            return True
        else:  # noqa: RET505 - TorchScript would compile what follows a bare return
            return isinstance(self.qkv, nn.Linear)


@notrace
class PartialBlock(nn.Module):
    """Positional encoding, partial attention, MLP (Fig. 5.3), [B, H, W, C] -> [B, H, W, C]."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        fg_div: int,
        peg_kernel: int,
        mlp_ratio: float,
        mlp_dwconv: bool,
        drop_path: float,
        dd: dict,
        **attention_args,
    ):
        super().__init__()
        self.peg = ResidualDWConv(dim, peg_kernel, **dd) if peg_kernel else nn.Identity()
        self.norm1 = nn.LayerNorm(dim, eps=EPS, **dd)
        self.attn = PartialAttention(dim, num_heads, fg_div, **attention_args, **dd)
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=EPS, **dd)
        self.mlp = ConvMlp(dim, mlp_ratio, mlp_dwconv, **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.peg(x)
        tokens = self.attn(self.norm1(x).flatten(1, 2), x.flatten(1, 2))
        x = x + self.drop_path1(tokens.view(x.shape))
        y = self.norm2(x)
        if is_fast_path(x) and not self.training and self.mlp.is_bare():
            return self.mlp.forward_fast(y, x)
        return x + self.drop_path2(self.mlp(y))


class PartialFormer(PyramidBackbone):
    """PartialFormer (section 5.3, Table 5.1).

    Args:
        embed_dim: channels C of stage 1; stage i has C * 2^(i-1).
        depths: blocks of the four stages.
        num_heads: heads of the four stages.
        reading: defaults of ``stem``, ``proj_tokens`` and ``fg_div``. ``text``: conv3, foreground, (128, 16, 8, 4).
            ``tables``: conv7, all, (49, 64, 16, 3), which meets every figure of Tables 5.1 to 5.7.
        fg_div: one token in ``fg_div`` is foreground, per stage: N_F = ceil(N / fg_div).
        attention: ``partial``; ``fg_only`` (the background passes through); ``bg_mean`` (its mean value in place of
            the single query); ``full`` (all tokens attend to one another).
        query: single query of the background: ``abstract`` token behind MMSA, ``learned`` vector, or ``fg_mean``.
        score: ranking of tokens: ``mean`` of channels, ``l2`` norm, ``random``, or ``mean_normed`` (behind the
            LayerNorm: rounding noise, for demonstration, with a warning).
        head_expand: expansion e of HeadMLP; 0 is plain softmax attention.
        channel_reduction: reduction r of ChannelMLP; 0 is a linear layer.
        proj_tokens: output projection on the ``foreground`` and the abstract token, or on ``all`` N tokens at the end
            (the query then is the abstract token's row without projection).
        sqa_residual: X_B in eq. 5.7.
        stem: ``conv3`` (three 3x3 convolutions) or ``conv7`` (one 7x7 of stride 4).
        peg_kernel: kernel of the positional encoding; 0 for none.
        mlp_ratio: expansion of the MLP.
        mlp_dwconv: 3x3 depthwise convolution in the MLP.
        head_hidden: width of the classifier's hidden layer; 0 for none.
        pyramid_norm: a LayerNorm for each level of the pyramid; the default with ``features_only=True``.
        drop_path_rate: stochastic depth of the last block, linear from 0.
        **head: ``num_classes``, ``global_pool``, ``drop_rate`` of ``PyramidBackbone``.

    Raises:
        ValueError: an unknown value of a switch, a query other than ``abstract`` without partial attention, heads that
            do not divide the channels, ``fg_div`` or ``depths`` that are not four numbers.
    """

    def __init__(
        self,
        embed_dim: int = 32,
        depths: Tuple[int, ...] = (2, 2, 6, 6),
        num_heads: Tuple[int, ...] = (2, 4, 8, 16),
        reading: str = "text",
        fg_div: Optional[Tuple[int, ...]] = None,
        attention: str = "partial",
        query: str = "abstract",
        score: str = "mean",
        head_expand: int = 4,
        channel_reduction: int = 32,
        proj_tokens: Optional[str] = None,
        sqa_residual: bool = True,
        stem: Optional[str] = None,
        peg_kernel: int = 3,
        mlp_ratio: float = 4.0,
        mlp_dwconv: bool = True,
        head_hidden: int = 1280,
        pyramid_norm: bool = False,
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
        device=None,
        dtype=None,
        **head,
    ):
        dd: dict[str, Any] = dict(device=device, dtype=dtype)
        dims = tuple(embed_dim * 2**i for i in range(4))
        _check("reading", reading, tuple(READINGS))
        preset = READINGS[reading]
        stem = stem or preset["stem"]
        proj_tokens = proj_tokens or preset["proj_tokens"]
        fg_div = fg_div or preset["fg_div"]
        _check("stem", stem, ("conv3", "conv7"))
        _check("proj_tokens", proj_tokens, ("foreground", "all"))
        _check("attention", attention, ATTENTIONS)
        _check("query", query, QUERIES)
        _check("score", score, SCORES)
        if query != "abstract" and attention != "partial":
            raise ValueError(f"query={query!r} needs attention='partial', got {attention!r}")
        if len(fg_div) != 4 or min(fg_div) < 1:
            raise ValueError(f"fg_div must be four numbers of at least 1, got {fg_div}")
        four_stages(depths=depths, num_heads=num_heads)
        for dim, heads in zip(dims, num_heads):
            if dim % heads:
                raise ValueError(f"num_heads must divide the channels of a stage, got {heads} for {dim}")
        if score == "mean_normed":
            warnings.warn("score='mean_normed' ranks tokens by rounding noise: their means are zero", stacklevel=2)

        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)  # of blocks, by stage
        switches: dict[str, Any] = dict(
            head_expand=head_expand,
            channel_reduction=channel_reduction,
            attention=attention,
            query=query,
            score=score,
            proj_tokens=proj_tokens,
            sqa_residual=sqa_residual,
        )
        stages = []
        for i, dim in enumerate(dims):
            downsample = nn.Identity()
            if i > 0:
                conv = nn.Conv2d(dims[i - 1], dim, 3, stride=2, padding=1, **dd)
                downsample = nn.Sequential(conv, LayerNorm2d(dim, eps=EPS, **dd))
            blocks = [
                PartialBlock(dim, num_heads[i], fg_div[i], peg_kernel, mlp_ratio, mlp_dwconv, rate, dd, **switches)
                for rate in rates[i]
            ]
            stages.append(Stage(downsample, blocks))
        super().__init__(
            stem=_conv3_stem(in_chans, embed_dim, dd) if stem == "conv3" else _conv7_stem(in_chans, embed_dim, dd),
            stages=stages,
            dims=dims,
            final=LayerNorm2d(dims[-1], eps=EPS, **dd),
            num_features=dims[-1],
            head_hidden=head_hidden,
            tap_norms=[LayerNorm2d(dim, eps=EPS, **dd) for dim in dims] if pyramid_norm else None,
            in_chans=in_chans,
            **head,
            **dd,
        )
        self.apply(init_tokens)
        for module in self.modules():
            if isinstance(module, HeadMLP):
                module.init_weights()
            elif isinstance(module, PartialAttention) and module.abstract is not None:
                trunc_normal_(module.abstract, std=0.02)

    @torch.jit.ignore()
    def no_weight_decay(self) -> set[str]:
        """The abstract tokens and HeadMLP."""
        return {n for n, _ in self.named_parameters() if n.endswith(".abstract") or ".head_mlp." in n}


def _check(name: str, value: str, choices: Tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _conv3_stem(in_chans: int, dim: int, dd: dict) -> nn.Sequential:
    return nn.Sequential(
        ConvNorm(in_chans, dim // 2, 3, stride=2, act=True, **dd),
        ConvNorm(dim // 2, dim // 2, 3, act=True, **dd),
        nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, **dd),
        LayerNorm2d(dim, eps=EPS, **dd),
    )


def _conv7_stem(in_chans: int, dim: int, dd: dict) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_chans, dim, 7, stride=4, padding=3, **dd), LayerNorm2d(dim, eps=EPS, **dd))


def checkpoint_filter_fn(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """A classifier's last norm becomes that of the pyramid's last level; the other three start as identities."""
    norms = {name: value for name, value in model.state_dict().items() if name.startswith("tap_norms.")}
    if norms and "tap_norms.3.weight" not in state_dict:
        state_dict |= norms | {f"tap_norms.3.{name}": state_dict[f"final.{name}"] for name in ("weight", "bias")}
    return state_dict


default_cfgs = _timm.default_cfgs(
    "stem.0.conv",
    "partialformer_b0",
    "partialformer_b1",
    "partialformer_b2",
    "partialformer_b3",
    "partialformer_b4",
    "test_partialformer",
)


def _create_partialformer(variant: str, pretrained: bool, defaults: dict, kwargs: dict) -> PartialFormer:
    defaults = dict(defaults, pyramid_norm=kwargs.get("features_only", False))
    return _timm.build(PartialFormer, variant, pretrained, defaults, kwargs, checkpoint_filter_fn)


@register_model
def partialformer_b0(pretrained: bool = False, **kwargs) -> PartialFormer:
    """PartialFormer-B0 (Table 5.1)."""
    args = dict(embed_dim=24, depths=(2, 2, 6, 6), num_heads=(2, 4, 8, 16))
    return _create_partialformer("partialformer_b0", pretrained, args, kwargs)


@register_model
def partialformer_b1(pretrained: bool = False, **kwargs) -> PartialFormer:
    """PartialFormer-B1 (Table 5.1)."""
    args = dict(embed_dim=32, depths=(2, 2, 6, 6), num_heads=(2, 4, 8, 16), drop_path_rate=0.05)
    return _create_partialformer("partialformer_b1", pretrained, args, kwargs)


@register_model
def partialformer_b2(pretrained: bool = False, **kwargs) -> PartialFormer:
    """PartialFormer-B2 (Table 5.1)."""
    args = dict(embed_dim=48, depths=(2, 2, 8, 8), num_heads=(3, 6, 12, 24), drop_path_rate=0.1)
    return _create_partialformer("partialformer_b2", pretrained, args, kwargs)


@register_model
def partialformer_b3(pretrained: bool = False, **kwargs) -> PartialFormer:
    """PartialFormer-B3 (Table 5.1)."""
    args = dict(embed_dim=64, depths=(2, 2, 8, 8), num_heads=(4, 8, 16, 32), drop_path_rate=0.2)
    return _create_partialformer("partialformer_b3", pretrained, args, kwargs)


@register_model
def partialformer_b4(pretrained: bool = False, **kwargs) -> PartialFormer:
    """PartialFormer-B4 (Table 5.1)."""
    args = dict(embed_dim=96, depths=(2, 2, 8, 6), num_heads=(6, 12, 24, 48), drop_path_rate=0.3)
    return _create_partialformer("partialformer_b4", pretrained, args, kwargs)


@register_model
def test_partialformer(pretrained: bool = False, **kwargs) -> PartialFormer:
    """A tiny PartialFormer for tests."""
    args = dict(embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), head_hidden=64)
    return _create_partialformer("test_partialformer", pretrained, args, kwargs)
