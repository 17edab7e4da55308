"""Weights from a file, without running what may be in it."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import clean_state_dict

from .._errors import UserError, first_line, some
from .._models import weights_folder

# what building a model from a damaged or tampered folder may raise
DAMAGED = (AssertionError, AttributeError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)


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
    except (AttributeError, EOFError, LookupError, OSError, RuntimeError, SafetensorError, TypeError) as error:
        raise UserError(f"cannot read weights from {path}: {first_line(error)}") from None


def load_state(model: Any, state: dict[str, Any], path: Path) -> None:
    """Load all of a state; raises UserError with what is missing, unexpected or of another shape."""
    own = model.state_dict()
    missing, odd = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    other = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    if missing or odd or other:
        named = {"missing": missing, "unexpected": odd, "of another shape": other}
        listed = "; ".join(f"{len(keys)} {what}: {some(keys, 4)}" for what, keys in named.items() if keys)
        raise UserError(f"{path} holds another architecture; {listed}")
    model.load_state_dict(state)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder of weights; raises UserError."""
    try:
        return dict(json.loads((folder / "config.json").read_text()))
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"cannot load {folder}: config.json: {first_line(error)}") from None


def kind_of(name: str) -> str:
    """The task of what ``eval`` and ``predict`` are given: of a folder what its config.json says."""
    path = Path(name)
    return read_config(weights_folder(path)).get("task", "classification") if path.is_dir() else "classification"
