"""A timm model from its name or from a folder of weights, for every room that starts from one."""

import json
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError

from ._errors import UserError, check_model, does_not_run, first_line, one_line

LOCAL = "local-dir:"  # timm's prefix of a folder of weights
SOURCES = ("hf-hub:", LOCAL)  # prefixes of weights that are no name of a model

# what reading weights and their config.json may raise, if they are of another kind, cut short or tampered with
DAMAGED = (AssertionError, AttributeError, LookupError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)


def create_model(name: str, pretrained: bool = False, **args: Any) -> Any:
    """A timm model, from its name or from a folder of weights with timm's config.json.

    Args:
        name: of any timm model, ``hf-hub:REPO``, ``local-dir:FOLDER``, or the folder of a run or of weights.
        pretrained: start from timm's weights of that name; a folder always brings its own.
        args: further arguments of ``timm.create_model``.

    Raises:
        UserError: an unknown name, a folder without a model, damaged weights, arguments that the model does not take.
    """
    if Path(name).is_dir():
        folder = weights_folder(Path(name))
        if (task := kind_of(name)) != "classification":
            raise UserError(
                f"{name} holds no classifier, but a model for {task}; to go on from one of the same kind give its "
                f"backbone's name and --weights {folder / 'model.safetensors'}"
            )
        try:
            return timm.create_model(f"{LOCAL}{folder}", pretrained=True, **args)
        except DAMAGED as error:
            what = f"cannot load {folder}, written by another version or damaged"
            raise UserError(f"{what}: {one_line(error)}") from None
    if name.startswith(SOURCES):
        pretrained = True
    else:
        check_model(name)
    if pretrained and ":" not in name and not timm.is_model_pretrained(name):
        raise UserError(f"timm has no weights for {name}")
    try:
        return timm.create_model(name, pretrained=pretrained, **args)
    except OSError as error:
        raise UserError(f"cannot fetch the weights of {name}: {one_line(error)}") from None
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise does_not_run(name, error) from None


def size_args(name: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """What ``timm.create_model`` needs to know of the size of images, where a model is built for one."""
    config = timm.get_pretrained_cfg(name) if size is not None and timm.is_model(name) else None
    return {"img_size": size} if config is not None and config.fixed_input_size else {}


def weights_folder(folder: Path) -> Path:
    """The folder of weights and timm's config.json: a run's best/, or the folder itself; raises UserError."""
    weights = folder / "best" if (folder / "best").is_dir() else folder
    if not (weights / "config.json").is_file() or not (weights / "model.safetensors").is_file():
        raise UserError(f"{folder} is no run: expected best/config.json and best/model.safetensors in it")
    return weights


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder of weights; raises UserError."""
    try:
        return dict(json.loads((folder / "config.json").read_text()))
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"cannot load {folder}: config.json: {first_line(error)}") from None


def kind_of(name: str) -> str:
    """The task of a model that is no exported file: of a folder what its config.json says; raises UserError."""
    path = Path(name)
    return read_config(weights_folder(path)).get("task", "classification") if path.is_dir() else "classification"
