"""``foveal train [RECIPE] [--FIELD VALUE ...] [--from run.json] [--resume] [--dry-run]``"""

import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from timm.utils import random_seed

from .._errors import UserError, does_not_run, unknown
from .._json import plain
from ..bench import Setting, count_macs, environment, peak_memory
from ..data import Batches, Data, Stream, decoder, load_data, read_text
from ..engine import (
    Interrupted,
    Processes,
    Run,
    RunLog,
    Training,
    create_run_folder,
    model_card,
    prepare,
    processes,
    restore,
    settle,
    steps_per_epoch,
    train,
    train_step,
    write_text,
)
from ..recipes import RECIPES
from . import FLAGS
from ._load import check_device

DRY_STEPS = 5  # measured, behind two that warm up
FEW = 5  # steps an epoch, below which little is learned
REGISTRY = tyro.constructors.ConstructorRegistry()


@REGISTRY.primitive_rule
def _json_object(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Arguments of a model are one JSON object, and not a flag for each key of the recipe's."""

    def parse(words: list[str]) -> dict[str, Any]:
        try:
            return dict(json.loads(words[0]))
        except (TypeError, ValueError):
            raise UserError(f"expected a JSON object such as '{{\"drop_rate\": 0.1}}', got {words[0]!r}") from None

    if info.type != dict[str, Any]:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    )


@dataclass(kw_only=True)
class Train:
    """Arguments of the command.

    Attributes:
        from_: a run.json to take in place of a recipe; further flags override it.
        resume: go on from last/ in the run's folder; start if there is none yet.
        dry_run: print the whole run, its cost, and memory and time from a few steps; write nothing.
    """

    run: Run
    from_: Annotated[Path | None, tyro.conf.arg(name="from", metavar="run.json")] = None
    resume: bool = False
    dry_run: bool = False


def parse(argv: list[str]) -> int:
    name = argv.pop(0) if argv and not argv[0].startswith("-") else None
    source = _value_of("--from", argv)
    if source is not None:
        if name is not None:
            raise UserError(f"--from takes the place of a recipe; drop {name!r}")
        recipe, described = Run.from_dict(_json(Path(source)).get("run")), None
        if "--resume" in argv and _value_of("--out", argv) is None and (Path(source).parent / "last").is_dir():
            recipe = replace(recipe, out=Path(source).parent)  # it may have been moved
    else:
        name = name or "quickstart"
        if name not in RECIPES:
            raise unknown("recipe", name, RECIPES)
        known = f"Recipes, each with its own --help: {', '.join(RECIPES)}"
        recipe, described = RECIPES[name](), f"{RECIPES[name].__doc__}\n\n{known}"
    args = tyro.cli(
        Train,
        default=Train(run=recipe, from_=Path(source) if source else None),
        args=argv,
        prog=f"foveal train {name or ''}".strip(),
        description=described,
        config=FLAGS,
        registry=REGISTRY,
    )
    named = source is None and _value_of("--model", argv) is not None and _value_of("--model-args", argv) is None
    run = replace(args.run, task=args.run.task.without(recipe.task, named))
    if args.resume and args.dry_run:
        raise UserError("a dry run writes nothing that it could resume")
    check_device(run.device)
    try:
        with processes(run.device) as procs:
            train_run(run, Console(quiet=not procs.first), procs, resume=args.resume, dry=args.dry_run)
    except Interrupted as stop:
        print(f"foveal: {stop}", file=sys.stderr)
        return stop.code
    return 0


