"""What is seen of a run: a live line on a terminal, plain lines elsewhere; JSON lines and TensorBoard in its folder."""

import json
import os
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .._errors import UserError
from .._json import plain

PLAIN_SECONDS = 15.0  # between two lines where there is no terminal
SCALAR_STEPS = 20  # between two points of TensorBoard's curves


class RunLog:
    """Progress of one run.

    Args:
        folder: of the run; ``metrics.jsonl`` and ``tensorboard/`` are written there. None in all processes but the
            first, which alone speaks.
        steps: steps of the whole run.
        done: steps before a resumed run goes on.
        keep: bytes of ``metrics.jsonl`` that belong to them; later lines are dropped.
        logger: ``wandb`` or ``trackio``.
        config: what these store of the run.
    """

    def __init__(
        self,
        folder: Path | None,
        steps: int,
        console: Console,
        *,
        done: int = 0,
        keep: int = 0,
        logger: str | None = None,
        config: dict[str, Any] | None = None,
    ):
        self.console, self.quiet = console, folder is None
        self.live = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.4g}  {task.fields[best]}  {task.fields[rate]:.0f} images/s"),
            TimeRemainingColumn(),
            console=console,
            disable=self.quiet or not console.is_terminal,
        )
        self.task = self.live.add_task("", total=steps, completed=done, epoch="", loss=float("nan"), best="-", rate=0.0)
        self.skipped: list[str] = []
        self.steps, self.done = steps, done
        self.started = self.shown = time.monotonic()
        self.file = self.board = self.remote = None
        if folder is not None:
            if logger is not None:
                self.remote = import_module(logger).init(project="foveal", name=folder.name, config=config or {})
            from torch.utils.tensorboard import SummaryWriter

            lines = folder / "metrics.jsonl"
            lines.touch()
            os.truncate(lines, keep)
            self.file = lines.open("a")
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1 if done else None)

    def __enter__(self) -> "RunLog":
        self.live.start()
        return self

    def __exit__(self, *_) -> None:
        self.live.stop()
        for sink in (self.file, self.board):
            if sink is not None:
                sink.close()
        if self.remote is not None:
            self.remote.finish()

    @property
    def position(self) -> int:
        """Bytes of ``metrics.jsonl`` so far."""
        return self.file.tell() if self.file is not None else 0

    def step(self, step: int, epoch: str, values: dict[str, float]) -> None:
        """Show a step done; ``values`` has at least loss, lr and images_per_second."""
        if self.quiet:
            return
        rate = values["images_per_second"]
        self.live.update(self.task, completed=step, epoch=epoch, loss=values["loss"], rate=rate)
        if step % SCALAR_STEPS == 0:
            self._scalars({f"train/{name}": value for name, value in values.items()}, step)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.shown > PLAIN_SECONDS:
            left = (now - self.started) / (step - self.done) * (self.steps - step)
            self.say(f"epoch {epoch}  loss {values['loss']:.4g}  {rate:.0f} images/s  {left:.0f} s left")
            self.shown = now

    def metrics(self, values: dict[str, float], best: str, step: int) -> None:
        """Store and show the figures of an epoch, of which ``best`` is the one to look at."""
        if self.file is None:
            return
        try:
            print(json.dumps(plain(values)), file=self.file, flush=True)
        except OSError as error:
            raise UserError(f"cannot write {self.file.name}: {error.strerror}") from None
        self._scalars({f"epoch/{name}": value for name, value in values.items()}, step)
        self.live.update(self.task, best=f"{best} {values[best]:.1f}")
        self.say("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()))

    def _scalars(self, values: dict[str, float], step: int) -> None:
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        if self.remote is not None:
            self.remote.log(values, step=step)

    def bad_images(self, messages: list[str], policy: str) -> UserError | None:
        """The error that ends the run at the first message if the policy is ``stop``; else list each picture once."""
        if messages and policy == "stop":
            return UserError(f"{messages[0]}; --on-bad-image skip goes on without it")
        for message in messages:
            if message not in self.skipped:
                self.skipped.append(message)
                self.say(f"skipped {len(self.skipped)}: {message}")
        return None

    def say(self, text: str) -> None:
        """A line of text."""
        if not self.quiet:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
