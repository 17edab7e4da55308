"""Compare ``foveal eval`` with timm's validate.py.

    python scripts/check_timm_validate.py [VALIDATE_PY]

Draws pictures of twelve classes, saves tiny models with random weights, and runs both programs on them with several
crops and sizes. Exits with 1 unless top-1 and top-5 count as many pictures. timm's distributions on PyPI do not contain
validate.py: without the path of one it is fetched from timm's repository, at the tag of the installed version.
"""

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

import foveal  # noqa: F401 - registers the models

SOURCE = "https://raw.githubusercontent.com/huggingface/pytorch-image-models/v{}/validate.py"
CLASSES, PICTURES = 12, 25
MODELS = ("test_mat", "test_emsnet", "test_partialformer", "test_vit")
SEEN = dict(input_size=(3, 96, 96), crop_pct=0.875, interpolation="bicubic")
FLAGS = (  # of validate.py and of foveal eval
    ([], []),
    (["--crop-pct", "1.0", "--crop-mode", "squash"], ["--crop-pct", "1.0", "--crop-mode", "squash"]),
    (
        ["--input-size", "3", "128", "64", "--interpolation", "bilinear"],
        ["--image-size", "128", "64", "--interpolation", "bilinear"],
    ),
)


def main(argv: list[str]) -> int:
    torch.manual_seed(0)
    odd = 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        script = Path(argv[0]) if argv else fetch(place / "validate.py")
        draw(place / "data")
        for model in MODELS:
            save(model, place / model)
            for theirs, ours in FLAGS:
                expected = validate(script, place / model, place / "data", theirs)
                answer = evaluate(place / model, place / "data", ours)
                odd += expected != answer
                said = "same" if expected == answer else "DIFFERENT"
                print(f"{said}: {' '.join([model, *ours])}: validate.py {expected}, foveal {answer}", flush=True)
    print(f"top-1 and top-5 of {CLASSES * PICTURES} pictures: {len(MODELS) * len(FLAGS)} comparisons, {odd} differ")
    return 1 if odd else 0


def fetch(path: Path) -> Path:
    urllib.request.urlretrieve(SOURCE.format(timm.__version__), path)
    return path


def draw(folder: Path) -> None:
    """Smooth random pictures of odd sides."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"class_{label:02d}").mkdir(parents=True)
        for i in range(PICTURES):
            size = tuple(int(side) for side in rng.integers(60, 240, 2))
            pixels = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
            picture.save(folder / f"class_{label:02d}" / f"{i}.jpg", quality=95)


def save(name: str, folder: Path) -> None:
    """Weights of unit scale, so that the classes differ."""
    model = timm.create_model(name, num_classes=CLASSES)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=max(1, parameter[0].numel()) ** -0.5)
    save_for_hf(model, str(folder), model_config=dict(pretrained_cfg=SEEN), safe_serialization=True)


def validate(script: Path, model: Path, data: Path, flags: list[str]) -> tuple[int, int]:
    """Pictures that validate.py counts for top-1 and top-5."""
    start = "import sys, runpy, foveal; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", start, str(script), str(data), "--model", f"local-dir:{model}", "--device", "cpu"]
    output = run([*command, "--workers", "0", "--batch-size", "32", *flags])
    return counts(json.loads(output.split("--result")[1]))


def evaluate(model: Path, data: Path, flags: list[str]) -> tuple[int, int]:
    """Pictures that ``foveal eval`` counts."""
    command = [sys.executable, "-m", "foveal", "eval", str(model), "--data", str(data), "--batch-size", "50", "--json"]
    return counts(json.loads(run([*command, *flags]))["metrics"])


def run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr)
    return result.stdout


def counts(results: dict) -> tuple[int, int]:
    pictures = CLASSES * PICTURES
    return round(results["top1"] * pictures / 100), round(results["top5"] * pictures / 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
