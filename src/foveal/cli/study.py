"""``foveal study [NAME [--speed] | report] [--root DIR] [--seeds N]``"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .._errors import UserError, unknown
from ..data import DATASETS
from ..engine import Run
from ..studies import STUDIES, Study, Trial, columns, keep, kept, measure, measured, report, rows
from . import check_needs
from ._load import check_device


def main(
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None,
    /,
    *,
    rows: tuple[str, ...] = (),
    root: Path | None = None,
    seeds: int = 3,
    speed: bool = False,
    batch: int | None = None,
    jobs: int = 1,
    minutes: float | None = None,
    device: str = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    workers: int = 0,
    out: Path = Path("runs/study"),
    evidence: Path = Path("evidence"),
    page: Path = Path("docs/evidence.md"),
) -> int:
    """Train the runs of a study that were not made yet, and keep what shows for them; or write the page of all studies.

    With --speed nothing is trained: the rows are timed with random weights, in turn in one run, and what is kept are
    their ratios to the first of them. One thread, float32, one picture of the study's size; of classifiers also
    training steps. What detectors make of a forward pass is left out.

    Args:
        name: of a study, or report for the page; without it the studies are listed.
        rows: train or measure only these rows of the study.
        root: the folder of the data that do not come with the package; scripts/study_data.py makes it.
        seeds: of each row, 0 and up.
        speed: measure latency and training throughput of the rows instead of training them.
        batch: with --speed, pictures of a training step, if not those of the study.
        jobs: runs at once.
        minutes: begin no run after that time; one that has begun ends, and can be gone on with.
        device: as torch names it.
        precision: bf16 trains under autocast.
        workers: processes of a run that read pictures; 0 reads them between the steps.
        out: the runs go here.
        evidence: what is kept of them goes here, run.json and metrics.jsonl of each, and speed.json of a study.
        page: where report writes, with its plots in a folder of the same name.
    """
    if seeds < 1 or jobs < 1 or workers < 0:
        raise UserError("seeds and jobs must be at least 1, and workers at least 0")
    check_needs(
        ("--speed", speed, "the name of a study", name not in (None, "report")),
        ("--batch", batch is not None, "--speed", speed),
        ("--root", root is not None, "training", not speed),
        ("--jobs", jobs > 1, "training", not speed),
        ("--minutes", minutes is not None, "training", not speed),
        ("--precision", precision != "fp32", "training", not speed),
        ("--workers", workers > 0, "training", not speed),
    )
    if batch is not None and batch < 2:
        raise UserError("batch must be at least 2")  # BatchNorm of a map of one position takes no single picture
    made = {key: build() for key, build in STUDIES.items()}
    if name == "report":
        written = report(list(made.values()), evidence, page)
        print(f"wrote {', '.join(str(path) for path in written)}")
        return 0
    if name is None:
        _list(list(made.values()), evidence, seeds)
        return 0
    if name not in made:
        raise unknown("study", name, [*made, "report"])
    chosen = made[name]
    for row in rows:
        if row not in chosen.runs:
            raise unknown(f"row of {name}", row, chosen.runs)
    if speed:
        _measure(chosen, rows or tuple(chosen.runs), batch, check_device(device), evidence)
        _show(chosen, evidence, seeds)
        print("next: foveal study report")
        return 0
    changed: dict[str, Any] = dict(device=check_device(device), precision=precision, workers=workers)
    trials = [trial for trial in chosen.trials(seeds) if not rows or trial.row in rows]
    trials = [trial for trial in trials if kept(trial, evidence) is None]
    end = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    todo = [(trial, replace(placed(trial.run, root), out=trial.folder(out), **changed)) for trial in trials]
    say = Console(highlight=False, markup=False).print
    with ThreadPoolExecutor(jobs) as pool:
        left = sum(pool.map(lambda job: _train(job[0], job[1], evidence, end, chosen.figures, say), todo))
    _show(chosen, evidence, seeds)
    if left:
        print(f"{left} runs are left; the same command goes on with them")
    print("next: foveal study report")
    return 0


def placed(run: Run, root: Path | None) -> Run:
    """A run whose data and weights are found below a root, see ``Study``; raises UserError if they are not."""

    def below(path: str | Path) -> Path:
        if root is None:
            raise UserError(f"{path} does not come with the package; --root names the folder that holds it")
        if not (place := root / path).exists():
            raise UserError(f"missing {place}; scripts/study_data.py says where it comes from")
        return place

    if run.root is not None:
        run = replace(run, root=below(run.root))
    elif run.data not in DATASETS[run.task.data]:
        run = replace(run, data=str(below(run.data)))
    if run.task.model.startswith("weights/"):
        run = replace(run, task=replace(run.task, model=str(below(run.task.model))))
    return run


def _measure(chosen: Study, names: tuple[str, ...], batch: int | None, device: str, evidence: Path) -> None:
    """Measure rows of a study and say where the file is."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("building")
        file = measure(
            chosen,
            names,
            batch,
            device,
            evidence,
            lambda what, rounds, done: progress.update(task, description=what, completed=done, total=rounds),
        )
    print(f"wrote {file}")


def _train(
    trial: Trial, run: Run, evidence: Path, end: float, figures: tuple[str, ...], say: Callable[..., None]
) -> int:
    """Train in a process of its own; return how many runs are left: 0, or 1 where time was up or it failed."""
    if time.monotonic() > end:
        return 1
    run.out.parent.mkdir(parents=True, exist_ok=True)
    file = run.out.with_suffix(".json")
    file.write_text(json.dumps({"run": run.to_dict()}))
    command = [sys.executable, "-m", "foveal", "train", "--from", str(file), "--resume"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]  # as one that is killed does
        say(f"{trial.row}, seed {trial.seed}: {said[-1]}")
        return 1
    keep(trial, run.out, evidence)
    result: Any = kept(trial, evidence)
    shown = "  ".join(f"{figure} {result.figures[figure]:.2f}" for figure in figures)
    say(f"{trial.row}, seed {trial.seed}: {shown}")
    return 0


def _list(studies: list[Study], evidence: Path, seeds: int) -> None:
    table = Table("study", "runs made", "what", box=SIMPLE_HEAD, pad_edge=False)
    for chosen in studies:
        trials = list(chosen.trials(seeds))
        there = sum(kept(trial, evidence) is not None for trial in trials)
        table.add_row(chosen.name, f"{there} of {len(trials)}", chosen.about.splitlines()[0])
    Console(highlight=False).print(table)
    print("next: foveal study NAME [--root DIR]; foveal study report")


def _show(chosen: Study, evidence: Path, seeds: int) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("row", overflow="fold")
    made = rows(chosen, evidence, seeds)
    speeds = columns(made, measured(chosen, evidence))
    for title in ("M parameters", "GMACs", *speeds, *chosen.figures, "seeds"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in made:
        cells = [column.get(row.name, "") for column in speeds.values()]
        cells += [row.figure(figure) for figure in chosen.figures]
        table.add_row(row.name, f"{row.parameters / 1e6:.2f}", f"{row.macs / 1e9:.4f}", *cells, str(row.seeds))
    Console(highlight=False).print(table)
