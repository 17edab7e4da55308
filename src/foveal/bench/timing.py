"""Latency of several functions, interleaved, peak memory of one, and how fast batches come."""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch

from .._errors import UserError

K = TypeVar("K", bound=Hashable)


@contextmanager
def num_threads(number: int) -> Iterator[None]:
    """Inside, torch uses so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def interleave(
    functions: Mapping[K, Callable[[], object]],
    rounds: int,
    warmup: int = 3,
    synchronize: Callable[[], None] = lambda: None,
    progress: Callable[[int], None] = lambda done: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[K, list[float]]:
    """Call every function once a round, so that whatever else the machine does hits all of them alike.

    Args:
        functions: what to time, by name or other key.
        rounds: timed calls of each.
        warmup: calls of each before.
        synchronize: waits until the device is idle.
        progress: told the number of finished rounds.
        clock: in seconds; ``time.thread_time`` leaves out what other processes take, if one thread does all the work.

    Returns:
        Seconds of each call, by key and in order of the rounds.
    """
    calls = {name: partial(timed, function, synchronize, clock) for name, function in functions.items()}
    return in_turn(calls, rounds, warmup, progress)


def synchronizer(device: torch.device) -> Callable[[], None]:
    """What waits until a device is idle."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else (lambda: None)


def timed(function: Callable[[], object], synchronize: Callable[[], None], clock: Callable[[], float]) -> float:
    """Seconds of one call."""
    synchronize()
    started = clock()
    function()
    synchronize()
    return clock() - started


def in_turn(
    calls: Mapping[K, Callable[[], float]],
    rounds: int,
    warmup: int = 3,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[K, list[float]]:
    """``interleave`` of calls that return their own seconds."""
    seconds: dict[K, list[float]] = {name: [] for name in calls}
    for done in range(warmup + rounds):
        for name, call in calls.items():
            took = call()
            if done >= warmup:
                seconds[name].append(took)
        progress(max(0, done + 1 - warmup))
    return seconds


def ratio(seconds: list[float], reference: list[float]) -> float:
    """Median over the rounds of one's time by the other's."""
    return statistics.median(a / b for a, b in zip(seconds, reference, strict=True))


def peak_memory(function: Callable[[], object], device: torch.device) -> int:
    """Most bytes that a call holds at once beyond what was there before it, as the allocator reports them."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler talks to standard error otherwise
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    results: Any = profiler.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def throughput(batches: Iterable, count: Callable[[Any], int], rounds: int, progress: Callable[[int], None]) -> float:
    """Images a second of what yields batches, when nothing else is done with them.

    Args:
        batches: a loader; the first batch, behind which its workers have started, is not timed.
        count: images of a batch.
        rounds: timed batches; fewer if the loader ends before.
        progress: told the number of timed batches.

    Raises:
        UserError: nothing behind the first batch.
    """
    iterator = iter(batches)
    next(iterator)
    images = done = 0
    started = time.perf_counter()
    for done, batch in enumerate(itertools.islice(iterator, rounds), start=1):
        images += count(batch)
        progress(done)
    if not done:
        raise UserError("the data gives a single batch, and a speed takes two or more; try a smaller --batch")
    return images / (time.perf_counter() - started)
