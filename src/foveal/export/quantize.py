"""Smaller ONNX graphs: half precision, and static int8 from calibration pictures."""

import ast
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import UserError, first_line
from ._quiet import quiet

OPERATORS = ("Conv", "ConvTranspose", "MatMul", "Gemm")  # that become int8
ROOT = "model."  # of names in the graph


def half(model: Any) -> Any:
    """An ONNX model whose weights and arithmetic are float16; images and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True)


def static_int8(model: Any, images: Sequence[np.ndarray], symmetric: bool, keep_float: Sequence[str] = ()) -> Any:
    """An ONNX model with int8 convolutions and products, ranges from batches of images (QDQ).

    Args:
        symmetric: zero of activations is the middle of their range, and a weight has one scale; otherwise zero is
            where it is, and each channel of a weight has a scale, which costs nothing and loses less.
        keep_float: parts of the model that stay float32, such as ``stages.3``.

    Raises:
        UserError: no pictures to calibrate with, a part in which nothing would be int8, an operator that cannot be
            quantised.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    if not images:
        raise UserError("int8 takes its ranges from pictures; give --data or --images")
    kept = _inside(model, keep_float)

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rest = iter(images)

        def get_next(self) -> Any:
            batch = next(self.rest, None)
            return None if batch is None else {"images": batch}

    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        try:
            with quiet():  # it asks for a preprocessing that fails on graphs of this exporter
                quantize_static(
                    source,
                    out,
                    Reader(),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=[*OPERATORS],
                    nodes_to_exclude=kept,
                    per_channel=not symmetric,
                    activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    extra_options={"ActivationSymmetric": symmetric},
                )
        except Exception as error:  # no base of their own
            raise UserError(f"ONNX Runtime cannot quantise this graph: {first_line(error)}") from None
        return onnx.load(out)


def _inside(model: Any, parts: Sequence[str]) -> list[str]:
    """Names of the nodes that int8 would change and that lie in one of the parts."""
    places, place = {}, ""
    for node in model.graph.node:
        if node.op_type in OPERATORS:  # one without weights may have lost its place; it follows one that has it
            scopes = [x.value for x in node.metadata_props if x.key == "pkg.torch.onnx.name_scopes"]
            named = [*node.input, *(name for text in scopes for name in ast.literal_eval(text)[::-1])]
            place = next((name for name in named if name.startswith(ROOT)), place)
            places[node.name] = place.removeprefix(ROOT)
    kept: list[str] = []
    for part in parts:
        inside = [name for name, place in places.items() if f"{place}.".startswith(f"{part}.")]
        if not inside:
            known = ", ".join(dict.fromkeys(place.split(".")[0] for place in places.values()))
            raise UserError(f"nothing is int8 in a part {part!r}; parts are {known}, and what is inside of them")
        kept += inside
    return kept
