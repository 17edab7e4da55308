"""Weights from a file, without running what may be in it."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict

from .._errors import UserError, first_line, some
from .._models import DAMAGED


def read_weights(path: Path) -> dict[str, Any]:
    """The tensors of a file: safetensors, or a checkpoint that holds nothing but tensors.

    Raises:
        UserError: no such file, code in it, no weights.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return clean_state_dict(state.get("state_dict", state.get("model", state)))
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except pickle.UnpicklingError:
        raise UserError(f"refused {path}: it holds more than tensors, and could run code; use safetensors") from None
    except (EOFError, *DAMAGED) as error:
        raise UserError(f"cannot read weights from {path}: {first_line(error)}") from None


def load_weights(model: Any, path: Path, other: Callable[[], Any]) -> None:
    """Load a file of a model's weights; what depends on the classes is left as it is where their number differs.

    Args:
        path: safetensors, or a checkpoint that holds nothing but tensors.
        other: makes the same model for another number of classes, which shows what depends on it.

    Raises:
        UserError: no such file, code in it; else what is missing, unexpected or of another shape.
    """
    state, own = read_weights(path), model.state_dict()
    different = [key for key in state.keys() & own.keys() if state[key].shape != own[key].shape]
    theirs = other().state_dict() if different else {}
    state |= {key: own[key] for key in different if theirs[key].shape != own[key].shape}
    missing, odd = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    reshaped = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    if missing or odd or reshaped:
        named = {"missing": missing, "unexpected": odd, "of another shape": reshaped}
        listed = "; ".join(f"{len(keys)} {what}: {some(keys, 4)}" for what, keys in named.items() if keys)
        raise UserError(f"{path} holds another architecture; {listed}")
    model.load_state_dict(state)
