"""Every detector, or segmenter, with one of our backbones and two peers, on the built-in scenes: docs/evidence.md.

    python scripts/evidence.py detection|segmentation [--seeds N] [--epochs N] [--jobs N] [--minutes N]

Runs the quick start's recipe from random weights for each model, backbone and seed, all of one seed before the next,
several at once, until all are done or the time is up; other flags are those of foveal train. It prints a table of the
last epoch's figures: the mean over seeds, and their spread. Figures are also appended to results.jsonl in the folder
of --out, from which a second call goes on.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

BACKBONES = ["mat_1", "pvt_v2_b0", "efficientvit_b1"]
SMALL = '{"anchor_size": 16}'  # garments are 17 to 70 px
MODELS = {
    "detection": {
        "retinanet": ["--detector-args", SMALL],
        "fcos": [],
        "atss": ["--detector-args", '{"anchor_size": 32}'],
        "ssd": [],
        "ssdlite": [],
        "mask_rcnn": ["--detector-args", SMALL],
        "sparse_rcnn": ["--lr", "2.5e-4"],
        "detr": ["--lr", "2.5e-4", "--clip-grad", "0.1"],
    },
    "segmentation": {"semantic_fpn": [], "upernet": []},
}
FIGURES = {"detection": ["AP", "AP50"], "segmentation": ["mIoU", "aAcc"]}
FLAG = {"detection": "--detector", "segmentation": "--segmenter"}


def train(kind: str, name: str, backbone: str, seed: int, args: argparse.Namespace) -> dict | None:
    """Figures of the last epoch; None where the time was up before the run began."""
    if time.monotonic() > args.end:
        return None
    out = args.out / f"{name}-{backbone}-{seed}"
    command = [sys.executable, "-m", "foveal", "train", f"quickstart_{kind}", FLAG[kind], name, "--model", backbone]
    command += [*MODELS[kind][name], "--seed", str(seed), "--epochs", str(args.epochs), "--device", args.device]
    command += ["--out", str(out), *args.further]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{out.name}: {done.stderr.strip().splitlines()[-1]}", flush=True)
        return None
    figures = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    row = dict(model=name, backbone=backbone, seed=seed, figures=figures)
    with open(args.out / "results.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    print(out.name, *(f"{figure} {figures[figure]:.1f}" for figure in FIGURES[kind]), flush=True)
    return row


def table(kind: str, rows: list[dict]) -> None:
    """Markdown: a line for each model, a column for each backbone and figure."""
    columns = [(backbone, figure) for backbone in BACKBONES for figure in FIGURES[kind]]
    print("| model | " + " | ".join(f"{backbone} {figure}" for backbone, figure in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name in MODELS[kind]:
        cells = []
        for backbone, figure in columns:
            values = [r["figures"][figure] for r in rows if (r["model"], r["backbone"]) == (name, backbone)]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread} ({len(values)})" if values else "-")
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=MODELS)
    for flag, kind, default in [
        ("--seeds", int, 3),
        ("--epochs", int, 10),
        ("--jobs", int, 1),
        ("--minutes", float, 1e9),
        ("--device", str, "cpu"),
        ("--out", Path, Path("runs/evidence")),
    ]:
        parser.add_argument(flag, type=kind, default=default)
    args, args.further = parser.parse_known_args()
    args.end = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["model"], row["backbone"], row["seed"]) for row in rows}
    wanted = list(product(range(args.seeds), BACKBONES, MODELS[args.kind]))
    wanted = [(name, backbone, seed) for seed, backbone, name in wanted if (name, backbone, seed) not in done]
    with ThreadPoolExecutor(args.jobs) as pool:
        rows += [row for row in pool.map(lambda job: train(args.kind, *job, args), wanted) if row]
    table(args.kind, rows)


if __name__ == "__main__":
    main()
