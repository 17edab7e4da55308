"""WebDataset shards: tar files of ``KEY.jpg`` (or .jpeg, .png, .webp) and ``KEY.cls``, the number of its class as text.

Named by a pattern, ``shards/train-{0000..0009}.tar``, or by an index as of ``wids``, with urls relative to its folder:
``{"wids_version": 1, "shardlist": [{"url": "train-0000.tar", "nsamples": 1251}]}``. Beside the index or the shards lies
``classes.json``, a list of names, or ``classes.txt``, one a line.
"""

import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

from .._errors import UserError
from ._objects import read_text
from ._pictures import UNLABELLED, Sample, Stream

SUFFIXES = ("jpg", "jpeg", "png", "webp")
META = r"__[^/]*__($|/)"  # members that webdataset passes over
BUFFER = 1000  # undecoded samples among which a worker shuffles


@dataclass(frozen=True)
class Shard:
    """A tar file and how many samples it should have."""

    url: str
    num_samples: int


class Shards(Stream):
    """Samples of tar files, local or remote."""

    def __init__(self, classes: list[str], shards: list[Shard]):
        self.classes, self.shards = classes, shards

    def __len__(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    def samples(self, worker: int, workers: int, *, seed: int | None, epoch: int, skip: int) -> Iterator[Sample]:
        """See Stream. With a seed each worker shuffles the shards' order, and its samples in a buffer.

        Shards are dealt to the workers; if there are fewer of them than workers, every worker reads all and its samples
        are dealt.
        """
        if seed is None:
            return islice(self._share(self.shards, worker, workers), skip, None)
        return islice(self._endless(worker, workers, f"{seed} {epoch}"), skip, None)

    def _endless(self, worker: int, workers: int, seed: str) -> Iterator[Sample]:
        for turn in count():
            order = self.shards.copy()
            Random(f"{seed} {turn}").shuffle(order)
            share = _shuffled(self._share(order, worker, workers), Random(f"{seed} {turn} {worker}"))
            first = next(share, None)
            if first is None:
                raise UserError(f"{len(self)} samples in shards are too few for {workers} workers")
            yield first
            yield from share

    def _share(self, order: list[Shard], worker: int, workers: int) -> Iterator[Sample]:
        if len(order) < workers:
            return islice(self._read(order), worker, None, workers)
        return self._read(order[worker::workers])

    def _read(self, order: list[Shard]) -> Iterator[Sample]:
        for shard in order:
            yield from _samples(shard, len(self.classes))


def webdataset(name: str) -> tuple[Shards, None]:
    """The samples of a pattern or of an index; shards have no validation part.

    Without an index the headers of all shards are read, to count the samples.

    Raises:
        UserError: no package ``webdataset``; missing or malformed index, class names or shards; remote without index.
    """
    try:
        from braceexpand import braceexpand
        from webdataset.tariterators import base_plus_ext
    except ImportError:
        raise UserError(f"{name} needs the webdataset package: pip install foveal[webdataset]") from None
    if name.endswith(".json"):
        shards = _index(Path(name))
        folders = [Path(name).parent]
    else:
        try:
            urls = list(braceexpand(name))
        except ValueError as error:
            raise UserError(f"{name}: {error}; a pattern is like shards/train-{{0000..0009}}.tar") from None
        if any(map(_is_remote, urls)):
            raise UserError(f"{name} does not say how many samples it has; give an index of these shards, a .json file")
        shards = [Shard(url, _count(Path(url), base_plus_ext)) for url in urls]
        folders = []
    if any(_is_remote(shard.url) for shard in shards) and not shutil.which("curl"):
        raise UserError(f"{name} needs the program curl to read remote shards")
    folders += [Path(shard.url).parent for shard in shards[:1] if not _is_remote(shard.url)]
    return Shards(_classes(name, folders), shards), None


def _is_remote(url: str) -> bool:
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    if scheme and scheme[1].lower() not in ("http", "https"):  # gopen would also run the commands of pipe:
        raise UserError(f"cannot read shard {url}; expected a file, http:// or https://")
    return scheme is not None


def _index(file: Path) -> list[Shard]:
    """Shards of a wids index; raises UserError."""
    expected = '{"wids_version": 1, "shardlist": [{"url": "train-0000.tar", "nsamples": 1000}]}'
    index = _json(file)
    entries = index.get("shardlist") if isinstance(index, dict) and index.get("wids_version") == 1 else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{file} is no index of shards; expected {expected}")
    shards = []
    for number, entry in enumerate(entries, start=1):
        url, num_samples = (entry.get("url"), entry.get("nsamples")) if isinstance(entry, dict) else (None, None)
        if not isinstance(url, str) or type(num_samples) is not int or num_samples < 0:
            raise UserError(f"{file}: shard {number} has no url or no nsamples; expected {expected}")
        if not _is_remote(url):
            url = str(file.parent / url)
            if not Path(url).is_file():
                raise UserError(f"{file}: no such shard: {url}")
        shards.append(Shard(url, num_samples))
    return shards


def _classes(name: str, folders: list[Path]) -> list[str]:
    """Class names of the first file that there is; raises UserError."""
    for file in (folder / name for folder in folders for name in ("classes.json", "classes.txt")):
        if file.is_file():
            break
    else:
        where = " or ".join(map(str, folders))
        raise UserError(f"{name} needs the names of its classes: classes.json or classes.txt in {where}")
    classes = _json(file) if file.suffix == ".json" else read_text(file).splitlines()
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) and name for name in classes):
        raise UserError(f"{file} is no list of class names")
    if len(set(classes)) < len(classes):
        raise UserError(f"{file} has the same class twice: {next(name for name in classes if classes.count(name) > 1)}")
    return classes


