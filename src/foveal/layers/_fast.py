"""When a layer may compute its definition in another, exactly equal and faster way."""

from typing import Optional, TypeVar

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import nn

M = TypeVar("M", bound=type[nn.Module])

ONEDNN_MACS = 2**22  # multiply-adds of a product from which oneDNN's kernels outweigh their cost per call


def notrace(cls: M) -> M:
    """Class decorator: FX takes the module as a leaf, since its forward branches on sizes or on ``is_fast_path``."""
    register_notrace_module(cls)
    return cls


def is_exporting() -> bool:
    """Whether ``torch.export`` is at work."""
    if torch.jit.is_scripting():
        return False
    else:  # noqa: RET505 - TorchScript would compile what follows a bare return
        return bool(torch.compiler.is_exporting())


def has_symbols(height: int, width: int) -> bool:
    """Whether ``torch.export`` is at work and a size is a symbol, on which no branch may depend."""
    if torch.jit.is_scripting():
        return False
    else:  # noqa: RET505 - TorchScript would compile what follows a bare return
        return is_exporting() and (isinstance(height, torch.SymInt) or isinstance(width, torch.SymInt))


def is_fast_path(x: torch.Tensor) -> bool:
    """Whether this is plain eager inference in float32 on CPU: no autograd, no autocast, no compiler, no export."""
    if torch.jit.is_scripting() or torch.jit.is_tracing():
        return False
    else:  # noqa: RET505 - as above
        return bool(
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )


def on_gpu(x: torch.Tensor) -> bool:
    """Whether a tensor lies on a GPU, where a few layers compute their definition in another way in training, too."""
    return x.is_cuda


def has_onednn() -> bool:
    """Whether this build of PyTorch has oneDNN's fused operators, and may use them."""
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def fused_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: Optional[torch.Tensor],
    gelu: bool = False,
    shortcut: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """``F.linear``, then GELU or the addition of a shortcut, on the fast path: by oneDNN where that is the faster one.

    ``weight`` must be contiguous; oneDNN has no fast kernel for a slice of columns.
    """
    if x.numel() * weight.shape[0] >= ONEDNN_MACS and has_onednn():
        if shortcut is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x, shortcut, weight, bias, "add")
        act = ("gelu", [], "none") if gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *act)
    x = F.linear(x, weight, bias)
    if shortcut is not None:
        return x.add_(shortcut)
    return F.gelu(x) if gelu else x


@notrace
class Linear(nn.Linear):
    """``nn.Linear`` that takes the faster of two kernels on the fast path."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if is_fast_path(input):
            return self.forward_fast(input)
        return F.linear(input, self.weight, self.bias)

    @torch.jit.unused
    def forward_fast(self, x: torch.Tensor) -> torch.Tensor:
        """The definition by ``fused_linear``."""
        return fused_linear(x, self.weight, self.bias)
