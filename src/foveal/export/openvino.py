"""OpenVINO's intermediate representation, by way of ONNX, run by OpenVINO."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import UserError, cause
from . import onnx
from ._target import Options, Runner, Target, register
from .metadata import KEY
from .prepare import Prepared


def convert(prepared: Prepared, path: Path, text: str, options: Options) -> list[Path]:
    """Write .xml and .bin: with fp16 the weights alone are float16; int8 is that of the ONNX file; see ``Target``."""
    import openvino

    # OpenVINO cannot compile products of uint8 whose zero is not in the middle.
    dtype = "int8" if options.dtype == "int8" else "fp32"
    onnx_options = replace(options, dtype=dtype, symmetric=True)
    with tempfile.TemporaryDirectory() as folder:
        (source,) = onnx.convert(prepared, Path(folder) / "model.onnx", text, onnx_options)
        try:
            model = openvino.Core().read_model(source)  # and not convert_model, which reports its use
        except Exception as error:  # openvino's errors have no base of their own
            raise UserError(f"OpenVINO does not take {prepared.source.stem}: {cause(error)}") from None
        _take_first_of_equal(model)
        model.set_rt_info(text, [KEY])
        openvino.save_model(model, path, compress_to_fp16=options.dtype == "fp16")
    return [path, path.with_suffix(".bin")]


def _take_first_of_equal(model: Any) -> None:
    """Let every top-k take the first ones of equal values, as ONNX has it and OpenVINO does not read it."""
    from openvino import opset11
    from openvino.utils import replace_node

    for node in [node for node in model.get_ops() if node.get_type_name() == "TopK"]:
        made = node.get_attributes()
        given = node.input_value(0), node.input_value(1), made["axis"], made["mode"], "value"
        replace_node(node, opset11.topk(*given, made["index_element_type"], stable=True))


def load(path: Path, threads: int = 1) -> Runner:
    """Run a file in OpenVINO on the CPU, in the precision that it has."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(path, "CPU", settings)
    names = [output.get_any_name() for output in model.outputs]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in zip(names, model(images).values())}

    return run


def read(path: Path) -> str:
    """The metadata's text."""
    import openvino

    return openvino.Core().read_model(path).get_rt_info([KEY]).astype(str)


TARGET = register(
    Target(
        name="openvino",
        what="OpenVINO, for Intel's and Arm's processors",
        packages=("onnx", "onnxscript", "openvino"),
        extra="openvino",
        suffix=".xml",
        dynamic=("batch", "height", "width"),
        tolerance={"fp32": 1e-4, "fp16": None, "int8": None},
        convert=convert,
        load=load,
        read=read,
        opens='openvino.Core().compile_model("{}")',
    )
)
