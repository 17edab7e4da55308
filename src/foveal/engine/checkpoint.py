"""A checkpoint is a folder that timm itself can load, written beside its name and renamed."""

import shutil
from pathlib import Path

from timm.models import save_for_hf

from .._errors import UserError


def create_run_folder(out: Path) -> None:
    """Make the folder of a run.

    Raises:
        UserError: it exists, or cannot be written.
    """
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"{out} exists; nothing was overwritten: give another --out or remove it") from None
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None


def save_model(model, config: dict, folder: Path) -> None:
    """Write safetensors and timm's config.json, so that ``timm.create_model("local-dir:FOLDER", pretrained=True)``
    gives the same model.

    Args:
        model: a timm model.
        config: ``label_names`` and ``pretrained_cfg`` to store with it.
        folder: replaced whole, or not at all.
    """
    fresh = folder.with_name(folder.name + ".writing")
    shutil.rmtree(fresh, ignore_errors=True)
    save_for_hf(model, str(fresh), model_config=config, safe_serialization=True)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
