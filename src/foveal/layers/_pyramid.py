"""timm's backbone contract, written once: four stages at strides 4, 8, 16, 32 between a stem and a head.

A family builds its parts and hands them to ``PyramidBackbone``. Between the parts travel maps [B, C, H, W] in
channels-last memory, whatever the memory format of the input: on CPU, and in half precision on GPU, it is the faster
one, and in it a map is also a list of tokens.
"""

from typing import Any, List, Optional, Sequence, Tuple, Union

import torch
from timm.layers import NormMlpClassifierHead, get_device_dtype
from timm.models import checkpoint_seq, register_notrace_function
from timm.models._features import feature_take_indices
from torch import nn


@register_notrace_function
def check_images(x: torch.Tensor, in_chans: int) -> None:
    """Raise ValueError unless ``x`` is a batch of images [B, in_chans, H, W] with H, W >= 32."""
    if x.dim() != 4 or x.shape[1] != in_chans:
        raise ValueError(
            f"expected images [B, {in_chans}, H, W], got {list(x.shape)}; "
            "for other channels make the model with in_chans="
        )
    if x.shape[2] < 32 or x.shape[3] < 32:
        raise ValueError(f"expected images of at least 32x32 pixels, got {x.shape[2]}x{x.shape[3]}")


def four_stages(**per_stage: Sequence) -> None:
    """Raise ValueError unless every argument has four entries, one a stage."""
    for name, values in per_stage.items():
        if len(values) != 4:
            raise ValueError(f"{name} must have four entries, one for each stage, got {values}")


