"""What the evaluations of all tasks share."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..data import load_data, load_split
from ._load import batches_of, environment_of, load_model
from ._pictures import percent, read_batches

WORST = 5  # classes or joints named below the table of figures
PLURALS = {"class": "classes", "joint": "joints"}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What ``foveal eval`` was asked of a model of any task: the command's arguments, by their names."""

    model: str
    data: str
    root: Path | None
    batch_size: int
    workers: int
    device: str
    precision: Literal["fp32", "bf16"]
    per_class: bool
    on_bad_image: Literal["stop", "skip"]
    as_json: bool

    def load(self, kind: str, name: str, **options: Any) -> Any:
        """A model of a run or a file, on the device."""
        return load_model(kind, name, device=self.device, precision=self.precision, **options)

    def pictures(self, kind: str, *, skip: bool = False) -> Any:
        """The validation part; of data without one all, or the tenth that the run held out if it was trained on it."""
        if not self._is_own():
            return load_split(self.data, self.root, kind=kind, skip=skip)
        own = load_data(self.data, self.root, kind=kind, skip=skip)[1]
        print(f"{self.data}: the {len(own)} pictures on which {self.model} was not trained", file=sys.stderr)
        return own

    def _is_own(self) -> bool:
        """Whether the model is a run that held out its validation pictures of this very data."""
        file = Path(self.model) / "run.json"
        try:
            run = json.loads(file.read_text())["run"]
            same = Path(run["data"]).resolve() == Path(self.data).resolve()
            return same and run["val_data"] is None and Path(self.data).exists()
        except (KeyError, OSError, TypeError, ValueError):  # of another kind, or by hand
            return False

    def batches(self, model: Any, data: Any, transform: Any, skipped: list[str], stack: Any = None) -> Iterator[dict]:
        """Batches for a model; ``skipped`` gets the messages of pictures that cannot be read."""
        with batches_of(model, data, transform, self.batch_size, self.workers, stack) as batches:
            yield from read_batches(batches, skipped, self.on_bad_image)

    def answer(self, model: Any, preprocessing: dict[str, Any], own: dict[str, Any], **figures: Any) -> None:
        """Print one JSON object; ``own`` are the task's own arguments."""
        settings = asdict(self) | own
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
        said = dict(model=self.model, data=self.data, **figures, preprocessing=preprocessing, settings=settings)
        print(json.dumps(said | {"environment": environment_of(model, self.device)}))


def show_figures(columns: Sequence[str], rows: Sequence[tuple[str, ...]], lines: Sequence[str]) -> None:
    """A table of figures by their names, and lines below it."""
    table = Table("", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True)


def show_parts(kind: str, parts: Sequence[dict[str, Any]], columns: dict[str, str], figure: str, every: bool) -> None:
    """All classes or joints, or those with the least figure.

    Args:
        kind: of the parts, under which each has its name.
        columns: titles, by the name of what a part has there.
        figure: that is looked at; nan for what was not seen.
        every: show all.
    """
    seen = [part for part in parts if not math.isnan(part[figure])]
    title = PLURALS[kind] if every else f"worst {PLURALS[kind]}"
    table = Table(kind, title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in columns.values():
        table.add_column(name, justify="right", no_wrap=True)
    for part in parts if every else sorted(seen, key=lambda part: part[figure])[:WORST]:
        values = [part[name] for name in columns]
        table.add_row(part[kind], *(percent(v) if isinstance(v, float) else str(v) for v in values))
    Console(highlight=False, markup=False).print(table)


def tell(left_out: Sequence[str], skipped: Sequence[str]) -> None:
    """What was not measured, line by line on standard error."""
    for message in left_out:
        print(f"left out: {message}", file=sys.stderr)
    for message in skipped:
        print(f"skipped: {message}", file=sys.stderr)
