"""``foveal bench MODEL... [--train [--data DATA]] [--csv | --json]``"""

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .._errors import UserError, unknown
from ..bench import RUNTIMES, Result, Setting, environment, num_threads, throughput
from ..bench import bench as measure
from ..data import Batches, load_data
from ..recipes import RECIPES
from ..tasks import Augment, ClassificationArgs
from . import check_needs
from ._load import check_device

WIDTH = 120  # of the table where there is no terminal


@dataclass(frozen=True, kw_only=True)
class Loader:
    """How fast pictures come.

    Attributes:
        data: a data set's name or a folder of pictures.
        recipe: whose augmentation they get.
        workers: processes that read them.
        images_per_second: of batches that nothing else is done with.
    """

    data: str
    recipe: str | None
    workers: int
    images_per_second: float


def main(
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")],
    /,
    *,
    train: bool = False,
    size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="H [W]")] = (224,),
    batch: int | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    threads: int = 1,
    device: str = "cpu",
    runtime: str = "eager",
    reparam: bool = False,
    fixed: bool = False,
    channels_last: bool = False,
    grad_checkpointing: bool = False,
    data: str | None = None,
    root: Path | None = None,
    recipe: str | None = None,
    workers: int = 0,
    rounds: int = 20,
    jobs: int = 1,
    as_csv: Annotated[bool, tyro.conf.arg(name="csv")] = False,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Parameters, multiply-adds, speed and memory of timm models, interleaved in one run.

    Only the ratios to the first model mean something on another machine.

    Args:
        models: names; peers beside ours.
        train: measure training steps (forward pass, cross-entropy, backward pass, AdamW) instead of forward passes.
        size: height and width of the images in pixels; one number for a square.
        batch: images a call; 1, or 32 with --train.
        dtype: of weights and images; with --train of autocast, while the weights stay float32.
        threads: CPU threads.
        device: as torch names it.
        runtime: where the models run, with commas between: eager, compile (torch.compile), onnxruntime, openvino; the
            last two run what foveal export writes, not compared here.
        reparam: fuse layers for inference first, as timm's reparameterize_model does; exported models are in any case.
        fixed: export for one image of that size; otherwise batch, height and width are free.
        channels_last: give weights and images that memory format.
        grad_checkpointing: with --train, compute activations again in the backward pass.
        data: with --train, measure beside the models how fast pictures come: a data set's name or a folder.
        root: where a named data set lies.
        recipe: whose augmentation the pictures get; crops and mirroring otherwise.
        workers: processes that read pictures.
        rounds: timed calls of each model, and timed batches of the data.
        jobs: models that are made ready at once, each in a process of its own, as is worth while where they are
            compiled; they are timed in turn all the same.
        as_csv: print CSV, environment and setting in every row.
        as_json: print a JSON object of environment, setting and results.
    """
    if not models:
        raise UserError("no model given; timm.list_models() names those that can stand here")
    if len(size) not in (1, 2):
        raise UserError(f"size takes one or two numbers, got {len(size)}")
    if batch is None:
        batch = 32 if train else 1
    if fixed and batch != 1:
        raise UserError(f"--fixed is for one image at a time, and the batch is {batch}")
    given = [
        ("size", min(size), 1),
        ("batch", batch, 1),
        ("threads", threads, 1),
        ("rounds", rounds, 2),
        ("jobs", jobs, 1),
    ]
    for name, value, least in given:
        if value < least:
            raise UserError(f"{name} must be at least {least}")
    if workers < 0:
        raise UserError(f"workers must not be below 0, got {workers}")
    if as_csv and as_json:
        raise UserError("--csv and --json exclude each other")
    if reparam and train:
        raise UserError("--reparam and --train exclude each other: what is fused is not trained")
    check_needs(
        ("--grad-checkpointing", grad_checkpointing, "--train", train),
        ("--data", data is not None, "--train", train),
        ("--root", root is not None, "--data", data is not None),
        ("--recipe", recipe is not None, "--data", data is not None),
        ("--workers", workers > 0, "--data", data is not None),
    )
    setting = Setting(
        mode="train" if train else "inference",
        size=(size[0], size[-1]),
        batch=batch,
        dtype=dtype,
        threads=threads,
        device=check_device(device),
        runtimes=_runtimes(runtime, fixed, train or dtype != "float32" or device != "cpu"),
        reparam=reparam,
        fixed=fixed,
        channels_last=channels_last,
        grad_checkpointing=grad_checkpointing,
        rounds=rounds,
        jobs=jobs,
    )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        loader = None
        if data is not None:
            task = progress.add_task("reading pictures", total=rounds)
            batches = _batches(models[0], data, root, recipe, workers, setting)
            speed = _speed(batches, workers, setting, _shown(progress, task, "reading pictures"))
            loader = Loader(data=data, recipe=recipe, workers=workers, images_per_second=speed)
        task = progress.add_task("building", total=rounds)
        results = measure(models, setting, _shown(progress, task, "measuring"))
    where = environment(setting)
    if as_json:
        answer = {"environment": where, "setting": asdict(setting), "results": [asdict(r) for r in results]}
        print(json.dumps(answer | ({"loader": asdict(loader)} if loader else {})))
    elif as_csv:
        _write_csv(results, loader, asdict(setting) | {"size": "x".join(map(str, setting.size))} | where)
    else:
        _show(results, loader, setting, where)
        print(f"next: foveal analyze report {' '.join(dict.fromkeys(models))}")
    return 0


def _runtimes(named: str, fixed: bool, other: bool) -> tuple[str, ...]:
    """The runtimes of a list; ``other`` is more than float32 inference on the CPU."""
    runtimes = tuple(dict.fromkeys(named.split(",")))
    for name in runtimes:
        if name not in RUNTIMES:
            raise unknown("runtime", name, RUNTIMES)
    foreign = [name for name in runtimes if RUNTIMES[name]]
    if foreign and other:
        raise UserError(f"{foreign[0]} is measured in float32 inference on the CPU")
    check_needs(("--fixed", fixed, "a runtime of exported models", bool(foreign)))
    return runtimes


def _shown(progress: Progress, task: Any, description: str) -> Callable[[int], None]:
    return lambda done: progress.update(task, completed=done, description=description)


def _batches(model: str, data: str, root: Path | None, recipe: str | None, workers: int, setting: Setting) -> Batches:
    """Batches as training has them, with the model's mean and deviation."""
    if setting.size[0] != setting.size[1]:
        raise UserError("--data takes square pictures: one number for --size")
    augment = Augment()
    if recipe is not None:
        if recipe not in RECIPES:
            raise unknown("recipe", recipe, RECIPES)
        task = RECIPES[recipe]().task
        if not isinstance(task, ClassificationArgs):
            raise UserError(f"--data measures the pictures of classifiers, and {recipe} is a recipe of another task")
        augment = task.augment
    pictures, _ = load_data(data, root)
    args = ClassificationArgs(model=model, image_size=setting.size[0], augment=augment)
    return Batches(pictures, args.build(pictures).transform(train=True), setting.batch, seed=0, workers=workers)


def _speed(batches: Batches, workers: int, setting: Setting, progress: Callable[[int], None]) -> float:
    """Images a second of the first batches of an epoch; raises UserError for a picture that cannot be read."""
    # Workers start together and deliver almost together: whole turns of all of them, or the first turn counts too much.
    rounds = -(-setting.rounds // max(workers, 1)) * max(workers, 1)
    with batches, num_threads(setting.threads):
        return throughput(batches.epoch(), _count, rounds, progress)


def _count(batch: dict) -> int:
    if batch["bad"]:
        raise UserError(batch["bad"][0])
    return len(batch["name"])


def _write_csv(results: list[Result], loader: Loader | None, same: dict[str, Any]) -> None:
    """One row per model, and one named "loader"; ``same`` stands in every row."""
    columns = [field.name for field in (*fields(Result), *fields(Loader))]
    writer = csv.DictWriter(sys.stdout, [*dict.fromkeys(columns), *same])
    writer.writeheader()
    writer.writerows(asdict(result) | same for result in results)
    if loader is not None:
        writer.writerow({"model": "loader"} | asdict(loader) | same)


def _show(results: list[Result], loader: Loader | None, setting: Setting, where: dict) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold", min_width=12)
    if several := len(setting.runtimes) > 1:
        table.add_column("runtime", no_wrap=True)
    for name in ("params M", "GMACs", "ms", "quartiles", "ratio", "images/s", "MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in results:
        table.add_row(
            r.model,
            *([r.runtime] if several else []),
            f"{r.parameters / 1e6:.2f}",
            f"{r.macs / 1e9:.3f}",
            f"{r.latency_ms:.1f}",
            f"{r.latency_low_ms:.1f}-{r.latency_high_ms:.1f}",
            f"{r.ratio:.2f}",
            f"{r.images_per_second:.1f}",
            "" if r.peak_memory_mib is None else f"{r.peak_memory_mib:.0f}",
        )
    if loader is not None:
        speed = f"{loader.images_per_second:.1f}"
        table.add_row("loader", *([""] if several else []), "", "", "", "", "", speed, "")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)
    if loader is not None:
        console.print(_limit(results, loader), soft_wrap=True)
    autocast = setting.mode == "train" and setting.dtype != "float32"
    parts = ["training steps"] if setting.mode == "train" else []
    parts += [f"{setting.size[0]}x{setting.size[1]}", f"batch {setting.batch}"]
    parts += [f"{setting.dtype} autocast" if autocast else setting.dtype]
    parts += [f"{setting.threads} thread(s)", *([] if several else setting.runtimes)]
    parts += ["reparameterized"] if setting.reparam else []
    parts += ["exported for this size"] if setting.fixed else []
    parts += ["channels_last"] if setting.channels_last else []
    parts += ["gradient checkpointing"] if setting.grad_checkpointing else []
    parts += [f"{setting.rounds} rounds", f"torch {where['torch']}", f"timm {where['timm']}", str(where["hardware"])]
    console.print(", ".join(parts), soft_wrap=True)


def _limit(results: list[Result], loader: Loader) -> str:
    """Whether the pictures come fast enough."""
    said = f"loader: {loader.data}, {loader.workers} worker(s), "
    if not loader.workers:
        return said + "which read between the steps: their time adds to that of the model"
    slowed = [r.model for r in results if r.images_per_second > loader.images_per_second]
    return said + (f"too slow for {', '.join(slowed)}" if slowed else "faster than every model")
