"""When a layer may compute its definition in another, equal up to rounding and faster way."""

from functools import cache
from typing import Optional, TypeVar

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import nn

from .._machine import processor

M = TypeVar("M", bound=type[nn.Module])

ONEDNN_MACS = 2**22  # multiply-adds of a product from which oneDNN's kernels outweigh their cost per call
ONEDNN_TOKENS = 256  # of a linear layer from which they do in training, where weights change with every call
GROUPS = 16  # images of a batch from which PyTorch leaves 1x1 convolutions to oneDNN


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


def is_plain(x: torch.Tensor) -> bool:
    """Whether this is plain eager float32 on CPU: no autocast, no compiler, no export."""
    if torch.jit.is_scripting() or torch.jit.is_tracing():
        return False
    else:  # noqa: RET505 - as above
        return bool(
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )


def is_fast_path(x: torch.Tensor) -> bool:
    """Whether this is plain inference: ``is_plain``, and no autograd."""
    return not torch.is_grad_enabled() and is_plain(x)


def has_hooks(module: nn.Module) -> bool:
    """Whether something wants to be called with a module: a look at its outputs, pruning, parametrised weights."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def are_bare(*modules: nn.Module) -> bool:
    """Whether layers are as they were built: a fast path, which reads their weights, would pass by all else.

    Adapters, quantised layers and norms of frozen statistics stand in their place; pruning comes as a hook.
    """
    return all(type(module) in BARE and not has_hooks(module) for module in modules)


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


@cache
def mkl_lags() -> bool:
    """Whether the processor has AVX-512 and is not Intel's: there MKL's products have half of the rate of oneDNN's."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and "intel" not in processor().lower()


def conv_linear(x: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor]) -> torch.Tensor:
    """``F.linear`` as a 1x1 convolution of tokens in ``GROUPS`` columns: oneDNN's kernels, forwards and backwards."""
    columns = x.view(GROUPS, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    y = F.conv2d(columns, weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).view(*x.shape[:-1], -1)


@notrace
class Linear(nn.Linear):
    """``nn.Linear`` that takes the faster of two kernels on the fast path, and in training on CPU."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if is_fast_path(input):
            return self.forward_fast(input)
        if torch.is_grad_enabled() and is_plain(input):
            return self.forward_train(input)
        return F.linear(input, self.weight, self.bias)

    @torch.jit.unused
    def forward_train(self, x: torch.Tensor) -> torch.Tensor:
        """The definition by ``conv_linear`` where that is the faster one."""
        tokens, macs = x.shape[:-1].numel(), x.numel() * self.out_features
        large = macs >= ONEDNN_MACS and tokens >= ONEDNN_TOKENS
        if large and tokens % GROUPS == 0 and x.is_contiguous() and has_onednn() and mkl_lags():
            return conv_linear(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)

    @torch.jit.unused
    def forward_fast(self, x: torch.Tensor) -> torch.Tensor:
        """The definition by ``fused_linear``."""
        return fused_linear(x, self.weight, self.bias)


BARE: set[type[nn.Module]] = {Linear, nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.GELU, nn.Identity}
