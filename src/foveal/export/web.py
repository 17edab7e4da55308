"""A static page that runs an ONNX file in the browser alone, by onnxruntime-web.

The page (``_web/``) does in JavaScript what ``foveal.runtime`` does in numpy and Pillow. Nothing is downloaded, neither
here nor by the page: onnxruntime-web's files are copied from a folder, and the page's Content-Security-Policy forbids
all that is not its own.
"""

import html
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._errors import UserError
from . import onnx
from ._target import Options, Runner, Target, register
from .prepare import Prepared

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"  # that the page is tested with
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
INSTALLED = Path("node_modules") / PACKAGE  # where npm puts it
PAGE = Path(__file__).parent / "_web"
HEADS = {"classification": "Classifier", "detection": "Detector", "segmentation": "Segmenter", "keypoints": "Keypoints"}


def runtime_files(folder: Path | None) -> list[Path]:
    """onnxruntime-web's files in a folder of its npm package, or where npm has installed it; raises UserError."""
    for place in [INSTALLED] if folder is None else [folder]:
        for inside in (place / "dist", place):
            files = [inside / name for name in RUNTIME]
            if all(file.is_file() for file in files):
                return files
    what = f"{INSTALLED} is not here" if folder is None else f"{folder} has no {', '.join(RUNTIME)}"
    raise UserError(f"{what}: npm install {PACKAGE}@{VERSION}, then --runtime-files {INSTALLED}")


def convert(prepared: Prepared, path: Path, text: str, options: Options) -> list[Path]:
    """Write the folder: index.html and what it loads; see ``Target``."""
    about = json.loads(text)
    if about["decoding"].get("decoded") is False or about["decoding"].get("full_size") is False:
        raise UserError("the page shows predictions; leave --raw out")
    files = runtime_files(options.runtime_files)
    path.mkdir()
    onnx.convert(prepared, path / "model.onnx", text, options)
    write_page(path, about, files)
    return [path]


def write_page(folder: Path, about: dict[str, Any], files: Sequence[Path]) -> None:
    """Put a page around the model.onnx in a folder: its metadata in index.html, and the runtime's files."""
    for file in (*files, *(PAGE / name for name in ("model.mjs", "page.mjs", "page.css"))):
        shutil.copyfile(file, folder / file.name)
    text = _index(about | {"bytes": (folder / "model.onnx").stat().st_size})
    (folder / "index.html").write_text(text, encoding="utf-8")


def _index(about: dict[str, Any]) -> str:
    """index.html with the metadata of a file, and its ``bytes``."""
    run, sha, version = (about["source"][name] for name in ("run", "sha256", "foveal"))
    footer = f"Weights: {run}, SHA-256 {sha[:16]}, license {about['license']}. Made by foveal {version}."
    parts = {
        "TITLE": html.escape(" over ".join(part for part in (about["head"], about["model"]) if part)),
        "SUBTITLE": html.escape(f"{HEADS[about['task']]} of {run}"),
        "FOOTER": html.escape(footer),
        "ABOUT": json.dumps(about).replace("<", "\\u003c"),  # a name of a class must not end the script
    }
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    return re.sub("@([A-Z]+)@", lambda found: parts[found[1]], text)


def load(path: Path) -> Runner:
    """Run the folder's model in ONNX Runtime."""
    return onnx.load(path / "model.onnx")


def read(path: Path) -> str:
    """The metadata's text."""
    return onnx.read(path / "model.onnx")


TARGET = register(
    Target(
        name="web",
        what="a static page that runs the ONNX file in the browser",
        packages=onnx.TARGET.packages,
        extra=onnx.TARGET.extra,
        suffix="_web",
        dynamic=onnx.TARGET.dynamic,
        tolerance={"fp32": onnx.TARGET.tolerance["fp32"]},
        convert=convert,
        load=load,
        read=read,
        opens="python -m http.server --bind 127.0.0.1 --directory {}",
    )
)
