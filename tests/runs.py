"""What the tests of training share: small data, small runs, and processes that die when they are told to."""

import io
import json
import math
import multiprocessing
import os
import resource
import signal
import socket
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from foveal.cli import main
from foveal.engine.checkpoint import replacing
from foveal.tasks import write_config

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["foveal.cli.train", "runs"])


def make_folder(root: Path, train: int = 24, val: int = 7, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Pictures of noise about a grey that is the class's, in root/train and root/val."""
    random = np.random.default_rng(0)
    for part, number in (("train", train), ("val", val)):
        for i, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for j in range(number):
                pixels = random.normal(60 + 120 * i / max(1, len(classes) - 1), 40, (40, 48, 3)).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{j}.png")
    return root


def foveal_command(*args) -> SimpleNamespace:
    """Exit code, output and errors of a command in this process, also for fixtures of more than one test."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(arg) for arg in args])
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def small_run(data: Path, out: Path, *extra: str) -> list[str]:
    """Arguments of a run of two epochs of 12 steps with all that is random in it."""
    model = '--model test_mat --model-args {"drop_path_rate":0.1,"drop_rate":0.1}'
    fixed = "--image-size 32 --batch-size 4 --epochs 2 --warmup-epochs 0.5 --random-erasing 0.3 --mixup 0.2 --workers 0"
    policy = "--auto-augment rand-m5-mstd0.5"
    return [*f"{model} {fixed} {policy} --data {data} --out {out}".split(), *extra]


def execute_here(
    argv: list[str], die_at: int | None, number: int, environment: dict[str, str], said: Path | None, space: int | None
) -> None:
    """Target of a process: ``foveal train``, which sends itself a signal at the start of a step."""
    from foveal.engine import loop

    os.environ.update(environment)
    if said is not None:
        sys.stderr = said.open("a", buffering=1)
    if space is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (space, space))
    torch.set_num_threads(1)
    step = loop.train_step

    def dying(training, *args):
        if training.step == die_at:
            os.kill(os.getpid(), number)
        return step(training, *args)

    loop.train_step = dying
    raise SystemExit(main(["train", *argv]))


def execute(
    argv: list[str],
    die_at: int | None = None,
    number: int = signal.SIGKILL,
    said: Path | None = None,
    space: int | None = None,
) -> int:
    """``foveal train`` in a fresh process; returns its exit code, negative for a signal.

    Args:
        die_at: step at whose start it sends itself the signal ``number``.
        said: file for its standard error.
        space: bytes that a file can have; beyond them the disk is full.
    """
    return execute_all([argv], die_at, number, said, space)[0]


def execute_all(
    argvs: list[list[str]],
    die_at: int | None = None,
    number: int = signal.SIGKILL,
    said: Path | None = None,
    space: int | None = None,
) -> list[int]:
    """The same in several processes that train together, if there are several."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank, argv in enumerate(argvs):
        environment = {}
        if len(argvs) > 1:
            environment = dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(len(argvs)))
            environment |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        process = CONTEXT.Process(target=execute_here, args=(argv, die_at, number, environment, said, space))
        process.start()
        processes.append(process)
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in processes]


def save_model(model, config: dict, folder: Path) -> None:
    """A folder of weights; it is replaced whole, or not at all."""
    with replacing(folder) as fresh:
        save_file(model.state_dict(), fresh / "model.safetensors")
        write_config(model, config, fresh / "config.json")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def state(out: Path) -> dict:
    return torch.load(out / "last" / "state.pt", weights_only=True)


def lines(out: Path) -> list[dict]:
    """The epochs' figures, without those that are times."""
    read = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if k not in ("images_per_second", "data_wait")} for line in read]
    return [{k: math.nan if v is None else v for k, v in line.items()} for line in kept]


def same(a, b) -> bool:
    """Whether two trees of tensors and numbers are equal to the last bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


def without_compiler(monkeypatch) -> list[type]:
    """Leave out the C++ backend, since a machine may have no compiler; the list gets the classes that are compiled."""
    compiled, compile_ = [], torch.nn.Module.compile

    def noted(module: torch.nn.Module, **args) -> None:
        compiled.append(type(module))
        compile_(module, **args, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", noted)
    return compiled
