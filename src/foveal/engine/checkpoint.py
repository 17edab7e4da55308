"""Checkpoints: folders that are there whole or not at all, and that their task can load."""

import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from .._errors import UserError, first_line
from .._models import DAMAGED
from ..tasks import Task


def create_run_folder(out: Path) -> None:
    """Make the folder of a run; an empty one will do.

    Raises:
        UserError: it exists, or cannot be written.
    """
    try:
        if not (out.is_dir() and not any(out.iterdir())):
            out.mkdir(parents=True)
    except FileExistsError:
        raise UserError(
            f"{out} exists; nothing was overwritten: give another --out, --resume to go on with it, or remove it"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A fresh folder to write into, which takes the place of ``folder`` when the block has ended without an error.

    Raises:
        UserError: it cannot be written; ``folder`` is as it was.
    """
    fresh, old = folder.with_name(folder.name + ".writing"), folder.with_name(folder.name + ".old")
    try:
        settle(folder)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        yield fresh
        for path in fresh.iterdir():
            _synchronise(path)
        _synchronise(fresh)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        _synchronise(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        settle(folder)
        shutil.rmtree(fresh, ignore_errors=True)
        kept = "the one before it is whole" if folder.exists() else "there is none yet"
        raise UserError(f"cannot write checkpoint {folder}, {kept}: {first_line(error)}") from None


def _synchronise(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle(folder: Path) -> None:
    """Finish what an end between the two renames of ``replacing`` left open."""
    old = folder.with_name(folder.name + ".old")
    if old.exists():
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(folder)


def write_model(task: Task, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write safetensors, and the config.json from which the task's model is made anew.

    Args:
        weights: the model's state.
        folder: exists; see ``replacing``.
    """
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    task.write_config(folder / "config.json")


def read_state(folder: Path) -> dict[str, Any]:
    """What a resumed run needs beside the weights, with ``weights_only=True``; raises UserError."""
    try:
        return torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no checkpoint in {folder}") from None
    except (EOFError, pickle.UnpicklingError, *DAMAGED) as error:
        raise UserError(f"cannot read checkpoint {folder}: {first_line(error)}") from None


def write_text(path: Path, text: str) -> None:
    """Replace a text file whole, or not at all; raises UserError."""
    fresh = path.with_name(path.name + ".writing")
    try:
        fresh.write_text(text)
        _synchronise(fresh)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from None
