"""The model card: README.md of a folder of weights, as the Hugging Face Hub reads it."""

import json
from pathlib import Path, PurePath
from typing import Any

from .._errors import some
from ..tasks import Card
from .run import flat

UNITS = {"top1": "%", "top5": "%", "images_per_second": "images/s", "data_wait": "% of the time"}


def model_card(
    *,
    card: Card,
    run: dict[str, Any],
    config: dict[str, Any],
    figures: dict[str, float],
    cost: dict[str, float],
    command: str,
) -> str:
    """The text of a README.md: what the weights are, how they came about, and how to use them.

    Args:
        card: what the task says of the model.
        run: content of ``run.json``: ``run`` (fields of the run) and ``environment``.
        config: what timm's ``config.json`` says beside the weights: ``label_names`` and ``pretrained_cfg``.
        figures: of the epoch that the weights are from.
        cost: ``parameters``, and ``macs`` of one image.
        command: that trained them.
    """
    fields, environment, seen = run["run"], run["environment"], config["pretrained_cfg"]
    task, classes = fields["task"], config["label_names"]
    height, width = seen["input_size"][1:]
    model = PurePath(task["model"]).name  # it may be a folder
    tags = [card.pipeline, "timm", "foveal", model]
    start = "the weights were trained from scratch"
    if task.get("pretrained") or task.get("weights") or model != task["model"] or Path(task["model"]).is_dir():
        source = task.get("weights") or f"the weights of {model}"
        start = f"training started from {source}, whose licence counts too"
    lines = [
        "---",
        f'library_name: "{card.library}"',
        f'pipeline_tag: "{card.pipeline}"',
        'license: "other"',
        f"tags: {json.dumps(tags)}",
        f"metrics: {json.dumps(card.metrics)}",
        "---",
        "",
        f"# {model} on {fields['data']}",
        "",
        f"{card.what} with {len(classes)} classes, trained with foveal {environment['foveal']} by the recipe "
        f"`{fields['recipe']}`.",
        "",
        f"Classes: {some(classes, 20)}.",
        "",
        "## Figures",
        "",
        "Of the epoch that these weights are from. Loss and speed are those of training, the rest was measured on the "
        "validation pictures:",
        "",
        *_table("figure", ((name, _with_unit(name, value)) for name, value in figures.items())),
        "",
        "## Cost",
        "",
        f"{cost['parameters'] / 1e6:.2f} M parameters; {cost['macs'] / 1e9:.3f} G multiply-adds for a picture of "
        f"{height}x{width} px.",
        "",
        "## Preprocessing",
        "",
        *_table("setting", ((name, value) for name, value in seen.items() if value is not None)),
        "",
        "## Training",
        "",
        "```sh",
        command,
        "```",
        "",
        *_table("field", flat(fields)),
        "",
        f"Made with {', '.join(f'{name} {value}' for name, value in environment.items())}.",
        "",
        "## Use",
        "",
        "```python",
        card.python,
        "```",
        "",
        "On the command line: `foveal predict FOLDER picture.jpg`, `foveal eval FOLDER --data DATA`.",
        "",
        "## Licence",
        "",
        f"`license: other` above stands for a choice that is still to be made: {start}, and the licence of the data "
        f"({fields['data']}) may set limits. foveal itself has the licence Apache-2.0.",
        "",
    ]
    return "\n".join(lines)


def _with_unit(name: str, value: float) -> str:
    shown = str(value) if isinstance(value, int) else f"{value:.4g}"
    return f"{shown} {UNITS[name]}" if name in UNITS else shown


def _table(first: str, rows: Any) -> list[str]:
    cells = ((str(name), str(value).replace("|", "\\|").replace("\n", " ")) for name, value in rows)
    return [f"| {first} | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in cells)]
