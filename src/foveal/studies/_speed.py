"""How fast the rows of a study are: all of them in turn, so that their ratios mean something on another machine."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from .._errors import UserError, does_not_run, first_line, some
from .._models import create_model
from ..bench import Setting, environment, forward_pass, interleave, num_threads, ratio, synchronizer, training_step
from ..engine import Run
from ..tasks import ClassificationArgs
from ._study import Study

ROUNDS = dict(inference=50, train=10)
NUM_CLASSES = 10
MEASURED = "speed.json"
Progress = Callable[[str, int, int], None]


class Speed(NamedTuple):
    """A row beside the first one that was measured.

    Attributes:
        latency: time of a forward pass of one picture, by that of the first row.
        training: pictures a second in training steps, by those of the first row; None of what is no classifier.
    """

    latency: float
    training: float | None


class Measured(NamedTuple):
    """What is kept of a measurement.

    Attributes:
        first: the row that the others are compared with.
        rows: what was measured.
        batch: pictures of a training step; None where none was measured.
        sizes: height and width in pixels of the pictures.
        environment: what it was made with.
    """

    first: str
    rows: dict[str, Speed]
    batch: int | None
    sizes: list[tuple[int, ...]]
    environment: dict[str, Any]

    def sentence(self) -> str:
        """What was measured, and on what."""
        sizes = " and ".join("x".join(map(str, size)) for size in self.sizes)
        what = f"Latency (the forward pass of one picture of {sizes} px)"
        if self.batch is None:
            what += f" is a ratio to that of `{self.first}`"
        else:
            what += f" and throughput (of training steps of {self.batch}) are ratios to those of `{self.first}`"
        return f"{what}; float32, one thread, {self.environment['hardware']}, torch {self.environment['torch']}."


def measure(
    study: Study,
    names: tuple[str, ...],
    batch: int | None,
    device: str,
    evidence: Path,
    progress: Progress = lambda what, rounds, done: None,
) -> Path:
    """Measure rows with random weights and keep what was found: a forward pass of one picture, and of classifiers a
    training step (forward pass, cross-entropy, backward pass, AdamW). Float32, one thread, the study's largest
    pictures; what detectors make of a forward pass is left out.

    Args:
        names: of the rows; the first is what the others are compared with.
        batch: pictures of a training step; the study's if None.
        device: as torch names it.
        evidence: the file goes to the study's folder there.
        progress: told what is measured, of how many rounds, and how many are done.

    Returns:
        The file.

    Raises:
        UserError: a row that cannot be built or run, no memory for all of them at once, a batch where there is no
            training step, a file that has more rows.
    """
    runs = {name: study.runs[name] for name in names}
    classifiers = all(isinstance(run.task, ClassificationArgs) for run in runs.values())
    if batch is not None and not classifiers:
        raise UserError("batch is for training steps, which are measured of classifiers only")
    file = evidence / study.name / MEASURED
    if more := [name for name in _rows(file) if name in study.runs and name not in runs]:
        raise UserError(f"{file} has more rows ({some(more, 4)}): measure all, or choose another --evidence")
    batch = (batch or runs[names[0]].batch_size) if classifiers else None
    base = Setting(device=device)
    latency = _ratios(runs, base, progress)
    training = _ratios(runs, replace(base, mode="train", batch=batch), progress) if batch else {}
    rows = {
        name: _built(run) | dict(latency=latency[name], training=1 / training[name] if training else None)
        for name, run in runs.items()
    }
    made = dict(first=names[0], batch=batch, rounds=ROUNDS, threads=base.threads, device=device)
    made |= {"environment": environment(base), "rows": rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(made, indent=1) + "\n")
    return file


def _rows(file: Path) -> list[str]:
    """Names of the rows that a file has; a damaged file has none worth keeping."""
    try:
        return [*json.loads(file.read_text())["rows"]]
    except (OSError, KeyError, RecursionError, TypeError, ValueError):
        return []


def measured(study: Study, evidence: Path) -> Measured | None:
    """What is kept of a measurement, None where there was none.

    Raises:
        UserError: the rows were others than those of the study now, or the file is damaged.
    """
    file = evidence / study.name / MEASURED
    if not file.is_file():
        return None
    try:
        stored = json.loads(file.read_text())
        rows = {name: Speed(row.pop("latency"), row.pop("training")) for name, row in stored["rows"].items()}
        sizes = sorted({tuple(row["size"]) for row in stored["rows"].values()})
        result = Measured(stored["first"], rows, stored["batch"], sizes, stored["environment"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"cannot read {file}: {first_line(error)}") from None
    for name, row in stored["rows"].items():
        if name not in study.runs or row != _built(study.runs[name]):
            raise UserError(f"{file}: {name} was measured otherwise; foveal study {study.name} --speed measures again")
    return result


def _ratios(runs: dict[str, Run], setting: Setting, progress: Progress) -> dict[str, float]:
    """Times of all rows by that of the first, from one interleaved run."""
    device, rounds = torch.device(setting.device), ROUNDS[setting.mode]
    prepare, what = (training_step, "training steps") if setting.mode == "train" else (forward_pass, "forward passes")
    calls: dict[str, Callable[[], object]] = {}
    with num_threads(setting.threads):
        try:
            for name, run in runs.items():
                progress(f"building for {what}", rounds, 0)
                try:
                    calls[name], _ = prepare(_model(run), replace(setting, size=run.task.largest), device)
                except (UserError, torch.OutOfMemoryError):
                    raise
                except Exception as error:  # what a model raises at a size or device that it does not take
                    raise does_not_run(name, error) from error
            told = partial(progress, what, rounds)
            seconds = interleave(calls, rounds, synchronize=synchronizer(device), progress=told)
        except torch.OutOfMemoryError:
            raise UserError(f"{device} has no memory for {len(runs)} rows at once; try a smaller --batch") from None
    return {name: ratio(times, seconds[next(iter(runs))]) for name, times in seconds.items()}


def _model(run: Run) -> nn.Module:
    """A run's model with random weights."""
    task: Any = run.task
    name = Path(task.model).name  # a folder of weights has the name of its model
    if isinstance(task, ClassificationArgs):
        return create_model(name, num_classes=NUM_CLASSES, **task.model_args).eval()
    registry, head, args = task.head
    return registry.build(head, name, NUM_CLASSES, backbone_args=task.model_args, **args).eval()


def _built(run: Run) -> dict[str, Any]:
    """What speed depends on in a run, as JSON has it."""
    task: Any = run.task
    head = [] if isinstance(task, ClassificationArgs) else task.head[1:]
    return json.loads(json.dumps(dict(model=task.model, model_args=task.model_args, head=head, size=task.largest)))
