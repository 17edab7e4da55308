"""``foveal export MODEL [--to onnx,openvino,...] [--out FOLDER] [--dtype fp32]``"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .._errors import UserError
from ..data import SUFFIXES, open_image
from ..export import LAYOUTS, Options, built_in, check_free, export, file_of, find, load_source, prepare
from ._pictures import find_files

PICTURES = 16  # that an export is run on, if none are given


def main(argv: list[str]) -> int:
    return tyro.cli(export_model, args=argv, prog="foveal export", config=(tyro.conf.FlagCreatePairsOff,))


def export_model(
    model: Annotated[str, tyro.conf.Positional],
    /,
    *,
    to: str = "onnx",
    out: Path = Path("."),
    dtype: Literal["fp32", "fp16", "int8"] = "fp32",
    images: tuple[Path, ...] = (),
    size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="H [W]")] = (),
    fixed: bool = False,
    raw: bool = False,
    layout: Literal["none", "triton", "kserve"] = "none",
    random_weights: bool = False,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Write a model of any task for other runtimes, and check that each file computes what the model does.

    Args:
        model: a run's folder; for a classifier also a timm model that has weights, hf-hub:REPO or local-dir:FOLDER.
        to: targets, with commas between them.
        out: folder of the files; none is overwritten.
        dtype: of weights and arithmetic; int8 takes its ranges from pictures.
        images: files and folders of pictures that files are run on, and int8 is calibrated with; built-in ones without.
        size: height and width in pixels of the images that the graph is made with; those of the model without it.
        fixed: for one image of that size alone; otherwise batch, height and width are free.
        raw: of a detector and a segmenter the raw outputs, without decoding, suppression and enlargement.
        layout: put an ONNX file into the folder that a server reads: triton, or kserve, which adds a manifest.
        random_weights: take a timm model as it is initialised.
        as_json: print a JSON object per file.
    """
    targets = [find(name) for name in to.split(",")]
    if len(size) > 2 or (size and min(size) < 32):
        raise UserError(f"size takes one or two numbers of 32 or more, got {' '.join(map(str, size))}")
    for target in targets:
        target.check(dtype)
        if layout != "none" and target.suffix != ".onnx":
            raise UserError(f"--layout {layout} is for ONNX files; leave {target.name} out")
    source = load_source(model, random_weights=random_weights)
    prepared = prepare(source, raw=raw, size=(size[0], size[-1]) if size else None)
    files = find_files(images, SUFFIXES) if images else []
    pictures = [open_image(path) for path, _ in files] or built_in(PICTURES)
    failed = 0
    for target in targets:
        options = Options(fixed=fixed, dtype=dtype)
        try:
            if layout != "none":
                check_free(file_of(prepared, target, out, options))
            done = export(prepared, target, out, options, pictures)
            if layout != "none":
                done = replace(done, files=LAYOUTS[layout](done.files[0]))
        except UserError as error:
            failed += 1
            print(f"{target.name}: {error}")
            continue
        _show(done, as_json)
    return 2 if failed else 0


def _show(done: Any, as_json: bool) -> None:
    if as_json:
        said = {"target": done.target, "dtype": done.dtype, "files": [str(file) for file in done.files]}
        print(json.dumps(said | {"bytes": done.size, "differences": done.parity.differences}))
        return
    print(f"{done.files[0]}: {done.size / 2**20:.1f} MiB, {len(done.parity.shapes)} shapes, {done.parity.said()}")
