"""Folders that model servers read: Triton's model repository, and KServe's manifest beside one.

Triton Inference Server takes the folder as ``--model-repository``; config.pbtxt is a text of its message ModelConfig
(https://github.com/triton-inference-server/common, protobuf/model_config.proto). KServe starts the same server from an
InferenceService (https://kserve.github.io/website, predictor of model format triton, protocol v2).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from .._errors import UserError
from ..runtime import KEY, File

TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(int64)": "TYPE_INT64",
    "tensor(int32)": "TYPE_INT32",
    "tensor(bool)": "TYPE_BOOL",
}
MANIFEST = "inferenceservice.yaml"
LARGEST_BATCH = 16  # that the server may make of requests of images of one size


def check_free(path: Path, layout: str) -> None:
    """Raise UserError if something is already where a layout of FOLDER/NAME.onnx would go."""
    for place in (path.with_suffix(""), *([path.parent / MANIFEST] if layout == "kserve" else [])):
        if place.exists():
            raise UserError(f"{place} exists; nothing was overwritten")


def triton(path: Path) -> list[Path]:
    """Move FOLDER/NAME.onnx to FOLDER/NAME/1/model.onnx, and write config.pbtxt and labels.txt; returns the files."""
    folder = path.with_suffix("")
    file = File(str(path))
    text, labels = _config(folder.name, file), _labels(file)
    (folder / "1").mkdir(parents=True)
    files = [folder / "1" / "model.onnx", folder / "config.pbtxt"]
    shutil.move(path, files[0])
    files[1].write_text(text, encoding="utf-8")
    if labels:
        files.append(folder / "labels.txt")
        files[2].write_text("\n".join(labels) + "\n", encoding="utf-8")
    return files


def kserve(path: Path) -> list[Path]:
    """The same, and FOLDER/inferenceservice.yaml, whose storageUri is to be set to where FOLDER is uploaded."""
    name = path.stem.replace("_", "-").replace(".", "-").lower()  # as Kubernetes takes names
    model = {
        "modelFormat": {"name": "triton"},
        "protocolVersion": "v2",
        "storageUri": "s3://BUCKET/FOLDER",
        "resources": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}},
    }
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"model": model}},
    }
    manifest = path.parent / MANIFEST
    files = triton(path)
    manifest.write_text(yaml.safe_dump(service, sort_keys=False))
    return [*files, manifest]


LAYOUTS: dict[str, Callable[[Path], list[Path]]] = {"triton": triton, "kserve": kserve}


def _config(name: str, file: File) -> str:
    """config.pbtxt."""
    outputs = file.session.get_outputs()
    batched = file.batch is None and all(output.shape[0] == "batch" for output in outputs)
    lines = [f"name: {_quoted(name)}", 'backend: "onnxruntime"', f"max_batch_size: {LARGEST_BATCH if batched else 0}"]
    for kind, values in (("input", file.session.get_inputs()), ("output", outputs)):
        for value in values:
            dims = [side if isinstance(side, int) else -1 for side in value.shape[batched:]]
            parts = [f"name: {_quoted(value.name)}", f"data_type: {TYPES[value.type]}", f"dims: {dims}"]
            if kind == "output" and _labels(file):
                parts.append('label_filename: "labels.txt"')
            lines.append(f"{kind} {{ {' '.join(parts)} }}")
    if batched:
        lines.append("dynamic_batching { }")
    if KEY in file.notes:  # how pictures become images, and what the outputs are
        lines.append(f'parameters {{ key: "{KEY}" value {{ string_value: {_quoted(file.notes[KEY])} }} }}')
    return "\n".join(lines) + "\n"


def _labels(file: File) -> list[str]:
    """Titles of a classifier's classes, which the server can name; none of other models."""
    about: dict[str, Any] = file.about or {}
    if about.get("task") != "classification" or not about.get("classes"):
        return []
    titles = about.get("titles") or {}
    return [titles.get(name, name).replace("\n", " ") for name in about["classes"]]


def _quoted(text: str) -> str:
    """A string of protobuf's text format, which has JSON's escapes and UTF-8."""
    return json.dumps(text, ensure_ascii=False)
