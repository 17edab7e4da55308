"""Any timm backbone as maps of given strides."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._errors import UserError
from .._models import create_model, weights_folder

FLEXIBLE = ("strict_img_size", False), ("dynamic_img_size", True)  # what timm's models of a fixed size call it


class Pyramid(nn.Module):
    """Maps of a timm backbone, from fine to coarse.

    The picture is padded with zeros on its right and lower side to a multiple of 32, so that strides are exact.

    Args:
        name: as ``create_model`` takes it: any timm name, or the folder of a trained classifier.
        strides: of the maps, a part of those that the backbone has.
        pretrained: start from timm's weights of that name.
        frozen_stages: 1 to 4 for layers that are not trained, with their BatchNorm: all that the backbone's map of
            stride 4, 8, 16 or 32 depends on; 0 for none.
        frozen_bn: BatchNorm everywhere keeps its statistics and is not trained.
        model_args: further arguments of the backbone.

    Attributes:
        channels: of the maps.
        architecture, model_args: the timm name and the arguments from which the backbone can be made anew.

    Raises:
        UserError: an unknown backbone, or one that does not have the strides.
    """

    def __init__(
        self,
        name: str,
        strides: Sequence[int] = (4, 8, 16, 32),
        *,
        pretrained: bool = False,
        frozen_stages: int = 0,
        frozen_bn: bool = False,
        **model_args: Any,
    ):
        super().__init__()
        if not 0 <= frozen_stages <= 4:
            raise UserError(f"frozen-stages must be 0 to 4, got {frozen_stages}")
        whole = _create(name, False, model_args)
        reductions = list(whole.feature_info.reduction())
        if not {*strides} <= {*reductions}:
            raise UserError(f"{name} has maps of strides {reductions}; strides {[*strides]} are needed")
        places = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides]
        self.body = _create(name, pretrained, {**model_args, "out_indices": places})
        self.architecture, self.model_args = _origin(name, model_args)
        self.channels: list[int] = self.body.feature_info.channels()
        self.frozen: list[str] = []
        if frozen_stages:
            stride = 2 ** (1 + frozen_stages)
            if stride not in reductions:
                raise UserError(f"{name} has maps of strides {reductions}; to freeze {frozen_stages} needs {stride}")
            self.frozen = _freeze(self.body, _behind(whole, reductions.index(stride)))
        self.frozen_bn = frozen_bn
        for norm in self._norms() if frozen_bn else ():
            norm.requires_grad_(False)
        self.train()

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Images [B, 3, H, W] -> a map [B, C, H' / stride, W' / stride] for each stride; H' and W' are padded."""
        # Channels last: PyTorch's convolutions and norms take 10 to 20 % less time on CPU.
        maps = self.body(pad_to_32(images).contiguous(memory_format=torch.channels_last))
        turned = getattr(self.body, "output_fmt", "NCHW") == "NHWC"  # Swin, for one
        return [x.permute(0, 3, 1, 2) for x in maps] if turned else maps

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations again in the backward pass; raises UserError if the backbone cannot."""
        model: Any = getattr(self.body, "model", self.body)
        if not hasattr(model, "set_grad_checkpointing"):
            raise UserError(f"{self.architecture} has no gradient checkpointing")
        model.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay; timm keeps them only of backbones that it does not take apart."""
        model: Any = getattr(self.body, "model", None)
        names = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
        return {f"body.model.{name}" for name in names}

    def train(self, mode: bool = True) -> "Pyramid":
        super().train(mode)
        for name in self.frozen:  # names, since BatchNorm over several processes takes the place of modules
            self.body.get_submodule(name).eval()
        for norm in self._norms() if self.frozen_bn else ():
            norm.eval()
        return self

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.body.modules() if isinstance(module, _BatchNorm)]


def pad_to_32(images: torch.Tensor) -> torch.Tensor:
    """Images [B, C, H, W] with zeros on the right and lower side, to multiples of 32."""
    H, W = images.shape[2:]
    if torch.compiler.is_exporting():  # sizes may be symbols, on which nothing may branch
        return F.pad(images, (0, (W + 31) // 32 * 32 - W, 0, (H + 31) // 32 * 32 - H))
    right, below = -W % 32, -H % 32
    return F.pad(images, (0, right, 0, below)) if right or below else images  # F.pad would copy


def _origin(name: str, model_args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The timm name and the arguments from which the backbone can be made anew, also where it came from a folder."""
    if not Path(name).is_dir():
        return name, model_args
    config = json.loads((weights_folder(Path(name)) / "config.json").read_text())
    return config["architecture"], config.get("model_args", {}) | model_args


def _create(name: str, pretrained: bool, model_args: dict[str, Any]) -> Any:
    args = dict(model_args, features_only=True)
    config = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    if config is None or not config.fixed_input_size:
        return create_model(name, pretrained, **args)
    for flag, value in FLEXIBLE:
        try:
            return create_model(name, pretrained, **args | {flag: value})
        except UserError as error:
            if flag not in str(error):
                raise
    raise UserError(f"{name} takes pictures of one size only")


def _behind(body: nn.Module, index: int) -> set[str]:
    """Names of the parameters that a map depends on."""
    names, parameters = zip(*body.named_parameters())
    total = body.eval()(torch.zeros(1, 3, 64, 64))[index].square().sum()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return {name for name, gradient in zip(names, gradients) if gradient is not None}


def _freeze(body: nn.Module, names: set[str]) -> list[str]:
    """Freeze parameters; names of the modules that have nothing left to train."""
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name not in names)
    return [
        name
        for name, module in body.named_modules()
        if any(True for _ in module.parameters()) and not any(p.requires_grad for p in module.parameters())
    ]