def _value_of(flag: str, argv: list[str]) -> str | None:
    """The value of a flag that has to be known before the others can be read."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv) and not argv[i + 1].startswith("-"):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return None


def _json(path: Path) -> dict[str, Any]:
    """The content of a run.json; raises UserError."""
    try:
        return dict(json.loads(read_text(path)))
    except (RecursionError, TypeError, ValueError):
        raise UserError(f"{path} is no run.json of a run") from None


def train_run(
    run: Run, console: Console, procs: Processes | None = None, *, resume: bool = False, dry: bool = False
) -> dict[str, float]:
    """Build what a run names, train it, and say what to do next; a dry run only measures.

    Args:
        run: what to train, and where to write it.
        console: where to say how it goes.
        procs: the processes that train together; this one alone without.
        resume: go on from ``last/`` in the run's folder.
        dry: measure a few steps and write nothing.

    Returns:
        The metric's figures of the last epoch; nothing if the run had ended before.

    Raises:
        UserError: data, a model or a setting that does not go, a loss that is not finite, a folder that is taken.
        Interrupted: SIGTERM or Ctrl-C ended the run behind a step, and its checkpoint is written.
    """
    procs = procs or Processes()
    check_logger(run.logger)
    skip = run.on_bad_image == "skip"
    train_data, val_data = load_data(run.data, run.root, run.val_data, kind=run.task.data, skip=skip)
    training, cost = build(run, procs, train_data, val_data, resume)
    task: Any = training.task
    common: dict[str, Any] = dict(workers=run.workers, rank=procs.rank, world=procs.world, stack=task.stack)
    common["pin_memory"] = training.device.type == "cuda"
    with (
        Batches(train_data, task.transform(train=True), run.batch_size, seed=run.seed, **common) as train_loader,
        Batches(val_data, task.transform(train=False), run.batch_size, **common) as val_loader,
    ):
        steps = steps_per_epoch(run, train_loader)
        if dry:
            return dry_run(training, train_loader, steps, cost, console)
        fresh = procs.first and not run.out.exists()
        keep, stored = enter_folder(training, resume, cost, [len(train_data), len(val_data)])
        with RunLog(
            run.out if procs.first else None,
            run.epochs * steps,
            console,
            done=training.step,
            keep=keep,
            logger=run.logger,
            config=stored,
        ) as log:
            log.say(
                f"{run.task.model} ({cost['parameters'] / 1e6:.2f} M parameters) on {run.data}: {len(train_data)} "
                f"training and {len(val_data)} validation pictures, {len(train_data.classes)} classes"
            )
            left_out = [str(p) for data in (train_data, val_data) for p in getattr(data, "problems", ())]
            for message in dict.fromkeys(left_out):  # a part that was held out has those of the whole
                log.say(f"left out: {message}")
            if steps < FEW:
                log.say(f"an epoch has {steps} step(s); a smaller --batch-size makes more of them")
            if (warmup := run.optim.warmup_steps) >= run.epochs * steps:
                log.say(
                    f"the warm-up of {warmup} steps is longer than the run of {run.epochs * steps}, which stays below "
                    f"its learning rate of {run.optim.lr:g}; --warmup-steps makes it shorter"
                )
            if training.step:
                log.say(f"going on behind step {training.step} of {run.epochs * steps}")
            try:
                figures = train(training, train_loader, val_loader, log, _describer(stored, training))
            except UserError:
                if fresh and training.step == 0:  # the folder holds nothing, and would stand in the way of the next try
                    shutil.rmtree(run.out)
                raise
        skipped = sorted(set().union(*procs.gather(log.skipped)))
    for message in [message for message in skipped if message not in log.skipped]:
        log.say(f"skipped by another process: {message}")
    if skipped:
        log.say(f"{len(skipped)} pictures could not be read and were left out")
    if figures:
        reached = f"{task.best} {figures[task.best]:.2f} after epoch {figures['epoch']}"
        log.say(f"{reached}; best weights ({training.best:.2f}) in {run.out}/best")
        log.say(f"waited for pictures {figures['data_wait']:.1f} % of the last epoch's time")
    else:
        log.say(f"{run.out} was finished before; best weights in {run.out}/best")
    log.say(f"next: foveal predict {run.out} PICTURE...")
    log.say(f"  or: {task.card().short.format(folder=str(run.out))}")
    return figures


def build(
    run: Run, procs: Processes, train_data: Data, val_data: Data, resume: bool
) -> tuple[Training, dict[str, float]]:
    """The task, ready to be trained, and its cost; raises UserError before there is a folder of the run."""
    found: dict[str, Any] = {"classes": train_data.classes, "training pictures": len(train_data)}
    if isinstance(train_data, Stream):
        found["readers of shards (processes times workers)"] = procs.world * max(1, run.workers)
    args = run.task
    if resume and (run.out / "last").is_dir():
        args = replace(args, pretrained=False, weights=None)  # what they gave is in the checkpoint
    random_seed(run.seed)
    try:
        task = args.build(train_data)
        task.check(train_data, train=True)
        task.check(val_data, train=False)
        example = task.example()
        given = task.eval().predict(example)
        if isinstance(given, torch.Tensor) and given.ndim != 2:
            raise UserError(f"{run.task.model} gives {[*given.shape]} for a picture; expected a score for each class")
        size: Any = tuple(example["image"].shape[2:])
        cost: dict[str, float] = dict(parameters=sum(p.numel() for p in task.parameters()))
        cost["macs"] = count_macs(task.model, size).products
        return prepare(run, task, procs, found), cost
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise does_not_run(run.task.model, error) from error


def enter_folder(
    training: Training, resume: bool, cost: dict[str, float], pictures: list[int]
) -> tuple[int, dict[str, Any]]:
    """Make the run's folder, or go on from what is in it.

    Args:
        pictures: how many train and how many validate.

    Returns:
        Bytes of ``metrics.jsonl`` to keep, and the content of ``run.json``: run, environment, cost of the model, and
        the command that started it.
    """
    run, procs, keep, error = training.run, training.procs, 0, None
    if procs.first:
        try:
            settle(run.out / "last")
            if not (resume and (run.out / "run.json").is_file()):
                create_run_folder(run.out)
            elif not (run.out / "last").exists() and (run.out / "best").exists():
                raise UserError(
                    f"{run.out} has no last/ to go on from, and best/ would be lost; train into another --out"
                )
        except UserError as met:
            error = met
    procs.agree(error)
    command = shlex.join(["foveal", *sys.argv[1:]])
    if procs.world > 1:
        command = shlex.join(["torchrun", "--nproc-per-node", str(procs.world), "-m", "foveal", *sys.argv[1:]])
    if resume and (run.out / "last").exists():
        keep = restore(training)
        command = _json(run.out / "run.json").get("command", command)
    made = environment(Setting(device=run.device)) | dict(decoder=decoder(), processes=procs.world)
    stored = dict(run=run.to_dict(), pictures=pictures, environment=made, cost=cost, command=command)
    if procs.first:
        write_text(run.out / "run.json", json.dumps(stored, indent=2))
    return keep, stored


def check_logger(name: str | None) -> None:
    """Raise UserError for a logger that is not installed."""
    if name is not None and find_spec(name) is None:
        raise UserError(f"{name} is not installed: pip install {name}")


def _describer(stored: dict, training: Training) -> Callable[[dict], dict[str, str]]:
    """From an epoch's figures to run.json and the model card in ``best/``."""

    def describe(figures: dict[str, float]) -> dict[str, str]:
        stored_now = stored | dict(figures=plain(figures))
        made: dict[str, Any] = dict(run=stored_now, figures=figures, cost=stored["cost"], command=stored["command"])
        card = model_card(card=training.task.card(), config=training.task.config(), **made)
        return {"run.json": json.dumps(stored_now, indent=2), "README.md": card}

    return describe


