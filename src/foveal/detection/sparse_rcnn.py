"""Sparse R-CNN (Sun et al., 2021, Sparse R-CNN: End-to-end object detection with learnable proposals).

Boxes, features and all layers are the paper's; features of a box come from RoIAlign as in Mask R-CNN here, which has no
offset of half a pixel.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_convert, sigmoid_focal_loss

from ..necks import FPN, Pyramid
from ._detector import as_sizes, register
from ._roi_align import pooled
from ._sets import SetDetector

BINS = 7  # of a box in each direction
PRIOR = 0.01  # probability of a class at the start
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss


class DynamicConv(nn.Module):
    """Two 1x1 convolutions of a box's features whose kernels come from its proposal (figure 4)."""

    def __init__(self, embed_dim: int, dim_dynamic: int):
        super().__init__()
        self.dim_dynamic = dim_dynamic
        self.kernels = nn.Linear(embed_dim, 2 * embed_dim * dim_dynamic)
        self.norm1 = nn.LayerNorm(dim_dynamic)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.out = nn.Linear(BINS**2 * embed_dim, embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)

    def forward(self, proposals: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Proposals [M, C], features of their boxes [M, bins, C] -> [M, C]."""
        first, second = self.kernels(proposals).chunk(2, dim=1)
        x = features @ first.view(proposals.shape[0], -1, self.dim_dynamic)  # [M, bins, dim_dynamic]
        x = F.relu(self.norm1(x)) @ second.view(proposals.shape[0], self.dim_dynamic, -1)
        x = F.relu(self.norm2(x)).flatten(1)
        return F.relu(self.norm3(self.out(x)))


class Stage(nn.Module):
    """Proposals look at one another and at their boxes, then say class and correction of them (section 3.2)."""

    def __init__(self, num_classes: int, embed_dim: int, num_heads: int, dim_feedforward: int, dim_dynamic: int):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.interact = DynamicConv(embed_dim, dim_dynamic)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, dim_feedforward), nn.ReLU(inplace=True), nn.Linear(dim_feedforward, embed_dim)
        )
        self.norm3 = nn.LayerNorm(embed_dim)
        self.classification = nn.Sequential(*_layer(embed_dim))
        self.regression = nn.Sequential(*_layer(embed_dim), *_layer(embed_dim), *_layer(embed_dim))
        self.logits = nn.Linear(embed_dim, num_classes)
        self.deltas = nn.Linear(embed_dim, 4)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.constant_(self.logits.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(
        self, proposals: torch.Tensor, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Proposals [B, N, C], features [B * N, bins, C] -> proposals [B, N, C], logits [B, N, K], deltas [B, N, 4]."""
        x = self.norm1(proposals + self.self_attn(proposals, proposals, proposals, need_weights=False)[0])
        x = self.norm2(x + self.interact(x.flatten(0, 1), features).view_as(x))
        x = self.norm3(x + self.mlp(x))
        return x, self.logits(self.classification(x)), self.deltas(self.regression(x))


@register("sparse_rcnn")
class SparseRCNN(SetDetector):
    """Sparse R-CNN over a pyramid of strides 4 to 32.

    Args:
        backbone: maps of strides 4, 8, 16, 32.
        num_classes: number of classes.
        num_proposals: learned boxes and their features.
        num_stages: how often boxes are corrected.
        num_heads: heads of the attention among proposals.
        dim_feedforward: hidden width of the MLPs.
        dim_dynamic: hidden width of the dynamic convolutions.
    """

    form = "xyxy"
    class_weight = 2.0

    def __init__(
        self,
        backbone: Pyramid,
        num_classes: int,
        *,
        num_proposals: int = 100,
        num_stages: int = 6,
        num_heads: int = 8,
        dim_feedforward: int = 2048,
        dim_dynamic: int = 64,
    ):
        super().__init__(backbone, num_classes)
        self.neck = FPN(backbone.channels)
        self.boxes = nn.Parameter(torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(num_proposals, 1))  # cxcywh
        self.features = nn.Parameter(torch.randn(num_proposals, 256))
        sizes = 256, num_heads, dim_feedforward, dim_dynamic
        self.stages = nn.ModuleList(Stage(num_classes, *sizes) for _ in range(num_stages))
        self.coder = BoxCoder(weights=(2.0, 2.0, 1.0, 1.0), bbox_xform_clip=math.log(100000 / 16))

    def forward(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> dict[str, Any]:
        """Of L stages and N proposals.

        Returns:
            ``logits`` [L, B, N, num_classes]; ``boxes`` [L, B, N, 4], corners in shares of the picture's sides;
            ``sizes`` [B, 2].
        """
        sizes = as_sizes(sizes, images)
        maps = self.neck(self.backbone(images))
        scale = sizes.flip(1).repeat(1, 2)[:, None].float()  # [B, 1, 4]
        boxes = box_convert(self.boxes.float(), "cxcywh", "xyxy") * scale
        x = self.features.expand(images.shape[0], -1, -1)
        pictures = torch.arange(images.shape[0], device=images.device)[:, None].expand(-1, len(self.boxes)).flatten()
        logits, corrected = [], []
        for stage in self.stages:
            features = pooled(maps, boxes.detach().flatten(0, 1), pictures, BINS)
            features = features.flatten(2).transpose(1, 2)  # [B * N, bins, C]
            x, classes, deltas = stage(x, features)
            boxes = self.coder.decode_single(deltas.float().flatten(0, 1), boxes.flatten(0, 1)).view_as(boxes)
            logits.append(classes)
            corrected.append(boxes / scale)
            boxes = boxes.detach()  # a stage is trained by its own losses; the learned boxes, by the first
        return {"logits": torch.stack(logits), "boxes": torch.stack(corrected), "sizes": sizes}

    def class_cost(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What the focal loss of a class would gain."""
        chosen = logits[..., labels]
        p = chosen.sigmoid()
        positive, negative = ALPHA * (1 - p) ** GAMMA * F.softplus(-chosen), (1 - ALPHA) * p**GAMMA * F.softplus(chosen)
        return positive - negative

    def class_loss(self, logits: torch.Tensor, labels: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """Focal loss by the number of objects."""
        wanted = F.one_hot(labels, self.num_classes + 1)[..., :-1].to(logits)
        return sigmoid_focal_loss(logits, wanted, ALPHA, GAMMA, reduction="sum") / number

    def best(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best pairs of box and class, as many as boxes."""
        scores, places = logits.sigmoid().flatten(1).topk(logits.shape[1])
        return scores, places // self.num_classes, places % self.num_classes


def _layer(dim: int) -> tuple[nn.Module, ...]:
    return nn.Linear(dim, dim, bias=False), nn.LayerNorm(dim), nn.ReLU(inplace=True)
