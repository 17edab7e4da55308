"""An ONNX file: what it says of itself, and how it runs."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._classes import match_classes
from .._errors import UserError, first_line

KEY = "foveal"  # of the metadata, a JSON text; foveal.export.metadata says what is in it
VERSION = 1

# Wheels of ONNX Runtime report to their maker from their import on, unless they are told before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def is_exported(name: str) -> bool:
    """Whether a name is that of an exported file."""
    return Path(name).suffix == ".onnx"


class File:
    """An ONNX file with images as its only input, in ONNX Runtime on the CPU.

    Args:
        name: its path.
        quick: to be asked and not to be run.
        threads: of the processor; 0 leaves it to ONNX Runtime.

    Attributes:
        about: its metadata under ``KEY``; None in a file that foveal has not written.
        notes: all metadata, as text.
        batch: how many images it takes at once; None for any number.
        size: height and width of the images in pixels; None where they are free.

    Raises:
        UserError: no such file, onnxruntime is not installed, no ONNX model, malformed metadata.
    """

    def __init__(self, name: str, quick: bool = False, threads: int = 0):
        if not Path(name).is_file():
            raise UserError(f"no such file: {name}")
        try:
            import onnxruntime
        except ImportError:
            raise UserError("an ONNX file needs onnxruntime: pip install 'foveal[runtime]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors are raised
        if quick:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self.session = onnxruntime.InferenceSession(name, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise UserError(f"cannot load {name}: {first_line(error)}") from None
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            raise UserError(f"{name} has other inputs than images: expected one of float32 [B, 3, H, W]")
        self.name, self.input = name, inputs[0].name
        self.batch, _, height, width = (side if isinstance(side, int) else None for side in inputs[0].shape)
        self.size = None if height is None or width is None else (height, width)
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.notes: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        self.about: dict[str, Any] | None = None
        if KEY in self.notes:
            try:
                self.about = dict(json.loads(self.notes[KEY]))
            except (RecursionError, TypeError, ValueError) as error:
                raise self.malformed(error) from None
            if self.about.get("version") != VERSION:
                raise UserError(f"{name} has metadata of version {self.about.get('version')}, expected {VERSION}")

    def malformed(self, error: Exception) -> UserError:
        """The error for metadata in which something is missing or of a wrong kind."""
        what = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        return UserError(f"{self.name} has malformed metadata: {what}")

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Images [B, 3, H, W] -> the outputs by their names.

        Raises:
            UserError: images of a size that the file does not take.
        """
        size = self.batch or len(images)
        parts = []
        for first in range(0, len(images), size):
            part = images[first : first + size]
            if len(part) < size:  # where the number is fixed
                part = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
            try:
                parts.append(self.session.run(None, {self.input: np.ascontiguousarray(part)}))
            except Exception as error:  # as above
                raise UserError(f"{self.name} does not run at this setting: {first_line(error)}") from None
        if len(parts) == 1 and size == len(images):
            return dict(zip(self.outputs, parts[0]))
        return {name: np.concatenate(values)[: len(images)] for name, values in zip(self.outputs, zip(*parts))}


class Model:
    """What the models of all tasks over a backbone share.

    Attributes:
        name: what it was loaded from.
        about: the file's metadata.
        config: its preprocessing.
        classes: their names.

    Raises:
        UserError: malformed metadata.
    """

    needs: tuple[str, ...] = ()  # outputs that the file must have

    def __init__(self, file: File):
        assert file.about is not None
        self.file, self.name, self.about = file, file.name, file.about
        try:
            self.config: dict[str, Any] = dict(self.about["preprocessing"])
            self.classes: list[str] = [str(name) for name in self.about["classes"]]
            self.decoding: dict[str, Any] = dict(self.about["decoding"])
            self.mean, self.std = (tuple(map(float, self.config[name])) for name in ("mean", "std"))
            self._read()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise file.malformed(error) from None
        if missing := [name for name in self.needs if name not in file.outputs]:
            raise UserError(f"{self.name} has no output {', '.join(missing)}: export it without --raw")

    def _read(self) -> None:
        """Take what the task needs from ``config`` and ``decoding``."""

    def positions(self, classes: list[str]) -> list[int]:
        """The model's class for each class of data, by name; raises UserError if the names differ."""
        return match_classes(self.name, self.classes, classes)

    @staticmethod
    def stack(samples: Sequence[dict]) -> dict:
        """Samples -> a batch, in which "image" is a list, for images differ in their sizes."""
        batch: dict[str, Any] = {name: [sample[name] for sample in samples] for name in samples[0]}
        for name in ("size", "original", "matrix"):
            if name in batch:
                batch[name] = np.stack(batch[name])
        return batch
