"""Smaller ONNX graphs: half precision, and static int8 from calibration pictures."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import UserError, first_line


def half(model: Any) -> Any:
    """An ONNX model whose weights and arithmetic are float16; images and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True, op_block_list=None)


def static_int8(model: Any, images: Sequence[np.ndarray]) -> Any:
    """An ONNX model with int8 convolutions and products, ranges from batches of images (QDQ, weights by channel).

    Raises:
        UserError: no pictures to calibrate with, an operator that cannot be quantised.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    if not images:
        raise UserError("int8 takes its ranges from pictures; give --data or --images")

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rest = iter(images)

        def get_next(self):
            batch = next(self.rest, None)
            return None if batch is None else {"images": batch}

    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        try:
            quantize_static(
                source,
                out,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "MatMul", "Gemm"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # no base of their own
            raise UserError(f"ONNX Runtime cannot quantise this graph: {first_line(error)}") from None
        return onnx.load(out)
