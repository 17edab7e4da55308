"""Make shipped weights of runs of a study: file and card in weights/, entry in the index, logits for the tests.

    python scripts/ship_weights.py cifar10 runs/study/cifar10/emsnet_xxtiny-0 ... [--data DIR]

Matrices and kernels are rounded to float16, which halves the file, and the rounded weights are measured on the
validation pictures of the run, by default where the run found them. The name is MODEL.STUDY. Of the data nothing is
kept but figures: the logits are of pictures that come with the package.
"""

import argparse
import hashlib
import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from foveal._errors import UserError
from foveal._weights import INDEX, Weights, file_name
from foveal.data import Batches, OnImage, load_split
from foveal.engine import Run
from foveal.metrics import ClassificationReport
from foveal.studies import STUDIES
from foveal.tasks import ClassificationArgs, Classifier, load_classifier

ROOT = Path(__file__).parents[1]
FOLDER, LOGITS = ROOT / "weights", ROOT / "tests" / "weights_logits.json"
KEPT = ("num_classes", "input_size", "interpolation", "crop_pct", "mean", "std", "pool_size")
CARD = """\
---
library_name: timm
pipeline_tag: image-classification
license: apache-2.0
tags: [image-classification, timm, foveal, {model}]
metrics: [accuracy]
---

# {name}

{model} for pictures of {height}x{width} px in {num_classes} classes: {classes}.

A small-scale model, and no ImageNet weights: {epochs} epochs on small pictures from random weights, one run of a
comparison. It is for tests and demonstrations, and says nothing about the thesis's accuracies.

## Figures

| figure | value |
| --- | --- |
| top-1, measured of this file in float32 on {pictures} validation pictures | {top1:.2f} % |
| top-1 of the run, before its matrices and kernels were rounded to float16 | {before:.2f} % |
| parameters | {parameters:.2f} M |
| multiply-adds of a picture | {macs:.4f} G |
| file | {bytes} bytes, SHA-256 `{sha256}` |

## Preprocessing

Pictures are resized to {height}x{width} px ({interpolation}, crop_pct {crop_pct}) and normalised with
mean {mean} and standard deviation {std}.

## Training

Study `{study}`, seed {seed}.

{about}

```sh
foveal study {study} --rows {model} --seeds {seeds} --root DIR --evidence fresh
```

Made with foveal {foveal}, torch {torch}, timm {timm} on {hardware} ({device}). Other versions and machines give
slightly other weights.

## Use

```python
import timm

import foveal

model = timm.create_model("{name}", pretrained=True).eval()
```

`foveal predict {name} PICTURE`, `foveal eval {name} --data DIR`, `foveal export {name}`.

## Licence

The weights have foveal's licence, Apache-2.0. The data have terms of their own, or state none;
no picture of them is in the repository.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", help="validation pictures, if they are not where the run found them")
    args = parser.parse_args()
    for run in args.runs:
        print(ship(args.study, run, args.data))


def ship(study: str, folder: Path, data: str | None) -> str:
    """Ship the weights of a run; return a line about them."""
    stored, config = (json.loads((folder / name).read_text()) for name in ("run.json", "best/config.json"))
    run = Run.from_dict(stored["run"])
    model, before = check(study, folder, run)
    name = f"{model}.{study}"
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "config.json").write_text(json.dumps(config))
        path = Path(place) / "model.safetensors"
        save_file(rounded(load_file(folder / "best" / "model.safetensors")), path)
        classifier, content = load_classifier(place), path.read_bytes()
    top1, pictures = measure(classifier, data or run.data)
    told = config["pretrained_cfg"]
    cfg = {field: told[field] for field in KEPT} | {"label_names": config["label_names"]}
    digest = hashlib.sha256(content).hexdigest()
    weights = Weights(digest, len(content), round(top1, 2), pictures, cfg)

    FOLDER.mkdir(exist_ok=True)
    (FOLDER / file_name(name)).write_bytes(content)
    cost, environment, (_, height, width) = stored["cost"], stored["environment"], told["input_size"]
    card = CARD.format(
        **told | weights._asdict() | environment,
        name=name,
        model=model,
        study=study,
        about=inspect.cleandoc(STUDIES[study]().about),
        classes=", ".join(config["label_names"]),
        before=before,
        parameters=cost["parameters"] / 1e6,
        macs=cost["macs"] / 1e9,
        height=height,
        width=width,
        seed=run.seed,
        seeds=run.seed + 1,
        epochs=run.epochs,
        device=run.device,
    )
    (FOLDER / f"{name}.md").write_text(card)
    put(INDEX, name, weights._asdict())
    put(LOGITS, name, logits(classifier).tolist())
    return f"{name}: {len(content)} bytes, top-1 {before:.2f} % before rounding, {top1:.2f} % as shipped"


def check(study: str, folder: Path, run: Run) -> tuple[str, float]:
    """Model and accuracy of a finished run of a study, whose model needs no arguments that a name cannot carry."""
    task, lines = run.task, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert isinstance(task, ClassificationArgs)
    planned = STUDIES[study]().runs.get(task.model)
    if planned is None or planned.task != task:
        raise UserError(f"{folder} is not the run of a model of {study} as the study trains it")
    if set(task.model_args) - {"drop_path_rate"}:
        raise UserError(f"{folder}: the arguments {task.model_args} of its model do not go into a name")
    if lines[-1]["epoch"] != run.epochs:
        raise UserError(f"{folder} is not finished")
    return task.model, max(line["top1"] for line in lines)


def rounded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices and kernels in float16; vectors, which are few, stay as they are: variances can be below its range."""
    halves = {name: w.half() if w.ndim > 1 else w for name, w in weights.items()}
    assert all(half.isfinite().all() for half in halves.values()), "a weight is too large for float16"
    return halves


def measure(classifier: Classifier, data: str) -> tuple[float, int]:
    """Accuracy in % on the validation pictures, and their number."""
    pictures, report = load_split(data), ClassificationReport(classifier.num_classes)
    place = torch.tensor(classifier.positions(pictures.classes))
    with Batches(pictures, OnImage(classifier.transform()), 100) as batches:
        for batch in batches.epoch():
            if batch["bad"]:
                raise UserError(batch["bad"][0])
            report.update(classifier.scores(batch["image"]), {"label": place[batch["label"]]})
    figures = report.compute()
    return figures["top1"], int(figures["pictures"])


def golden_pictures() -> list[Image.Image]:
    """Two garments and two scenes that come with the package."""
    sources: list[Any] = [load_split("fashion"), load_split("scenes:24", kind="detection")]
    return [source.picture(i) for source in sources for i in range(2)]


def logits(classifier: Classifier) -> torch.Tensor:
    """Of the golden pictures [4, classes]."""
    transform = classifier.transform()
    with torch.inference_mode():
        return classifier.logits(torch.stack([transform(picture) for picture in golden_pictures()]))


def put(path: Path, name: str, entry: Any) -> None:
    """Set an entry of a JSON file, a line each, in the order of their names."""
    entries = (json.loads(path.read_text()) if path.exists() else {}) | {name: entry}
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(entries.items()))
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
