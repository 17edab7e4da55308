"""``foveal train [RECIPE] [--FIELD VALUE ...]``"""

from dataclasses import replace

import torch
import tyro
from rich.console import Console
from timm.utils import random_seed

from .._errors import does_not_run, unknown
from ..data import load_data, make_loader
from ..engine import Run, RunLog, create_run_folder, train
from ..recipes import RECIPES
from ..tasks import Classification
from . import check_device


def main(argv: list[str]) -> int:
    name = argv.pop(0) if argv and not argv[0].startswith("-") else "quickstart"
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    recipe = RECIPES[name]()
    run = tyro.cli(Run, default=recipe, args=argv, prog=f"foveal train {name}", description=RECIPES[name].__doc__)
    if run.model != recipe.model and run.model_args == recipe.model_args:
        run = replace(run, model_args={})  # the recipe's arguments belong to the recipe's model
    train_run(run, Console())
    return 0


def train_run(run: Run, console: Console) -> dict[str, float]:
    """Build what a run names, train it, and say what to do next."""
    train_pictures, val_pictures = load_data(run.data, run.root)
    random_seed(run.seed)
    check_device(run.device)
    try:
        task = Classification(
            run.model, train_pictures.classes, run.image_size, model_args=run.model_args, smoothing=run.smoothing
        )
        task.eval().predict(torch.zeros(1, 3, run.image_size, run.image_size))  # fails before there is a run folder
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise does_not_run(run.model, error) from error
    train_loader = make_loader(
        train_pictures, task.transform(train=True), run.batch_size, workers=run.workers, shuffle_seed=run.seed
    )
    val_loader = make_loader(val_pictures, task.transform(train=False), run.batch_size, workers=run.workers)
    create_run_folder(run.out)
    (run.out / "run.json").write_text(run.to_json())
    millions = sum(p.numel() for p in task.parameters()) / 1e6
    with RunLog(run.out, run.epochs * len(train_loader), console) as log:
        log.say(
            f"{run.model} ({millions:.2f} M parameters) on {run.data}: {len(train_pictures)} training and "
            f"{len(val_pictures)} validation pictures, {len(train_pictures.classes)} classes"
        )
        figures = train(run, task, train_loader, val_loader, log)
    if log.skipped:
        log.say(f"{len(log.skipped)} pictures could not be read and were left out")
    log.say(f"top-1 {figures['top1']:.2f} % after epoch {figures['epoch']}; best weights in {run.out}/best")
    log.say(f"next: foveal predict {run.out} PICTURE...")
    log.say(f'  or: import foveal, timm; timm.create_model("local-dir:{run.out}/best", pretrained=True)')
    return figures
