"""What is seen of a run: a live line on a terminal, plain lines elsewhere, JSON lines in the run's folder."""

import json
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .._errors import UserError

PLAIN_SECONDS = 15.0  # between two lines where there is no terminal


class RunLog:
    """Progress of one run.

    Args:
        folder: of the run; ``metrics.jsonl`` is appended there.
        steps: steps of the whole run.
        console: where to show progress.
    """

    def __init__(self, folder: Path, steps: int, console: Console):
        self.console = console
        self.file = (folder / "metrics.jsonl").open("a")
        self.live = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  top-1 {task.fields[top1]}  {task.fields[rate]:.0f} images/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.live.add_task("", total=steps, epoch="", loss=float("nan"), top1="-", rate=0.0)
        self.skipped: list[str] = []
        self.steps, self.started, self.shown = steps, time.monotonic(), time.monotonic()

    def __enter__(self) -> "RunLog":
        self.live.start()
        return self

    def __exit__(self, *_) -> None:
        self.live.stop()
        self.file.close()

    def step(self, step: int, epoch: str, loss: float, rate: float) -> None:
        """Show a step done."""
        self.live.update(self.task, completed=step, epoch=epoch, loss=loss, rate=rate)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.shown > PLAIN_SECONDS:
            left = (now - self.started) / step * (self.steps - step)
            self.say(f"epoch {epoch}  loss {loss:.3f}  {rate:.0f} images/s  {left:.0f} s left")
            self.shown = now

    def metrics(self, values: dict[str, float]) -> None:
        """Store and show the figures of an epoch."""
        print(json.dumps(values), file=self.file, flush=True)
        self.live.update(self.task, top1=f"{values['top1']:.1f} %")
        shown = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        self.say(shown)

    def bad_images(self, messages: list[str], policy: str) -> None:
        """Raise UserError at the first message if the policy is ``stop``, else list each picture once."""
        if messages and policy == "stop":
            raise UserError(f"{messages[0]}; --on-bad-image skip goes on without it")
        for message in messages:
            if message not in self.skipped:
                self.skipped.append(message)
                self.say(f"skipped {len(self.skipped)}: {message}")

    def say(self, text: str) -> None:
        """A line of text."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
