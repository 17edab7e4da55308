"""Batches of arrays, in order: what evaluation needs where there is no PyTorch."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
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
        self.pool = ThreadPoolExecutor(workers) if workers else None

    def __enter__(self) -> "ArrayBatches":
        return self

    def __exit__(self, *_) -> None:
        """End the threads."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def epoch(self) -> Iterator[dict]:
        """All batches, each with "bad", the messages of pictures that cannot be read."""
        samples = self._samples()
        while batch := list(islice(samples, self.batch_size)):
            yield collate(batch, self.stack)

    def _samples(self) -> Iterator[dict]:
        """Samples in order."""
        if self.pool is None:
            yield from map(self._sample, self._readers())
            return
        ahead: deque[Any] = deque()
        for read in self._readers():
            ahead.append(self.pool.submit(self._sample, read))
            if len(ahead) > AHEAD * self.batch_size:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _readers(self) -> Iterator[Callable[[], dict]]:
        """What reads each sample."""
        if isinstance(self.data, Stream):
            return (sample.sample for sample in self.data.samples(0, 1, seed=None, epoch=0, skip=0))
        return (partial(self.data.sample, index) for index in range(len(self.data)))

    def _sample(self, read: Callable[[], dict]) -> dict:
        try:
            return self.transform(read(), dict)
        except BadImage as error:
            return {"bad": str(error)}


def collate(samples: list[dict], stack: Callable[[list[dict]], dict], fill: bool = False) -> dict:
    """A batch of the readable samples; to ``fill`` it, they stand in for the others."""
    good = [sample for sample in samples if "bad" not in sample]
    bad = [sample["bad"] for sample in samples if "bad" in sample]
    if not good:
        return {"name": [], "bad": bad}
    if fill:
        good += [good[i % len(good)] for i in range(len(bad))]
    return stack(good) | {"bad": bad}


def stack_labelled(samples: list[dict]) -> dict:
    """Samples with images of one size -> {"image": [B, 3, H, W], "label": [B], "name": B names}."""
    batch: dict[str, Any] = {name: [sample[name] for sample in samples] for name in ("image", "label", "name")}
    return batch | {"image": np.stack(batch["image"]), "label": np.array(batch["label"])}
