"""How cost grows with the size of the image: docs/performance.md.

    python scripts/bench_sizes.py [MODEL ...] [--rounds 5]

Multiply-adds and time of eager inference (one thread, float32, batch 1) on squares of several sizes, each divided by
that of the first size, and the exponent p of cost = a * pixels^p that fits them best (least squares of the
logarithms): 1 is linear in pixels.
"""

import argparse
from functools import partial

import numpy as np
import timm
import torch

import foveal  # noqa: F401 - registers the models
from foveal.bench import count_macs, interleave

SIZES = (224, 320, 512, 768, 1024)
MODELS = ("emsnet_xxtiny", "mat_2", "partialformer_b1")


def exponent(sizes: tuple[int, ...], costs: list[float]) -> float:
    """p of cost = a * pixels^p."""
    return float(np.polyfit(2 * np.log(sizes), np.log(costs), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | cost | " + " | ".join(f"{size}" for size in SIZES) + " | exponent |")
    print("|---" * (len(SIZES) + 3) + "|")
    for name in args.models:
        model = timm.create_model(name).eval()
        macs = [float(count_macs(model, size=(size, size)).fvcore) for size in SIZES]
        images = {size: torch.randn(1, 3, size, size) for size in SIZES}
        with torch.inference_mode():
            seconds = interleave({size: partial(model, x) for size, x in images.items()}, args.rounds, warmup=1)
        for what, costs in (("multiply-adds", macs), ("time", [float(np.median(seconds[size])) for size in SIZES])):
            cells = [f"{cost / costs[0]:.2f}" for cost in costs]
            print(f"| `{name}` | {what} | " + " | ".join(cells) + f" | {exponent(SIZES, costs):.3f} |", flush=True)


if __name__ == "__main__":
    main()
