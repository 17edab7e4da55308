"""``foveal export MODEL [--to onnx,openvino,...] [--out FOLDER] [--dtype fp32]``"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from PIL import Image

from .._errors import UserError
from ..data import SUFFIXES, load_parts, load_split, open_image
from ..export import (
    LAYOUTS,
    Exported,
    Options,
    Source,
    Target,
    built_in,
    calibration,
    check_free,
    evaluate,
    export,
    file_of,
    find,
    load_source,
    prepare,
)
from . import check_needs
from ._pictures import find_files

PICTURES = 16  # that a file is run on
CALIBRATION = 32  # that int8 takes its ranges from
RAW = 'onnxruntime.InferenceSession("{}")'  # for which foveal predict has no decoding
EVALUATION = 256  # on which the file is compared with the model, at most
FEW = 90  # percent of predictions that agree, below which int8 needs advice


def main(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    /,
    *,
    to: str = "onnx",
    out: Path = Path("."),
    dtype: Literal["fp32", "fp16", "int8"] = "fp32",
    data: str | None = None,
    root: Path | None = None,
    images: tuple[Path, ...] = (),
    size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="H [W]")] = (),
    fixed: bool = False,
    raw: bool = False,
    keep_float: tuple[str, ...] = (),
    layout: Literal["none", "triton", "kserve"] = "none",
    runtime_files: Path | None = None,
    random_weights: bool = False,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Write a model of any task for other runtimes, and check that each file computes what the model does.

    Args:
        model: a run's folder; for a classifier also a timm model that has weights, hf-hub:REPO or local-dir:FOLDER.
        to: targets, with commas between them.
        out: folder of the files; none is overwritten.
        dtype: of weights and arithmetic; int8 takes its ranges from pictures.
        data: a data set's name or a folder, as foveal data lists them, whose pictures files are run on, and int8 is
            calibrated with; printed are the share of predictions that agree, and how fast the file is beside the model.
        root: where a named data set lies, or the pictures of a COCO file.
        images: files and folders of pictures in place of data. Without both, built-in pictures are taken.
        size: height and width in pixels of the images that the file is made for; those of the model without it.
        fixed: for one image of that size alone; otherwise batch, height and width are free.
        raw: of a detector and a segmenter the raw outputs, without decoding, suppression and enlargement.
        keep_float: parts of the model that int8 leaves in float32, such as stem, stages.3.
        layout: put an ONNX file into the folder that a server reads: triton, or kserve, which adds a manifest.
        runtime_files: of the target web the folder of onnxruntime-web, as npm installs it; without it
            node_modules/onnxruntime-web.
        random_weights: take a timm model as it is initialised.
        as_json: print a JSON object per file.
    """
    targets = [find(name) for name in to.split(",")]
    if len(size) > 2 or (size and min(size) < 32):
        raise UserError(f"size takes one or two numbers of 32 or more, got {' '.join(map(str, size))}")
    if data is not None and images:
        raise UserError("--data and --images exclude each other")
    check_needs(
        ("--root", root is not None, "--data", data is not None),
        ("--keep-float", bool(keep_float), "--dtype int8", dtype == "int8"),
        ("--runtime-files", runtime_files is not None, "--to web", "web" in to.split(",")),
    )
    if dtype == "int8" and data is None and not images:
        raise UserError("int8 takes its ranges from pictures like those to come; give --data or --images")
    for target in targets:
        target.check(dtype)
        if layout != "none" and target.suffix != ".onnx":
            raise UserError(f"--layout {layout} is for ONNX files; leave {target.name} out")
    source = load_source(model, random_weights=random_weights)
    prepared = prepare(source, raw=raw, size=(size[0], size[-1]) if size else None)
    before, pictures, labels = _pictures(source, data, root, images)
    ranges = calibration(prepared, before) if dtype == "int8" else ()
    options, failed = Options(fixed, dtype, ranges, keep_float=keep_float, runtime_files=runtime_files), 0
    for target in targets:
        try:
            if layout != "none":
                check_free(file_of(prepared, target, out, options), layout)
            done = export(prepared, target, out, options, pictures[:PICTURES])
        except UserError as error:
            print(f"foveal: {target.name}: {error}", file=sys.stderr)
            failed += 1
            continue
        given = data is not None or bool(images)
        compared = evaluate(prepared, target, done.files[0], pictures, labels) if given and done.parity else {}
        if layout != "none":
            done = replace(done, files=LAYOUTS[layout](done.files[0]))
        _show(done, target, compared, as_json)
        if not as_json:
            if dtype == "int8" and compared.get("agreement", 100) < FEW:
                parts = " ".join(name for name, part in source.model.named_children() if list(part.parameters()))
                print(f"  int8 changes many predictions; parts that may have to stay float32: --keep-float {parts}")
            print(f"  next: {(RAW if raw and target.suffix == '.onnx' else target.opens).format(done.files[0])}")
    return 2 if failed else 0


def _pictures(
    source: Source, data: str | None, root: Path | None, images: tuple[Path, ...]
) -> tuple[list[Image.Image], list[Image.Image], list[int]]:
    """Pictures to calibrate with, others to compare on, and the labels of these where they are classes of the model."""
    if data is None:
        if not images:
            found = built_in(PICTURES)
        else:
            files = [path for path, _ in find_files(images, SUFFIXES)]
            found = [open_image(files[index]) for index in _spread(len(files), EVALUATION)]
        return [found[index] for index in _spread(len(found), CALIBRATION)], found, []
    split: Any = load_split(data, root, kind=source.task)
    train: Any = load_parts(data, root, kind=source.task)[0] or split
    if not all(hasattr(part, "picture") for part in (split, train)):
        raise UserError(f"{data} is a stream; expected data that is a list of pictures")
    chosen = _spread(len(split), EVALUATION)
    labels: list[int] = []
    known = source.classes or []
    if source.task == "classification" and split.classes and {*split.classes} <= {*known}:
        labels = [known.index(split.classes[split.label(index)]) for index in chosen]
    before = [train.picture(index) for index in _spread(len(train), CALIBRATION)]
    return before, [split.picture(index) for index in chosen], labels


def _spread(count: int, most: int) -> list[int]:
    """Places evenly over a list, whose classes may come one after the other."""
    return [index * count // min(count, most) for index in range(min(count, most))]


def _show(done: Exported, target: Target, compared: dict[str, float], as_json: bool) -> None:
    parity = done.parity
    if as_json:
        said = asdict(done) | {"files": [str(file) for file in done.files], "bytes": done.size} | compared
        print(json.dumps(said))
        return
    said = f"{len(parity.shapes)} shapes, {parity.said()}" if parity else f"not run: {target.what} alone"
    print(f"{done.files[0]}: {done.size / 2**20:.1f} MiB, {said}")
    if compared:
        print("  " + ", ".join(f"{name} {value:.2f}" for name, value in compared.items()))