class Stage(nn.Module):
    """Downsampling on [B, C, H, W], then blocks and a norm on the channels-last view [B, H', W', C'].

    Returns:
        [B, C', H', W'] with H', W' as ``downsample`` makes them.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module], norm: Optional[nn.Module] = None):
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.downsample(x).permute(0, 2, 3, 1)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.blocks, x)
        else:
            x = self.blocks(x)
        return self.norm(x).permute(0, 3, 1, 2)


class PyramidBackbone(nn.Module):
    """A stem, four stages and a head that behave as timm's models do.

    Args:
        stem: images [B, in_chans, H, W] -> [B, C1, ceil(H/4), ceil(W/4)].
        stages: four of them; stage i ends at stride 4 * 2^i.
        dims: channels of the four stages.
        final: what follows the last stage before pooling and belongs to the classifier, not to the pyramid.
        num_features: channels behind ``final``.
        head_hidden: width of a hidden layer between pooling and classifier; 0 for none.
        tap_norms: norms of the four levels of the pyramid that the next stage does not see, or None.
        num_classes: classes; 0 removes the classifier.
        in_chans: channels of the images.
        global_pool: ``avg``, ``max`` or ``avgmax``; '' leaves the map, and classifies each of its positions.
        drop_rate: dropout before the classifier.

    Its methods raise ValueError for images with other than ``in_chans`` channels or a side below 32 px.
    """

    def __init__(
        self,
        *,
        stem: nn.Module,
        stages: Sequence[Stage],
        dims: Sequence[int],
        final: nn.Module,
        num_features: int,
        head_hidden: int = 0,
        tap_norms: Optional[Sequence[nn.Module]] = None,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.tap_norms = nn.ModuleList(tap_norms or [nn.Identity() for _ in dims])
        self.final = final
        self.feature_info: List[dict[str, Any]] = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"} for i, dim in enumerate(dims)
        ]
        self.num_features = num_features
        self.head = NormMlpClassifierHead(
            num_features,
            num_classes,
            hidden_size=head_hidden or None,
            pool_type=global_pool,
            drop_rate=drop_rate,
            norm_layer=nn.Identity,
            act_layer="gelu",
            device=device,
            dtype=dtype,
        )
        self.head_hidden_size = self.head.num_features
        self.final_is_norm = num_features == dims[-1]

    @torch.jit.ignore()
    def no_weight_decay(self) -> set[str]:
        """Parameters of two or more dimensions that should not decay (one-dimensional ones never do in timm)."""
        return set()

    @torch.jit.ignore()
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that sort parameters into layers, for timm's layer-wise decay."""
        if coarse:
            return dict(stem=r"^stem", blocks=r"^(?:stages|tap_norms)\.(\d+)")
        with_previous = (99999,)
        return dict(
            stem=r"^stem",
            blocks=[
                (r"^stages\.(\d+)\.downsample", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^stages\.(\d+)\.norm", with_previous),
                (r"^tap_norms\.(\d+)", with_previous),
                (r"^final", with_previous),
            ],
        )

    @torch.jit.ignore()
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass instead of keeping them."""
        for stage in self.stages:
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable

    @torch.jit.ignore()
    def get_classifier(self) -> nn.Module:
        """The last linear layer, or ``nn.Identity`` without classes."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None, reset_other: bool = False) -> None:
        """Replace the classifier; keep the pooling unless told; ``reset_other`` drops the hidden layer too."""
        self.num_classes = num_classes
        self.head.reset(
            num_classes,
            global_pool,
            reset_other=reset_other,
            in_features=self.num_features,
            **get_device_dtype(self),
        )
        self.head_hidden_size = self.head.num_features

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: Optional[Union[int, List[int]]] = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Union[List[torch.Tensor], Tuple[torch.Tensor, List[torch.Tensor]]]:
        """Features and the pyramid's levels on the way.

        Args:
            x: images [B, in_chans, H, W].
            indices: levels to return: the last n, those listed, or all (None).
            norm: pass the last level through ``final`` where that is a norm.
            stop_early: compute nothing behind the last level asked for.
            output_fmt: ``NCHW`` or ``NHWC`` of the levels.
            intermediates_only: return the levels alone.

        Returns:
            The levels, [B, C_i, ceil(H / stride_i), ceil(W / stride_i)] each, behind the features unless
            ``intermediates_only``.
        """
        assert output_fmt in ("NCHW", "NHWC"), "output_fmt must be NCHW or NHWC"
        check_images(x, self.in_chans)
        intermediates: List[torch.Tensor] = []
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        last = len(self.stages) - 1

        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        if torch.jit.is_scripting() or not stop_early:  # TorchScript cannot slice
            stages = self.stages
        else:
            stages = self.stages[: max_index + 1]
        index = 0
        for index, (stage, tap_norm) in enumerate(zip(stages, self.tap_norms)):
            x = stage(x)
            if index in take_indices:
                tap = self.final(x) if norm and index == last and self.final_is_norm else tap_norm(x)
                intermediates.append(tap.permute(0, 2, 3, 1) if output_fmt == "NHWC" else tap)
        if intermediates_only:
            return intermediates
        if index == last:
            x = self.final(x)
        return x, intermediates

    def prune_intermediate_layers(
        self,
        indices: Union[int, List[int]] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> List[int]:
        """Remove what the given levels do not need, in place; return the levels as a list of indices."""
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        prune_end = max_index < len(self.stages) - 1
        self.stages = self.stages[: max_index + 1]
        self.tap_norms = nn.ModuleList(
            norm if i in take_indices else nn.Identity() for i, norm in enumerate(self.tap_norms[: max_index + 1])
        )
        prune_final = prune_norm or prune_end or (prune_head and not self.final_is_norm)
        if prune_final:
            self.final = nn.Identity()
            self.num_features = self.head_hidden_size = self.feature_info[max_index]["num_chs"]
        if prune_head or prune_final:
            self.reset_classifier(0, "", reset_other=True)
        return take_indices

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images [B, in_chans, H, W] -> features [B, num_features, ceil(H/32), ceil(W/32)]."""
        check_images(x, self.in_chans)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        return self.final(self.stages(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Features -> logits [B, num_classes], or what the classifier sees [B, head_hidden_size]."""
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [B, in_chans, H, W] -> logits [B, num_classes]."""
        return self.forward_head(self.forward_features(x))
