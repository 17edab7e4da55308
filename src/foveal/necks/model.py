"""Models over a pyramid: what detectors, segmenters and keypoint models share, and how one is found by its name."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import distributed as dist
from torch import nn

from .._errors import UserError, unknown
from .pyramid import Pyramid


class PyramidModel(nn.Module):
    """A model over the maps of a backbone.

    Args:
        backbone: of the model's ``strides``.
        num_classes: number of classes.

    Attributes:
        strides: of the backbone's maps that the model needs.

    Raises:
        UserError: no class.
    """

    strides: tuple[int, ...] = (4, 8, 16, 32)

    def __init__(self, backbone: Pyramid, num_classes: int):
        super().__init__()
        if num_classes < 1:
            raise UserError(f"num-classes must be 1 or more, got {num_classes}")
        self.backbone, self.num_classes = backbone, num_classes

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the backbone's activations again in the backward pass; raises UserError if it cannot."""
        self.backbone.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that the backbone wants without weight decay."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}


M = TypeVar("M", bound=PyramidModel)


class Registry(dict[str, type[M]], Generic[M]):
    """Models of a kind by their names.

    Args:
        kind: what messages call one.
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def register(self, name: str) -> Callable[[type[M]], type[M]]:
        """Give a class the name by which ``build`` finds it."""

        def enter(cls: type[M]) -> type[M]:
            self[name] = cls
            return cls

        return enter

    def build(
        self,
        name: str,
        backbone: str,
        num_classes: int,
        *,
        pretrained: bool = False,
        frozen_stages: int = 0,
        frozen_bn: bool = False,
        backbone_args: dict[str, Any] | None = None,
        **args: Any,
    ) -> M:
        """A model over any timm backbone.

        Args:
            name: a key of this registry.
            backbone, pretrained, frozen_stages, frozen_bn: see ``Pyramid``.
            num_classes: number of classes.
            backbone_args: further arguments of the backbone.
            args: of the model's class.

        Raises:
            UserError: an unknown model or backbone, arguments that they do not take.
        """
        if name not in self:
            raise unknown(self.kind, name, self)
        cls: Any = self[name]
        options = dict(pretrained=pretrained, frozen_stages=frozen_stages, frozen_bn=frozen_bn)
        pyramid = Pyramid(backbone, cls.strides, **options, **(backbone_args or {}))
        try:
            return cls(pyramid, num_classes, **args)
        except (TypeError, ValueError) as error:
            raise UserError(f"{name}: {str(error).split('__init__() ')[-1]}") from None


def mean_over_processes(count: torch.Tensor) -> torch.Tensor:
    """A count that a loss is divided by: at least one in all, and such that gradients of N processes, which are
    averaged, equal those of one process with all their pictures."""
    count = count.float()
    if dist.is_available() and dist.is_initialized():
        count = count.clone()
        dist.all_reduce(count)
        return count.clamp(min=1) / dist.get_world_size()
    return count.clamp(min=1)
