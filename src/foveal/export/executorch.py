"""ExecuTorch programs for phones, computed by XNNPACK, run by ExecuTorch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._errors import UserError, cause
from ._quiet import quiet
from ._target import Options, Runner, Target, register
from .prepare import Prepared

SHAPES = (  # operators that move values, which XNNPACK takes with one free size and six axes at most
    "Cat",
    "Clone",
    "CloneDimOrder",
    "ConstantPad",
    "Permute",
    "SliceCopy",
    "ToDimOrderCopy",
    "UnsqueezeCopy",
    "ViewCopy",
)
LARGEST = 2  # memory is planned for images of so many times the example's sides, and of its batch


def convert(prepared: Prepared, path: Path, text: str, options: Options) -> list[Path]:
    """Write the program, and beside it a .json with the metadata; see ``Target``."""
    free = () if options.fixed else TARGET.dynamic
    height, width = prepared.traced(free)
    most = {"batch": 2 * LARGEST, "height": LARGEST * height, "width": LARGEST * width}
    program = prepared.program(free, most if free else None, layout=False)
    with quiet():
        from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS  # pyright: ignore[reportMissingImports]
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # pyright: ignore[reportMissingImports]
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower  # pyright: ignore[reportMissingImports]

        try:
            checks = EdgeCompileConfig(_check_ir_validity=False)
            taken = [c for c in ALL_PARTITIONER_CONFIGS if c.__name__.removesuffix("Config") not in SHAPES]
            partitioner = XnnpackPartitioner(configs=taken)
            edge = to_edge_transform_and_lower(program, partitioner=[partitioner], compile_config=checks)
            edge.to_executorch().save(str(path))
        except Exception as error:  # no base of their own
            raise UserError(f"ExecuTorch does not take {prepared.source.stem}: {cause(error)}") from None
    beside = path.with_suffix(".json")
    beside.write_text(text)
    return [path, beside]


def load(path: Path) -> Runner:
    """Run a program by ExecuTorch's runtime for Python, in which XNNPACK is."""
    from executorch.runtime import Runtime  # pyright: ignore[reportMissingImports]

    method: Any = Runtime.get().load_program(path).load_method("forward")
    names = [output["name"] for output in json.loads(path.with_suffix(".json").read_text())["outputs"]]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        values = method.execute([torch.from_numpy(np.ascontiguousarray(images))])
        return {name: value.numpy().copy() for name, value in zip(names, values)}

    return run


def read(path: Path) -> str:
    """The metadata's text."""
    return path.with_suffix(".json").read_text()


TARGET = register(
    Target(
        name="executorch",
        what="ExecuTorch with XNNPACK, for phones and small boards",
        packages=("executorch",),
        extra="executorch",
        suffix=".pte",
        dynamic=("batch", "height", "width"),
        tolerance={"fp32": 1e-4},
        convert=convert,
        load=load,
        read=read,
        opens='executorch.runtime.Runtime.get().load_program("{}")',
    )
)
