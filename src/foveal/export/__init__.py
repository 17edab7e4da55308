"""Models of any task in other runtimes: one file per target, one graph for all; what is written is run and compared."""

from . import coreml, executorch, onnx, openvino, pt2, web  # noqa: F401 - the import enters a target into TARGETS
from ._export import Exported, export, file_of, text_of
from ._source import Source, load_source
from ._target import TARGETS, Options, Target, find
from .evaluate import calibration, evaluate
from .layout import LAYOUTS, check_free
from .metadata import KEY, metadata
from .parity import Parity, built_in, compare
from .prepare import Prepared, prepare

__all__ = [
    "KEY",
    "LAYOUTS",
    "TARGETS",
    "Exported",
    "Options",
    "Parity",
    "Prepared",
    "Source",
    "Target",
    "built_in",
    "calibration",
    "check_free",
    "compare",
    "evaluate",
    "export",
    "file_of",
    "find",
    "load_source",
    "metadata",
    "prepare",
    "text_of",
]
