"""When a layer may compute its definition in another, exactly equal and faster way."""

import torch


def is_exporting() -> bool:
    """Whether ``torch.export`` is at work, when sizes may be symbols and no branch may depend on them."""
    if torch.jit.is_scripting():
        return False
    else:  # noqa: RET505 - TorchScript would compile what follows a bare return
        return torch.compiler.is_exporting()


def is_fast_path(x: torch.Tensor) -> bool:
    """Whether this is plain eager inference in float32 on CPU: no autograd, no autocast, no compiler, no export."""
    if torch.jit.is_scripting() or torch.jit.is_tracing():
        return False
    else:  # noqa: RET505 - as above
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )
