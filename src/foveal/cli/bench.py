"""``foveal bench MODEL... [--csv | --json]``"""

import csv
import json
import sys
from dataclasses import asdict
from typing import Annotated, Literal

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .._errors import UserError
from ..bench import Result, Setting, environment
from ..bench import bench as measure
from . import check_device


def main(argv: list[str]) -> int:
    return tyro.cli(bench, args=argv, prog="foveal bench", config=(tyro.conf.FlagCreatePairsOff,))


def bench(
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")],
    /,
    *,
    size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="H [W]")] = (224,),
    batch: int = 1,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    threads: int = 1,
    device: str = "cpu",
    compile: bool = False,
    channels_last: bool = False,
    rounds: int = 20,
    as_csv: Annotated[bool, tyro.conf.arg(name="csv")] = False,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Parameters, multiply-adds, speed and memory of timm models, interleaved in one run.

    Only the ratios to the first model mean something on another machine.

    Args:
        models: names; peers beside ours.
        size: height and width of the images in pixels; one number for a square.
        batch: images a call.
        dtype: of weights and images.
        threads: CPU threads.
        device: as torch names it.
        compile: measure under torch.compile.
        channels_last: give weights and images that memory format.
        rounds: timed calls of each model.
        as_csv: print CSV, environment and setting in every row.
        as_json: print a JSON object of environment, setting and results.
    """
    if not models:
        raise UserError("no model given; timm.list_models() names those that can stand here")
    if len(size) not in (1, 2):
        raise UserError(f"size takes one or two numbers, got {len(size)}")
    for name, value in [("size", min(size)), ("batch", batch), ("threads", threads), ("rounds", rounds - 1)]:
        if value < 1:
            raise UserError(f"{name} must be at least {2 if name == 'rounds' else 1}")
    if as_csv and as_json:
        raise UserError("--csv and --json exclude each other")
    setting = Setting(
        size=(size[0], size[-1]),
        batch=batch,
        dtype=dtype,
        threads=threads,
        device=check_device(device),
        compile=compile,
        channels_last=channels_last,
        rounds=rounds,
    )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("building", total=rounds)
        results = measure(models, setting, lambda done: progress.update(task, completed=done, description="measuring"))
    where = environment(setting)
    if as_json:
        print(json.dumps({"environment": where, "setting": asdict(setting), "results": [asdict(r) for r in results]}))
    elif as_csv:
        flat = asdict(setting) | {"size": "x".join(map(str, setting.size))}
        rows = [asdict(result) | flat | where for result in results]
        writer = csv.DictWriter(sys.stdout, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    else:
        _show(results, setting, where)
    return 0


def _show(results: list[Result], setting: Setting, where: dict) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    for name in ("params M", "GMACs", "ms", "quartiles", "ratio", "images/s", "MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in results:
        table.add_row(
            r.model,
            f"{r.parameters / 1e6:.2f}",
            f"{r.macs / 1e9:.3f}",
            f"{r.latency_ms:.1f}",
            f"{r.latency_low_ms:.1f}-{r.latency_high_ms:.1f}",
            f"{r.ratio:.2f}",
            f"{r.images_per_second:.1f}",
            f"{r.peak_memory_mib:.0f}",
        )
    console = Console(highlight=False)
    console.print(table)
    parts = [f"{setting.size[0]}x{setting.size[1]}", f"batch {setting.batch}", setting.dtype]
    parts += [f"{setting.threads} thread(s)", "compiled" if setting.compile else "eager"]
    parts += ["channels_last"] if setting.channels_last else []
    parts += [f"{setting.rounds} rounds", f"torch {where['torch']}", f"timm {where['timm']}", str(where["hardware"])]
    console.print(", ".join(parts), soft_wrap=True)
