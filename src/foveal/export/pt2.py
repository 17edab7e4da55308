"""Archives of ``torch.export``, run by PyTorch.

Loading one runs code that it may hold: take them from whom you trust.
"""

import json
from pathlib import Path

import numpy as np
import torch

from ._fold import first_of_equal
from ._quiet import quiet
from ._target import Options, Runner, Target, register
from .metadata import KEY
from .prepare import Prepared


def convert(prepared: Prepared, path: Path, text: str, options: Options) -> list[Path]:
    """Write the archive, with the metadata as an extra file; see ``Target``."""
    with quiet():
        program = first_of_equal(prepared.program(() if options.fixed else TARGET.dynamic))
        torch.export.save(program, path, extra_files={KEY: text})
    return [path]


def load(path: Path) -> Runner:
    """Run an archive in eager mode."""
    texts = {KEY: ""}
    with quiet():
        # Guards also refuse maps one position wide, which the graph computes all the same; parity shows it.
        module = torch.export.load(path, extra_files=texts).module(check_guards=False)
    names = [output["name"] for output in json.loads(texts[KEY])["outputs"]]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return {name: value.numpy() for name, value in zip(names, module(torch.from_numpy(images)))}

    return run


def read(path: Path) -> str:
    """The metadata's text."""
    texts = {KEY: ""}
    torch.export.load(path, extra_files=texts)
    return texts[KEY]


TARGET = register(
    Target(
        name="pt2",
        what="an archive of torch.export, for PyTorch itself, also compiled",
        packages=("torch",),
        extra=None,
        suffix=".pt2",
        dynamic=("batch", "height", "width"),
        tolerance={"fp32": 1e-4},
        convert=convert,
        load=load,
        read=read,
        opens='torch.export.load("{}").module(check_guards=False)',
    )
)
