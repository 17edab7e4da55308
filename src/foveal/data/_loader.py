"""How pictures become batches: in an order, and with augmentations, that depend on seed, epoch and position alone.

So nothing of a loader has to be stored for a run to go on exactly where it stopped. For lists neither the number of
workers nor that of processes changes what is trained on; shards are dealt to the workers of all processes.
"""

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate, get_worker_info

from .._errors import UserError
from ._arrays import collate
from ._decode import BadImage
from ._pictures import Pictures, Stream

GRACE_SECONDS = 60


class Batches:
    """Batches of one process; to be used in a ``with`` statement, which ends the workers.

    A batch is what ``stack`` makes of B samples, with "bad", the messages of unreadable pictures; of labelled pictures
    {"image": [B, 3, H, W], "label": [B], "name": B names, "bad": list}.
    With a seed (training) they are shuffled and full: unreadable pictures are replaced by others of the batch, and what
    is left of an epoch behind the last batch of all processes is dropped. Without one (evaluation) every picture comes
    once over all processes, in order, and unreadable ones are left out; a batch without any has no more than "name",
    which is empty, and "bad".

    Args:
        data: pictures in a list, or a stream of shards.
        transform: from a sample {"image": RGB picture, "name": str} with the picture's annotation, and a function that
            draws another such sample at random, to a sample that can be stacked; see ``OnImage``.
        batch_size: B, of this process.
        seed: of order and augmentation.
        workers: processes that read; 0 reads in this one.
        rank: this process among ``world``.
        pin_memory: for copies to an accelerator.
        stack: from samples to a batch.

    Raises:
        UserError: a batch of all processes is larger than the data.
    """

    def __init__(
        self,
        data: Pictures | Stream,
        transform: Callable,
        batch_size: int,
        *,
        seed: int | None = None,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        pin_memory: bool = False,
        stack: Callable[[list[dict]], dict] = default_collate,
    ):
        self.data, self.transform, self.batch_size, self.seed = data, transform, batch_size, seed
        self.workers, self.rank, self.world = workers, rank, world
        self.options: dict[str, Any] = dict(
            num_workers=workers,
            pin_memory=pin_memory,
            worker_init_fn=_start_worker if workers else None,
            collate_fn=partial(collate, stack=stack, fill=seed is not None),
        )
        if seed is not None and len(data) < batch_size * world:
            raise UserError(
                f"a batch of {batch_size * world} is larger than the {len(data)} training pictures; "
                f"--batch-size can be {len(data) // world} at most"
            )
        self.loader: DataLoader | None = None
        self.iterator: Any = None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        """End the workers."""
        if self.workers and self.iterator is not None:
            self.iterator._shutdown_workers()

    def __len__(self) -> int:
        """Batches of this process an epoch."""
        if self.seed is not None:
            return len(self.data) // (self.batch_size * self.world)
        return -(-len(range(self.rank, len(self.data), self.world)) // self.batch_size)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[dict]:
        """The batches of an epoch, from number ``start`` on."""
        if isinstance(self.data, Stream):
            place = epoch, start, self.batch_size, self.seed, self.rank, self.world
            stream = _Streamed(self.data, self.transform, *place)
            self.iterator = iter(DataLoader(stream, batch_size=self.batch_size, **self.options))
            return islice(self.iterator, None if self.seed is None else len(self) - start)
        if self.loader is None:  # one for all epochs, so that its workers live on
            self.loader = DataLoader(
                _Listed(self.data, self.transform, self.seed),
                batch_sampler=_Order(),
                persistent_workers=self.workers > 0,
                **self.options,
            )
        order: Any = self.loader.batch_sampler
        order.batches = self._indices(epoch, start)
        self.iterator = iter(self.loader)
        return self.iterator

    def _indices(self, epoch: int, start: int) -> Iterator[list[tuple[int, int]]]:
        """(epoch, index) of each picture of this process's batches."""
        B, N = self.batch_size, len(self.data)
        if self.seed is None:
            mine = torch.arange(self.rank, N, self.world)
        else:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(N, generator=generator)[: len(self) * B * self.world]
            mine = order.view(-1, self.world, B)[:, self.rank].flatten()
        for batch in mine[start * B :].split(B):
            yield [(epoch, index) for index in batch.tolist()]


class _Order(Sampler[list[tuple[int, int]]]):
    """The batches of the epoch that comes next, as (epoch, index)."""

    batches: Iterator[list[tuple[int, int]]]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.batches


class _Listed(Dataset):
    def __init__(self, pictures: Pictures, transform: Callable, seed: int | None):
        self.pictures, self.transform, self.seed = pictures, transform, seed

    def __getitem__(self, item: tuple[int, int]) -> dict:
        epoch, index = item
        if self.seed is not None:
            _draw_from(self.seed, epoch, index)
        try:
            sample = self.pictures.sample
            return self.transform(sample(index), lambda: sample(random.randrange(len(self.pictures))))
        except BadImage as error:
            return {"bad": str(error)}


@dataclass(eq=False)
class _Streamed(IterableDataset):
    """This process's share of a stream; the loader takes a batch from each of its workers in turn."""

    data: Stream
    transform: Callable
    epoch: int
    start: int
    batch_size: int
    seed: int | None
    rank: int
    world: int

    def __iter__(self) -> Iterator[dict]:
        info = get_worker_info()
        id, workers = (info.id, info.num_workers) if info else (0, 1)
        worker = (self.start + id) % workers  # batch b of the epoch is that of worker b % workers
        done = len(range(worker, self.start, workers)) * self.batch_size
        number = self.rank * workers + worker
        samples = self.data.samples(number, workers * self.world, seed=self.seed, epoch=self.epoch, skip=done)
        for position, sample in enumerate(samples, start=done):
            try:
                found = sample.sample()
            except BadImage as error:
                yield {"bad": str(error)}
                continue
            if self.seed is not None:
                _draw_from(self.seed, self.epoch, number, position)
            yield self.transform(found, _no_other)


def _no_other() -> dict:
    raise UserError("a stream of shards has no other picture to mix in; leave mosaic and copy-paste out")


def _draw_from(*numbers: int) -> None:
    """Random numbers from here on are functions of ``numbers``, and of the order in which they are drawn."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % 2**32
    random.seed(mixed)
    np.random.seed(mixed)
    torch.default_generator.manual_seed(mixed)


def _start_worker(_: int) -> None:
    """A worker lives as long as its main process.

    Ctrl-C and SIGTERM may reach the whole group of processes, but the main one decides what they mean: a worker obeys
    SIGTERM when there has been time to finish a step and save it. It also ends with a main process that was killed,
    which PyTorch sees only where the two are parent and child (not under multiprocessing's forkserver).
    """
    threading.Thread(target=_end_with_main, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))


def _end_with_main() -> None:
    main = multiprocessing.parent_process()
    if main is not None:
        main.join()
        os._exit(1)
