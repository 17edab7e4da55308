"""What the evaluations of all tasks share."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..data import divided, load_parts, split_of
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
    notes: list[str] = field(default_factory=list, init=False)  # on what is measured

    def load(self, kind: str, name: str, **options: Any) -> Any:
        """A model of a run or a file, on the device."""
        return load_model(kind, name, device=self.device, precision=self.precision, **options)

    def pictures(self, kind: str, *, skip: bool = False) -> Any:
        """The validation part; of data without one all, or the tenth that the run held out if it was trained on it."""
        train, val = load_parts(self.data, self.root, kind=kind, skip=skip)
        if val is None and train is not None and (counts := self._counts()):
            parts = divided(self.data, train, None)
            if [*map(len, parts)] == counts:
                self.notes.append(f"{self.data}: the {counts[1]} pictures on which {self.model} was not trained")
                return parts[1]
            self.notes.append(
                f"{self.data}: all of it, also what {self.model} was trained on, when it had {sum(counts)}"
            )
        return split_of(self.data, train, val)

    def _counts(self) -> list[int]:
        """Pictures that a run trained on, and that it held out of the data of this name; none if it did not."""
        try:
            stored = json.loads((Path(self.model) / "run.json").read_text())
            run, counts = stored["run"], [*map(int, stored["pictures"])]
            same = run["data"] == self.data or Path(run["data"]).resolve() == Path(self.data).resolve()
            return counts if same and run["val_data"] is None else []
        except (KeyError, OSError, TypeError, ValueError):  # of another kind, or by hand
            return []

    def batches(self, model: Any, data: Any, transform: Any, skipped: list[str], stack: Any = None) -> Iterator[dict]:
        """Batches for a model; ``skipped`` gets the messages of pictures that cannot be read."""
        with batches_of(model, data, transform, self.batch_size, self.workers, stack) as batches:
            yield from read_batches(batches, skipped, self.on_bad_image)

    def tell(self, left_out: list[str], skipped: list[str]) -> None:
        """Say on standard error what was measured and what was not, line by line."""
        said = [*self.notes, *(f"left out: {message}" for message in left_out), *(f"skipped: {m}" for m in skipped)]
        for message in said:
            print(message, file=sys.stderr)

    def answer(self, model: Any, preprocessing: dict[str, Any], own: dict[str, Any], **figures: Any) -> None:
        """Print one JSON object; ``own`` are the task's own arguments."""
        settings = {name: value for name, value in asdict(self).items() if name != "notes"} | own
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
        said = dict(model=self.model, data=self.data, notes=self.notes, **figures)
        said |= dict(preprocessing=preprocessing, settings=settings)
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
