"""``foveal predict MODEL PICTURE... [--json]``"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
import tyro
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError
from timm.data import create_transform, resolve_model_data_config

from .._errors import UserError, first_line
from ..data import BadImage, open_image


def main(argv: list[str]) -> int:
    return tyro.cli(predict, args=argv, prog="foveal predict")


def predict(
    run: Annotated[Path, tyro.conf.Positional],
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    top: int = 3,
    json: bool = False,
    on_bad_image: Literal["stop", "skip"] = "stop",
) -> int:
    """Label pictures.

    Args:
        run: folder of a run, or of weights with timm's config.json.
        pictures: files.
        top: how many classes to name.
        json: a JSON object per picture instead of a table.
        on_bad_image: stop at a picture that cannot be read, or skip it and list it.
    """
    return _predict(run, pictures, top, json, on_bad_image)


def load_run(folder: Path) -> Any:
    """The model of a run's folder, in evaluation mode; raises UserError."""
    weights = folder / "best" if (folder / "best").is_dir() else folder
    if not (weights / "config.json").is_file() or not (weights / "model.safetensors").is_file():
        raise UserError(f"{folder} is no run: expected best/config.json and best/model.safetensors in it")
    try:
        return timm.create_model(f"local-dir:{weights}", pretrained=True).eval()
    except (KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"cannot load {weights}, written by another version or damaged: {first_line(error)}") from None


def _predict(run: Path, pictures: tuple[Path, ...], top: int, as_json: bool, on_bad_image: str) -> int:
    if not pictures:
        raise UserError("no picture given")
    if top < 1:
        raise UserError(f"top must be at least 1, got {top}")
    model = load_run(run)
    transform: Any = create_transform(**resolve_model_data_config(model))
    names = model.pretrained_cfg.get("label_names") or [str(i) for i in range(model.num_classes)]
    table = Table("picture", *(f"{i + 1}." for i in range(min(top, len(names)))))
    for path in pictures:
        try:
            image = transform(open_image(path))
        except BadImage as error:
            if on_bad_image == "stop":
                raise
            print(f"skipped: {error}", file=sys.stderr)
            continue
        with torch.inference_mode():
            scores, classes = model(image[None]).softmax(dim=-1)[0].topk(min(top, len(names)))
        labels = [(names[i], score) for i, score in zip(classes.tolist(), scores.tolist())]
        if as_json:
            print(json.dumps({"picture": str(path), "labels": [{"class": n, "score": s} for n, s in labels]}))
        else:
            table.add_row(str(path), *(f"{name} {100 * score:.1f} %" for name, score in labels))
    if not as_json:
        Console().print(table)
    return 0
