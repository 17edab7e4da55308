"""``foveal models [--weights] [--json]``"""

import json
from typing import Annotated, Any

import timm
import torch
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .. import _weights
from .._errors import UserError
from .._weights import WEIGHTS
from ..bench import count_macs
from ..fidelity import TOP1

SIZE = 224, 224


def main(*, weights: bool = False, as_json: Annotated[bool, tyro.conf.arg(name="json")] = False) -> int:
    """List foveal's models, or the weights that come with it: MODEL.TAG, wherever a command or timm takes a name.

    Args:
        weights: list the weights, what they were measured to reach, and whether their files are here.
        as_json: print a JSON list of objects.
    """
    rows = _shipped() if weights else _models()
    if as_json:
        print(json.dumps(rows, indent=1))
    elif weights:
        _show_weights(rows)
    else:
        _show_models(rows)
    return 0


def _models() -> list[dict[str, Any]]:
    """A row for each model; it stands on the meta device, where nothing is computed."""
    rows = []
    for name in timm.list_models(exclude_filters="test_*"):
        if not timm.model_entrypoint(name).__module__.startswith("foveal."):
            continue
        with torch.device("meta"):
            model = timm.create_model(name)
        parameters, macs = sum(p.numel() for p in model.parameters()), count_macs(model, SIZE).products
        tags = [known.partition(".")[2] for known in WEIGHTS if known.partition(".")[0] == name]
        rows.append(dict(model=name, parameters=parameters, macs=macs, reported_top1=TOP1.get(name), weights=tags))
    return rows


def _shipped() -> list[dict[str, Any]]:
    """A row for each of the weights; ``fault`` says what is wrong with the file."""
    rows = []
    for name, weights in WEIGHTS.items():
        row = dict(weights=name, top1=weights.top1, pictures=weights.pictures, classes=weights.cfg["label_names"])
        row |= dict(input_size=weights.cfg["input_size"], bytes=weights.bytes, sha256=weights.sha256)
        try:
            rows.append(row | dict(file=str(_weights.find(name)), fault=None))
        except UserError as error:
            rows.append(row | dict(file=None, fault=str(error)))
    return rows


def _table(first: str, *titles: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right")
    return table


def _show_models(rows: list[dict[str, Any]]) -> None:
    table = _table("model", "M parameters", "GMACs", "top-1 %")
    table.add_column("weights")
    for row in rows:
        top1 = "-" if row["reported_top1"] is None else f"{row['reported_top1']:.1f}"
        cells = f"{row['parameters'] / 1e6:.3f}", f"{row['macs'] / 1e9:.3f}", top1, ", ".join(row["weights"])
        table.add_row(row["model"], *cells)
    Console(highlight=False).print(table)
    print("GMACs at 224x224 px, as foveal bench counts; top-1 on ImageNet-1K as the thesis reports it, not ours.")
    print("next: foveal models --weights; foveal train --model NAME --data DIR")


def _show_weights(rows: list[dict[str, Any]]) -> None:
    table = _table("weights", "top-1 %", "pictures", "classes", "px", "MB")
    table.add_column("file", no_wrap=True)
    for row in rows:
        height, width = row["input_size"][1:]
        cells = f"{row['top1']:.2f}", str(row["pictures"]), str(len(row["classes"])), f"{height}x{width}"
        table.add_row(row["weights"], *cells, f"{row['bytes'] / 1e6:.1f}", "there" if row["file"] else "not there")
    Console(highlight=False).print(table)
    print("top-1 as measured of these files on validation pictures; weights/ has a card of each.")
    faults = [row["fault"] for row in rows if row["fault"]]
    names = [row["weights"] for row in rows if not row["fault"]]
    for fault in faults:
        print(fault)
    if names:
        print(f"next: foveal predict {names[0]} PICTURE")