def _json(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except (RecursionError, ValueError) as error:
        raise UserError(f"{file} is not JSON: {error}") from None


def _count(file: Path, split: Callable[[str], tuple[str | None, str | None]]) -> int:
    """Samples of a local shard, whose headers alone are read; a damaged rest counts as one.

    Args:
        split: a member's name into key and suffix.

    Raises:
        UserError: the file cannot be read.
    """
    num_samples, last, whole = 0, None, False
    try:
        with open(file, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            while member := tar.next():
                key, _ = split(member.name)
                if member.isreg() and key not in (None, last) and not re.match(META, member.name):
                    num_samples, last = num_samples + 1, key
            stream.seek(tar.offset)
            whole = stream.read(512) == bytes(512)  # the mark of the end; tarfile takes a damaged header for it
    except tarfile.TarError:
        pass
    except OSError as error:
        raise UserError(f"cannot read shard {file}: {error.strerror}") from None
    return num_samples + (not whole)


def _samples(shard: Shard, num_classes: int) -> Iterator[Sample]:
    """The samples of a shard; one that is broken where the shard is."""
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    num_read, last, broken = 0, "", ""
    location = shard.url if _is_remote(shard.url) else str(Path(shard.url).absolute())
    try:
        with gopen(location) as stream:
            for record in group_by_keys(tar_file_expander([{"url": shard.url, "stream": stream}])):
                num_read, last = num_read + 1, record["__key__"]
                yield _sample(record, num_classes)
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        broken = _reason(error)
    if not broken and num_read < shard.num_samples:
        broken = f"the shard ends after {num_read} of {shard.num_samples} samples"
    if broken:
        yield Sample(f"behind {last} in {shard.url}" if last else shard.url, UNLABELLED, broken=broken)


def _sample(record: dict[str, Any], num_classes: int) -> Sample:
    name = f"{record['__key__']} in {record['__url__']}"
    pictures = [record[suffix] for suffix in SUFFIXES if suffix in record]
    if len(pictures) != 1:
        return Sample(name, UNLABELLED, broken=f"{len(pictures)} pictures ({', '.join(SUFFIXES)}), expected one")
    if "cls" not in record:
        return Sample(name, UNLABELLED, broken="no class (.cls)")
    label = record["cls"].decode("ascii", "replace").strip()
    if not label.isdecimal() or int(label) >= num_classes:
        return Sample(name, UNLABELLED, broken=f"class {label[:20]!r}, expected 0 to {num_classes - 1}")
    return Sample(name, int(label), pictures[0])


def _reason(error: Exception) -> str:
    """What happened, without the stream and the command that webdataset adds."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error.args[0]) if error.args else type(error).__name__
    status = re.search(r"exit (-?\d+) \(read\)", text)
    return f"curl failed with status {status[1]}" if status else text.partition(" @ ")[0]


def _shuffled(samples: Iterable[Sample], random: Random) -> Iterator[Sample]:
    """The samples in another order, of which ``BUFFER`` are in memory."""
    held = []
    for sample in samples:
        if len(held) < BUFFER:
            held.append(sample)
            continue
        at = random.randrange(BUFFER)
        yield held[at]
        held[at] = sample
    random.shuffle(held)
    yield from held
