"""ONNX files, run by ONNX Runtime."""

import copy
from pathlib import Path
from typing import Any

import torch

from .._errors import UserError, cause
from ..runtime import File
from ._quiet import quiet
from ._target import Options, Runner, Target, register
from .metadata import KEY
from .prepare import AXES, Prepared
from .quantize import half, static_int8

OPSET = 20


def convert(prepared: Prepared, path: Path, text: str, options: Options) -> list[Path]:
    """Write the file: opset 20, weights inside, axes named batch, height and width; see ``Target``."""
    import onnx

    free = () if options.fixed else TARGET.dynamic
    if free not in prepared.onnx:  # which OpenVINO starts from, too
        prepared.onnx[free] = _exported(prepared, free)
    model = copy.deepcopy(prepared.onnx[free])
    if options.dtype == "fp16":
        model = half(model)
    if options.dtype == "int8":
        model = static_int8(model, options.calibration, options.symmetric, options.keep_float)
    for made in (*model.graph.node, *model.graph.initializer, *model.graph.value_info):
        del made.metadata_props[:]  # of the exporter, a fifth of a small model's file
    onnx.helper.set_model_props(model, {KEY: text})  # in place of the exporter's
    onnx.save(model, path)
    return [path]


def _exported(prepared: Prepared, free: tuple[str, ...]) -> Any:
    """The graph as an ONNX model in float32."""
    program = prepared.program(free)
    try:
        with quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=[output.name for output in prepared.outputs],
                verbose=False,
                optimize=True,
            )
            assert exported is not None
            model = exported.model_proto
    except Exception as error:  # the exporter's errors have no base of their own
        raise UserError(f"ONNX does not take {prepared.source.stem}: {cause(error)}") from None
    if free:
        _name_axes(model)
    return model


def _name_axes(model: Any) -> None:
    """Give the free axes of the images their names, wherever they occur."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {dims[axis].dim_param: name for axis, name in AXES.items()}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def load(path: Path, threads: int = 1) -> Runner:
    """Run a file in ONNX Runtime on the CPU."""
    return File(str(path), threads=threads).run


def read(path: Path) -> str:
    """The metadata's text."""
    return File(str(path), quick=True).notes[KEY]


TARGET = register(
    Target(
        name="onnx",
        what="ONNX, for ONNX Runtime and whatever else reads it",
        packages=("onnx", "onnxscript", "onnxruntime"),
        extra="onnx",
        suffix=".onnx",
        dynamic=("batch", "height", "width"),
        tolerance={"fp32": 1e-4, "fp16": None, "int8": None},
        convert=convert,
        load=load,
        read=read,
        opens="foveal predict {} PICTURE...",
    )
)