def dry_run(
    training: Training, loader: Batches, steps: int, cost: dict[str, float], console: Console
) -> dict[str, float]:
    """Print the run, its model's cost, and memory and time as a few steps measure them."""
    run = training.run
    with RunLog(None, steps, console) as log:
        batches = loader.epoch()
        times, waits = [], []
        for i in range(2 + DRY_STEPS):
            if i % steps == 0 and i:
                batches = loader.epoch()
            started = time.perf_counter()
            waits.append(train_step(training, batches, steps, log)["waited"])
            times.append(time.perf_counter() - started)
        peak = peak_memory(lambda: train_step(training, loader.epoch(), steps, log), training.device)
    world = training.procs.world
    pictures = run.batch_size * run.accumulate * world
    seconds, waited = sum(times[2:]) / DRY_STEPS, sum(waits[2:]) / DRY_STEPS
    console.print_json(json.dumps(run.to_dict()))
    for line in (
        f"model: {cost['parameters'] / 1e6:.2f} M parameters, {cost['macs'] / 1e9:.3f} GMACs a picture",
        f"epoch: {steps} steps of {pictures} pictures, {world} process(es) x batch {run.batch_size} x {run.accumulate}",
        f"measured: {seconds * 1e3:.0f} ms a step, {pictures / seconds:.0f} images/s; "
        f"{100 * waited / seconds:.0f} % of the time waiting for pictures",
        f"memory: about {(_held(training) + peak) / 2**20:.0f} MiB of tensors at most in this process",
        f"time: about {_duration(seconds * steps * run.epochs)} for {run.epochs} epochs, evaluation not counted",
        "nothing was written",
    ):
        console.print(line, highlight=False, soft_wrap=True)
    return {"seconds_per_step": seconds}


def _held(training: Training) -> int:
    """Bytes of weights, gradients, the optimiser's averages and averaged weights."""
    tensors = list(training.task.state_dict().values()) * (1 if training.averaged is None else 2)
    tensors += [p.grad for p in training.task.parameters() if p.grad is not None]
    for values in training.optimizer.state.values():
        tensors += [value for value in values.values() if torch.is_tensor(value)]
    return sum(tensor.nbytes for tensor in tensors)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
