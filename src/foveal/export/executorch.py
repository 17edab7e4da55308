"""ExecuTorch programs for phones, computed by XNNPACK, run by ExecuTorch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from .._errors import UserError, cause
from ._fold import first_of_equal
from ._quiet import quiet
from ._target import Options, Runner, Target, register
from .prepare import Prepared

SHAPES = (  # operators that move values, which XNNPACK takes with one free size at most
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
ATEN = torch.ops.aten
AXES = 6  # that XNNPACK has
LARGEST = 2  # memory is planned for images of so many times the example's sides, and of its batch


def convert(prepared: Prepared, path: Path, text: str, options: Options) -> list[Path]:
    """Write the program, and beside it a .json with the metadata; see ``Target``."""
    free = () if options.fixed else TARGET.dynamic
    height, width = prepared.traced(free)
    most = {"batch": 2 * LARGEST, "height": LARGEST * height, "width": LARGEST * width}
    program = prepared.program(free, most if free else None, layout=False)
    called = [node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    if absent := sorted({operator.name() for operator in called if operator.namespace == "torchvision"}):
        raise UserError(f"ExecuTorch has no {', '.join(absent)}, which {prepared.source.stem} needs{prepared.advice}")
    with quiet():
        from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS  # pyright: ignore[reportMissingImports]
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # pyright: ignore[reportMissingImports]
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower  # pyright: ignore[reportMissingImports]

        try:
            program = first_of_equal(program).run_decompositions(
                {ATEN.scaled_dot_product_attention.default: _attention}
            )
            checks = EdgeCompileConfig(_check_ir_validity=False)
            partitioner = XnnpackPartitioner(configs=[_limited(rule) for rule in ALL_PARTITIONER_CONFIGS])
            edge = to_edge_transform_and_lower(program, partitioner=[partitioner], compile_config=checks)
            edge.to_executorch().save(str(path))
        except Exception as error:  # no base of their own
            raise UserError(f"ExecuTorch does not take {prepared.source.stem}: {cause(error)}") from None
    beside = path.with_suffix(".json")
    beside.write_text(text)
    return [path, beside]


def _attention(*args: Any, **kwargs: Any) -> torch.Tensor:
    """As products: ExecuTorch's own form of it comes out in a layout that the views behind it do not expect."""
    return ATEN._scaled_dot_product_attention_math(*args, **kwargs)[0]


def _limited(rule: Any) -> Any:
    """A rule of what XNNPACK computes, without what its runtime cannot load."""
    moves = rule.__name__.removesuffix("Config") in SHAPES

    class Limited(rule):
        def check_constraints(self, node: torch.fx.Node, ep: ExportedProgram) -> bool:
            values = [one.meta.get("val") for one in (node, *node.all_input_nodes)]
            tensors = [value for value in values if isinstance(value, torch.Tensor)]
            free = moves and any(not isinstance(side, int) for value in tensors for side in value.shape)
            fits = not free and all(value.ndim <= AXES for value in tensors)
            return fits and super().check_constraints(node, ep)

    return Limited


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
