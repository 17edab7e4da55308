"""What each fast path gains: docs/performance.md.

    python scripts/bench_fast_paths.py [--train] [--rounds N] [MODEL...]

Times models, one of each family unless some are given, against the literal sequence of their equations
(tests/literal.py) and against themselves with one fast path left out, all interleaved in one run: one thread, float32,
batch 1, 224 pixels. With --train it times training steps of 16 pictures without linear layers as convolutions, by what
the thread itself takes. Prints each time divided by that of the model as it is.
"""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import timm
import torch
import torch.nn.functional as F

import foveal.backbones.emsnet
import foveal.backbones.mat
import foveal.backbones.partialformer
from foveal.bench import Setting, interleave, ratio, training_step
from foveal.layers import _conv, _fast

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import literal

B = foveal.backbones
OFF = {"is_fast_path": lambda x: False}
WITHOUT = {  # a fast path: the functions that turn it off, per module
    "all fast paths": [(m, OFF) for m in (_fast, _conv, B.emsnet, B.mat, B.partialformer)],
    "oneDNN's fused operators": [(m, {"has_onednn": lambda: False}) for m in (_fast, _conv)],
    "folded norms and residuals of convolutions, fused GELU": [(_conv, OFF)],
    "the family's own": [(m, OFF) for m in (B.emsnet, B.mat, B.partialformer)],
}
MODELS = ["emsnet_xxtiny", "mat_2", "partialformer_b1"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = ["without linear layers as convolutions"]
    if not args.train:
        columns = ["literal equations", *(f"without {name}" for name in WITHOUT)]
    print(f"| model | {' | '.join(columns)} |")
    print("|---|" + "---|" * len(columns))
    for name in args.models:
        model = timm.create_model(name).eval()
        calls, clock = (steps(model), time.thread_time) if args.train else (passes(name, model), time.perf_counter)
        as_it_is, *others = interleave(calls, args.rounds, clock=clock).values()
        print(f"| {name} | " + " | ".join(f"{ratio(times, as_it_is):.2f}" for times in others) + " |", flush=True)


def passes(name: str, model) -> dict[str, Callable[[], None]]:
    """Forward passes: as they are, by the literal equations, and without each fast path."""
    images, oracle = torch.randn(1, 3, 224, 224), getattr(literal, name.partition("_")[0])

    def run(forward: Callable, patches=()) -> Callable[[], None]:
        def call() -> None:
            with ExitStack() as stack, torch.inference_mode():
                for module, functions in patches:
                    for function, off in functions.items():
                        if hasattr(module, function):
                            stack.enter_context(patch.object(module, function, off))
                forward()

        return call

    calls = {"as it is": run(lambda: model(images)), "literal": run(lambda: oracle(model, images))}
    return calls | {key: run(lambda: model(images), patches) for key, patches in WITHOUT.items()}


def steps(model) -> dict[str, Callable[[], object]]:
    """Training steps: as they are, and with plain linear layers."""
    step, _ = training_step(model, Setting(mode="train", batch=16), torch.device("cpu"))

    def plain() -> None:
        with patch.object(_fast, "conv_linear", F.linear):
            step()

    return {"as it is": step, "plain": plain}


if __name__ == "__main__":
    main()
