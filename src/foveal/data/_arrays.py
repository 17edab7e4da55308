"""Batches of arrays, in order: what evaluation needs where there is no PyTorch."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from ._decode import BadImage
from ._pictures import Pictures, Stream

AHEAD = 2  # batches that threads may read before they are asked for


class OnImage:
    """A transform of samples from one of pictures."""

    def __init__(self, transform: Callable):
        self.transform = transform

    def __call__(self, sample: dict, draw: Callable[[], dict]) -> dict:
        return sample | {"image": self.transform(sample["image"])}


class ArrayBatches:
    """Batches to evaluate on, as ``Batches`` gives them, but of arrays; to be used in a ``with`` statement.

    Args:
        data: pictures in a list, or a stream of shards.
        transform: from a sample {"image": RGB picture, "name": str} with the picture's annotation, and a function that
            is not called, to a sample of arrays.
        batch_size: number of samples.
        workers: threads that read; 0 reads in between.
        stack: from samples to a batch; without it labelled images become {"image", "label", "name"}.
    """

    def __init__(
        self,
        data: Pictures | Stream,
        transform: Callable,
        batch_size: int,
        *,
        workers: int = 0,
        stack: Callable[[list[dict]], dict] | None = None,
    ):
        self.data, self.transform, self.batch_size, self.stack = data, transform, batch_size, stack or stack_labelled
        self.workers, self.pool = workers, ThreadPoolExecutor(workers) if workers else None

    def __enter__(self) -> "ArrayBatches":
        return self

    def __exit__(self, *_) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def epoch(self) -> Iterator[dict]:
        """All batches, each with "bad", the messages of pictures that cannot be read."""
        waiting: list[dict] = []
        for sample in self._read():
            waiting.append(sample)
            if len(waiting) == self.batch_size:
                yield self._batch(waiting)
                waiting = []
        if waiting:
            yield self._batch(waiting)

    def _batch(self, samples: list[dict]) -> dict:
        good = [sample for sample in samples if "bad" not in sample]
        bad = [sample["bad"] for sample in samples if "bad" in sample]
        return (self.stack(good) if good else {"name": []}) | {"bad": bad}

    def _read(self) -> Iterator[dict]:
        """Samples in order."""
        if self.pool is None:
            yield from (make() for make in self._samples())
            return
        ahead: deque[Any] = deque()
        for make in self._samples():
            ahead.append(self.pool.submit(make))
            if len(ahead) > AHEAD * self.batch_size:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _samples(self) -> Iterator[Callable[[], dict]]:
        if isinstance(self.data, Stream):
            for sample in self.data.samples(0, 1, seed=None, epoch=0, skip=0):
                yield partial(self._made, sample.sample)
        else:
            for index in range(len(self.data)):
                yield partial(self._made, partial(self.data.sample, index))

    def _made(self, read: Callable[[], dict]) -> dict:
        try:
            return self.transform(read(), dict)
        except BadImage as error:
            return {"bad": str(error)}


def stack_labelled(samples: list[dict]) -> dict:
    """Samples with images of one size -> {"image": [B, 3, H, W], "label": [B], "name": B names}."""
    batch: dict[str, Any] = {name: [sample[name] for sample in samples] for name in ("image", "label", "name")}
    return batch | {"image": np.stack(batch["image"]), "label": np.array(batch["label"])}
