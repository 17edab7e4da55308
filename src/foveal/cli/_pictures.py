"""Pictures that a command is given."""

from collections.abc import Iterator
from typing import Literal

from rich.console import Console
from rich.progress import Progress

from .._errors import UserError
from ..data import Batches

WORST = 5  # classes named below the table of an evaluation


def read_batches(batches: Batches, skipped: list[str], on_bad_image: Literal["stop", "skip"]) -> Iterator[dict]:
    """The batches to evaluate on that are not empty, with a bar on a terminal.

    Args:
        skipped: gets the messages of pictures that cannot be read.

    Raises:
        UserError: a picture cannot be read, and ``on_bad_image`` is stop.
    """
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        shown = progress.add_task("pictures", total=len(batches.data))
        for batch in batches.epoch():
            if batch["bad"] and on_bad_image == "stop":
                raise UserError(f"{batch['bad'][0]}; --on-bad-image skip goes on without it")
            skipped += batch["bad"]
            if len(batch["name"]):
                yield batch
            progress.update(shown, advance=len(batch["name"]) + len(batch["bad"]))
