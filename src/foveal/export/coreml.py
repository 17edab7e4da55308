"""Core ML's packages for Apple's systems, which alone can run them; they are written on others, too."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._errors import UserError, cause
from ._quiet import quiet
from ._target import Options, Runner, Target, register
from .metadata import KEY
from .prepare import Prepared


def convert(prepared: Prepared, path: Path, text: str, options: Options) -> list[Path]:
    """Write an ML program for iOS 17, macOS 14 and later; see ``Target``."""
    with quiet():
        import coremltools as ct

        try:
            model: Any = ct.convert(
                _spelled(prepared.program((), layout=False)),
                outputs=[ct.TensorType(name=output.name) for output in prepared.outputs],
                compute_precision=ct.precision.FLOAT16 if options.dtype == "fp16" else ct.precision.FLOAT32,
                minimum_deployment_target=ct.target.iOS17,
                skip_model_load=True,
            )
        except Exception as error:  # no base of their own
            raise UserError(f"Core ML does not take {prepared.source.stem}: {cause(error)}{prepared.advice}") from None
        model.user_defined_metadata[KEY] = text
        model.save(str(path))
    return [path]


def _spelled(program: Any) -> Any:
    """A copy in which operators that coremltools does not know are written as those that it knows."""
    aten = torch.ops.aten
    known = {
        aten.__and__.Tensor: aten.logical_and.default,
        aten.__or__.Tensor: aten.logical_or.default,
        aten.alias.default: aten.clone.default,
    }
    program = program.run_decompositions({})
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        node.target = known.get(node.target, node.target)
        if node.target is aten.where.ScalarOther:
            with graph.inserting_before(node):
                other = graph.call_function(aten.full.default, ([], float(node.args[2])))
            other.meta["val"] = node.meta["val"].new_full([], float(node.args[2]))
            node.target, node.args = aten.where.self, (*node.args[:2], other)
    program.graph_module.recompile()
    return program


def load(path: Path) -> Runner:
    """Run a package by Core ML on the CPU."""
    with quiet():
        import coremltools as ct

        model: Any = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.CPU_ONLY)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return model.predict({"images": images})

    return run


def read(path: Path) -> str:
    """The metadata's text."""
    with quiet():
        import coremltools as ct

        return ct.models.MLModel(str(path), skip_model_load=True).user_defined_metadata[KEY]


TARGET = register(
    Target(
        name="coreml",
        what="Core ML, for Apple's systems",
        packages=("coremltools",),
        extra="coreml",
        suffix=".mlpackage",
        dynamic=(),
        tolerance={"fp32": 1e-4, "fp16": None},
        convert=convert,
        load=load,
        read=read,
        opens='coremltools.models.MLModel("{}")',
        system="Darwin",
    )
)
