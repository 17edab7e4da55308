"""What each fast path gains: docs/performance.md.

    python scripts/bench_fast_paths.py [ROUNDS [MODEL...]]

Times models, one of each family unless some are given, against the literal sequence of their equations
(tests/literal.py) and against themselves with one fast path left out, all interleaved in one run: one thread, float32,
batch 1, 224 pixels. Prints each time divided by that of the model as it is.
"""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import timm
import torch

import foveal.backbones.emsnet
import foveal.backbones.mat
import foveal.backbones.partialformer
from foveal.bench import interleave, ratio
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


def main(rounds: int = 20, *models: str) -> None:
    torch.set_num_threads(1)
    images = torch.randn(1, 3, 224, 224)
    print("| model | " + " | ".join(["literal equations", *(f"without {name}" for name in WITHOUT)]) + " |")
    print("|---|" + "---|" * (1 + len(WITHOUT)))
    for name in models or MODELS:
        model, oracle = timm.create_model(name).eval(), getattr(literal, name.partition("_")[0])

        def run(forward: Callable, patches=()) -> Callable[[], None]:
            def call() -> None:
                with ExitStack() as stack, torch.inference_mode():
                    for module, functions in patches:
                        for function, off in functions.items():
                            if hasattr(module, function):
                                stack.enter_context(patch.object(module, function, off))
                    forward()

            return call

        calls = {"as it is": run(lambda model=model: model(images))}
        calls["literal"] = run(lambda model=model, oracle=oracle: oracle(model, images))
        calls |= {key: run(lambda model=model: model(images), patches) for key, patches in WITHOUT.items()}
        seconds = interleave(calls, rounds)
        ratios = [ratio(seconds[key], seconds["as it is"]) for key in list(calls)[1:]]
        print(f"| {name} | " + " | ".join(f"{r:.2f}" for r in ratios) + " |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
