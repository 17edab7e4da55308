"""Models that are made ready in processes of their own, several at once, and called from here, one at a time."""

import multiprocessing
import multiprocessing.connection
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch

from .._errors import UserError, does_not_run

PATIENCE = 5.0  # seconds
MAKE = Callable[[str], "tuple[Any, dict[Any, Callable[[], float]]]"]


class Apart:
    """Processes that live as long as this one, or until it is closed.

    Args:
        make: from a model's name to what is known of it and its timed calls by name; pickled into the processes.
        names: of the models.
        jobs: how many are made ready at once; all of them stay alive.

    Raises:
        UserError: as ``make``, or a process ended.
    """

    def __init__(self, make: MAKE, names: Sequence[str], jobs: int):
        context = multiprocessing.get_context("spawn")
        self.pipes: dict[str, Any] = {}
        self.processes: dict[str, Any] = {}
        self.known: dict[str, tuple[Any, list[Any]]] = {}
        waiting = list(names)
        try:
            while len(self.known) < len(names):
                while waiting and len(self.pipes) - len(self.known) < jobs:
                    name = waiting.pop(0)
                    self.pipes[name], end = context.Pipe()
                    self.processes[name] = context.Process(target=_serve, args=(end, make, name), daemon=True)
                    with _without_interrupts():
                        self.processes[name].start()
                    end.close()
                busy = {pipe: name for name, pipe in self.pipes.items() if name not in self.known}
                for pipe in multiprocessing.connection.wait(list(busy)):
                    name = busy[pipe]
                    self.known[name] = self._answer(name)
        except BaseException:
            self.close()
            raise

    def calls(self, name: str) -> dict[Any, Callable[[], float]]:
        """A model's calls, which return the seconds that they took there."""
        return {key: partial(self._call, name, key) for key in self.known[name][1]}

    def _call(self, name: str, key: Any) -> float:
        self.pipes[name].send(key)
        return self._answer(name)

    def _answer(self, name: str) -> Any:
        try:
            answer = self.pipes[name].recv()
        except (EOFError, ConnectionError):
            raise UserError(f"the process of {name} ended; if memory ran out, try fewer models or --jobs 1") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the processes: those that wait to be asked by themselves, those at work by a signal."""
        for name, pipe in self.pipes.items():
            pipe.close()
            if name not in self.known and name in self.processes:
                self.processes[name].terminate()
        end = time.monotonic() + PATIENCE
        for process in self.processes.values():
            process.join(max(0.0, end - time.monotonic()))
            process.terminate()
            process.join()

    def __enter__(self) -> "Apart":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _serve(pipe: Any, make: MAKE, name: str) -> None:
    """Make a model ready, then its calls as they are asked for, until nobody is there to ask."""
    with suppress(EOFError, ConnectionError):
        try:
            known, calls = make(name)
            pipe.send((known, list(calls)))
            while True:
                pipe.send(calls[pipe.recv()]())
        except (UserError, torch.OutOfMemoryError) as error:
            pipe.send(error)
        except (EOFError, ConnectionError):
            raise
        except Exception as error:  # of a foreign model
            pipe.send(does_not_run(name, error))


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that start inside never see Ctrl-C, which reaches all: the first one ends the others."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread, which alone gets it
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
