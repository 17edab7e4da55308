"""What the evaluations of all tasks share."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ._load import batches_of, environment_of, load_model
from ._pictures import read_batches


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


def tell(left_out: Sequence[str], skipped: Sequence[str]) -> None:
    """What was not measured, line by line on standard error."""
    for message in left_out:
        print(f"left out: {message}", file=sys.stderr)
    for message in skipped:
        print(f"skipped: {message}", file=sys.stderr)
