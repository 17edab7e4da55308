"""DETR (Carion et al., 2020, End-to-end object detection with transformers).

Raw outputs, losses and detections equal those of Hugging Face's DetrForObjectDetection with the same backbone and
weights. Attention has dropout as in the paper's code, where Hugging Face's has none by default.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import MLP

from ..necks import Pyramid, mean_over_processes
from ._detector import as_sizes, register
from ._sets import SetDetector


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each with a norm behind the residual (figure 10)."""

    def __init__(self, embed_dim: int, num_heads: int, dim_feedforward: int, dropout: float):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(embed_dim, num_heads, dropout, batch_first=True)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.mlp = MLP(embed_dim, [dim_feedforward, embed_dim], dropout=dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, positions: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """Tokens [B, N, C], their positions [B, N, C], and which of them are padding [B, N]."""
        keys = x + positions
        x = self.norm1(x + self.dropout(_attention(self.self_attn, keys, keys, x, padding)))
        return self.norm2(x + self.mlp(x))


class DecoderLayer(nn.Module):
    """Attention among queries, attention to the picture, and MLP (figure 10)."""

    def __init__(self, embed_dim: int, num_heads: int, dim_feedforward: int, dropout: float):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(embed_dim, num_heads, dropout, batch_first=True)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.cross_attn = nn.MultiheadAttention(embed_dim, num_heads, dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = MLP(embed_dim, [dim_feedforward, embed_dim], dropout=dropout)
        self.norm3 = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        queries: torch.Tensor,
        memory: torch.Tensor,
        positions: torch.Tensor,
        padding: torch.Tensor,
    ) -> torch.Tensor:
        """Objects [B, Q, C] and their queries [B, Q, C], the picture's tokens and positions [B, N, C]."""
        keys = x + queries
        x = self.norm1(x + self.dropout(_attention(self.self_attn, keys, keys, x)))
        seen = _attention(self.cross_attn, x + queries, memory + positions, memory, padding)
        x = self.norm2(x + self.dropout(seen))
        return self.norm3(x + self.mlp(x))


@register("detr")
class DETR(SetDetector):
    """DETR on the backbone's coarsest map.

    Args:
        backbone: the map of stride 32.
        num_classes: number of classes, without "no object".
        num_queries: boxes of a picture.
        embed_dim: width of the transformer.
        num_heads: heads of each attention.
        num_encoder_layers, num_decoder_layers: depth of the transformer.
        dim_feedforward: hidden width of the MLPs.
        dropout: in attention and behind each layer, in training.
        eos_coef: weight of "no object" in the cross entropy.
    """

    strides = (32,)
    form = "cxcywh"
    class_weight = 1.0

    def __init__(
        self,
        backbone: Pyramid,
        num_classes: int,
        *,
        num_queries: int = 100,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        eos_coef: float = 0.1,
    ):
        super().__init__(backbone, num_classes)
        self.eos_coef = eos_coef
        self.input_proj = nn.Conv2d(backbone.channels[0], embed_dim, 1)
        sizes = embed_dim, num_heads, dim_feedforward, dropout
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(num_encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(num_decoder_layers))
        for parameter in [*self.encoder.parameters(), *self.decoder.parameters()]:
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.norm = nn.LayerNorm(embed_dim)
        self.query_embed = nn.Embedding(num_queries, embed_dim)
        self.class_embed = nn.Linear(embed_dim, num_classes + 1)
        self.bbox_embed = MLP(embed_dim, [embed_dim, embed_dim, 4])

    def forward(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> dict[str, Any]:
        """Of L decoder layers and N queries.

        Returns:
            ``logits`` [L, B, N, num_classes + 1], "no object" last; ``boxes`` [L, B, N, 4], center, width and height in
            shares of the picture's; ``sizes`` [B, 2].
        """
        sizes = as_sizes(sizes, images)
        (x,) = self.backbone(images)
        padding = _padding(sizes, x)
        positions = sine_positions(~padding, self.input_proj.out_channels).flatten(1, 2).to(x.dtype)
        padding = padding.flatten(1)
        memory = self.input_proj(x).flatten(2).transpose(1, 2)  # [B, C, H, W] -> [B, H*W, C]
        for layer in self.encoder:
            memory = layer(memory, positions, padding)
        queries = self.query_embed.weight.expand(images.shape[0], -1, -1)
        objects, layers = torch.zeros_like(queries), []
        for layer in self.decoder:
            objects = layer(objects, queries, memory, positions, padding)
            layers.append(self.norm(objects))
        x = torch.stack(layers)
        return {"logits": self.class_embed(x), "boxes": self.bbox_embed(x).float().sigmoid(), "sizes": sizes}

    def class_cost(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return -logits.softmax(-1)[..., labels]

    def class_loss(self, logits: torch.Tensor, labels: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """Cross entropy, a weighted mean in every layer."""
        weight = logits.new_ones(self.num_classes + 1)
        weight[-1] = self.eos_coef
        entropy = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), weight, reduction="sum")
        return entropy / mean_over_processes(weight[labels[0]].sum())  # layers have the same number of objects

    def best(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One class for every query."""
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        scores, places = scores.topk(scores.shape[1])  # and not a stable sort, which ONNX does not have
        return scores, places, labels.gather(1, places)


def _attention(
    attention: nn.Module,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    padding: torch.Tensor | None = None,
) -> torch.Tensor:
    return attention(queries, keys, values, key_padding_mask=padding, need_weights=False)[0]


def _padding(sizes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The positions [B, H, W] of a map [B, C, H, W] of stride 32 that begin outside pictures of sizes [B, 2]."""
    rows, columns = (32 * torch.arange(n, device=x.device) for n in x.shape[2:])
    return (rows[:, None] >= sizes[:, 0, None, None]) | (columns >= sizes[:, 1, None, None])


def sine_positions(mask: torch.Tensor, dim: int) -> torch.Tensor:
    """Sines and cosines of the place within the picture (appendix A.4).

    Args:
        mask: positions of the picture [B, H, W].
        dim: half for rows, half for columns.

    Returns:
        [B, H, W, dim].
    """
    periods = 10000 ** (torch.arange(0, dim // 2, 2, device=mask.device) / (dim // 2))
    parts = []
    for axis in (1, 2):
        places = mask.cumsum(axis, dtype=torch.float32)
        places = places / (places.narrow(axis, -1, 1) + 1e-6) * (2 * math.pi)
        angles = places[..., None] / periods
        parts.append(torch.stack([angles.sin(), angles.cos()], dim=4).flatten(3))
    return torch.cat(parts, dim=3)
