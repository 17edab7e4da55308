"""Whether the model is being exported, when sizes may be symbols and no branch may depend on them."""

import torch


def is_exporting() -> bool:
    """True inside ``torch.export`` and the ONNX exporter built on it."""
    if torch.jit.is_scripting():
        return False
    else:  # noqa: RET505 - TorchScript compiles what follows an early return, but not this branch
        return torch.compiler.is_exporting()
