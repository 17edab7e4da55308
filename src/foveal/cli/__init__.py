"""The command line: one thin file per command.

Its ``main`` is a typed function, whose arguments tyro makes flags of; a command with more than one form has ``parse``,
which gets the words.
"""

import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import tyro

from .. import __version__
from .._errors import UserError, unknown

COMMANDS = {
    "train": "train a classifier, a detector, a segmenter; without arguments a small classifier on built-in pictures",
    "eval": "how good a model is on labelled pictures: accuracy, average precision, mean IoU",
    "predict": "label pictures or their pixels, find objects in pictures and videos",
    "demo": "a page on this machine on which a model is tried",
    "export": "write a model for other runtimes, each file run and compared",
    "models": "foveal's models, and the weights that come with it",
    "push": "share a trained model on the Hugging Face Hub",
    "data": "formats of data, and what is wrong with some",
    "study": "train what is compared, and write what it shows",
    "bench": "cost and speed of several models side by side",
    "analyze": "the thesis's figures for any model: spectra, attention, interactions, and what else it does",
    "tables": "the thesis's tables: reported beside measured here",
}

REPORTED = ("torch", "torchvision", "timm", "onnxruntime")  # whose versions --version adds
TORCH = ("torch", "torchvision", "timm", "safetensors")  # what exported files do without
FLAGS = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)


def main(argv: list[str] | None = None) -> int:
    """Run a command; return its exit code: 0, or 2 behind one line on standard error."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: foveal COMMAND ...   (foveal COMMAND --help says more)\n")
        for name, what in COMMANDS.items():
            print(f"  {name:8s} {what}")
        print("\nnext: foveal train")
        return 0
    if argv[0] == "--version":
        print(", ".join(versions()))
        return 0
    try:
        if argv[0] not in COMMANDS:
            raise unknown("command", argv[0], COMMANDS)
        command = import_module(f".{argv[0]}", __name__)
        if hasattr(command, "parse"):
            return command.parse(argv[1:])
        return tyro.cli(command.main, args=argv[1:], prog=f"foveal {argv[0]}", config=FLAGS)
    except ModuleNotFoundError as error:
        if error.name not in TORCH:
            raise
        said = f"without {error.name} there are predict, eval and demo of .onnx files alone: pip install foveal"
        print(f"foveal: {said}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"foveal: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("foveal: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads has read enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def versions() -> Iterator[str]:
    """Name and version of foveal and of what most of it rests on, as far as that is installed."""
    yield f"foveal {__version__}"
    yield f"python {platform.python_version()}"
    for name in REPORTED:
        with suppress(PackageNotFoundError):
            yield f"{name} {version(name)}"


def changed(options: Any) -> dict[str, Any]:
    """The fields of a dataclass of options; None for what is as it is by default."""
    default = type(options)()
    return {name: value if value != getattr(default, name) else None for name, value in vars(options).items()}


def check_needs(*needs: tuple[str, bool, str, bool]) -> None:
    """Raise UserError for a flag given without what it needs: the flag, whether it is there, and the same of that."""
    for flag, given, needed, there in needs:
        if given and not there:
            raise UserError(f"{flag} has no effect without {needed}")


def check_unused(given: dict[str, Any], kind: str) -> None:
    """Raise UserError for options, by their names, that are given and that a kind of model has no use for."""
    flags = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if flags:
        raise UserError(f"{', '.join(flags)}: no effect on {kind}")
