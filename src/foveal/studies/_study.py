"""What a study is: runs that differ in one thing, each with several seeds, and what is kept of them."""

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from .._errors import UserError, first_line
from ..engine import Run

KEPT = ("run.json", "metrics.jsonl")


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs that are compared.

    Attributes:
        name: of its function and its folder.
        about: what is compared, and how all of its runs are trained.
        figures: names of the figures that are reported, the first one in the plot.
        runs: a run for each row, with seed 0. What does not come with the package lies below a root and is named by its
            path there: the ``root`` of named data, other ``data``, and as ``model`` a folder ``weights/NAME`` of the
            weights of timm's model NAME.
        peers: rows that are not of this project, for comparison.
    """

    name: str
    about: str
    figures: tuple[str, ...]
    runs: dict[str, Run]
    peers: frozenset[str] = frozenset()

    def trials(self, seeds: int) -> Iterator["Trial"]:
        """All rows with one seed before the next, so that what is there at any time can be compared."""
        for seed in range(seeds):
            for row, run in self.runs.items():
                yield Trial(self.name, row, seed, replace(run, seed=seed))


class Trial(NamedTuple):
    """A run of a study.

    Attributes:
        study: its name.
        row: what is compared.
        seed: of the run.
        run: with that seed.
    """

    study: str
    row: str
    seed: int
    run: Run

    def folder(self, parent: Path) -> Path:
        """Where it is trained below one folder, and kept below another."""
        return parent / self.study / f"{self.row}-{self.seed}"


class Kept(NamedTuple):
    """What is kept of a run.

    Attributes:
        figures: of the last epoch.
        cost: parameters, and multiply-adds of a picture.
        environment: what it was made with.
    """

    figures: dict[str, float]
    cost: dict[str, float]
    environment: dict[str, Any]


def keep(trial: Trial, trained: Path, evidence: Path) -> None:
    """Keep a finished run's run.json and metrics.jsonl, without the folders of the machine that made it."""
    stored = json.loads((trained / "run.json").read_text())
    made = {name: stored[name] for name in ("run", "cost", "environment")}
    placeless = trial.run.to_dict()
    made["run"] |= {name: placeless[name] for name in ("data", "root", "out")}
    made["run"]["task"]["model"] = placeless["task"]["model"]
    folder = trial.folder(evidence)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_bytes((trained / "metrics.jsonl").read_bytes())
    (folder / "run.json").write_text(json.dumps(made, indent=1) + "\n")


def kept(trial: Trial, evidence: Path) -> Kept | None:
    """What is kept of a run, None where it was not made yet.

    Raises:
        UserError: it was trained otherwise than the study says now, or the files are damaged.
    """
    folder = trial.folder(evidence)
    if not all((folder / name).is_file() for name in KEPT):
        return None
    try:
        stored = json.loads((folder / "run.json").read_text())
        run = Run.from_dict(stored["run"])
        figures = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        finished = figures["epoch"] == run.epochs
        result = Kept(figures, stored["cost"], stored["environment"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"cannot read what is kept in {folder}: {first_line(error)}") from None
    where = ("data", "root", "out", "workers", "device", "precision", "compile")
    if different := trial.run.differences(run, ignore=where):
        raise UserError(f"{folder} was trained otherwise, remove it: {'; '.join(different)}")
    return result if finished else None


class Row(NamedTuple):
    """A row of a study's table.

    Attributes:
        name: what is compared.
        parameters: their number.
        macs: multiply-adds of a picture.
        mean: of each figure over the seeds.
        spread: standard deviation of each figure over the seeds; None with one seed.
        seeds: their number.
        devices: where they were trained.
    """

    name: str
    parameters: float
    macs: float
    mean: dict[str, float]
    spread: dict[str, float] | None
    seeds: int
    devices: tuple[str, ...]

    def figure(self, name: str) -> str:
        """Mean and spread, as people read them."""
        return f"{self.mean[name]:.2f}" + (f" ± {self.spread[name]:.2f}" if self.spread else "")


def rows(study: Study, evidence: Path, seeds: int) -> list[Row]:
    """The rows of which at least one run was made, in the study's order."""
    made: dict[str, list[Kept]] = {name: [] for name in study.runs}
    for trial in study.trials(seeds):
        if (result := kept(trial, evidence)) is not None:
            made[trial.row].append(result)
    return [_row(study, name, results) for name, results in made.items() if results]


def _row(study: Study, name: str, results: list[Kept]) -> Row:
    values = {figure: [result.figures[figure] for result in results] for figure in study.figures}
    return Row(
        name=name,
        parameters=results[0].cost["parameters"],
        macs=results[0].cost["macs"],
        mean={figure: statistics.mean(v) for figure, v in values.items()},
        spread={figure: statistics.stdev(v) for figure, v in values.items()} if len(results) > 1 else None,
        seeds=len(results),
        devices=tuple(sorted({str(result.environment["hardware"]) for result in results})),
    )
