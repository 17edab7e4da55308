"""Studies of classifiers on small pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engine import Optim, Run
from ..tasks import Augment, ClassificationArgs
from ._study import Study

OURS = (
    *("emsnet_xxtiny", "emsnet_xtiny", "emsnet_tiny"),
    *(f"mat_{i}" for i in range(1, 6)),
    *(f"partialformer_b{i}" for i in range(5)),
)
PEERS = (
    "pvt_v2_b0",
    "pvt_v2_b1",
    "mobilevitv2_050",
    "mobilevitv2_075",
    "efficientvit_b0",
    "efficientvit_b1",
    "convnext_atto",
    "edgenext_x_small",
    "mobilenetv4_conv_small",
    "resnet18",
)


def small(model: str, model_args: dict[str, Any], data: str, image_size: int = 32, epochs: int = 5) -> Run:
    """The recipe of all studies of this file: AdamW, batch 128, cosine schedule, from random weights."""
    return Run(
        recipe="study",
        task=ClassificationArgs(
            model=model,
            model_args=model_args,
            image_size=image_size,
            crop_pct=1.0,
            augment=Augment(crop_scale=0.6, crop_ratio=1.25, train_interpolation="bilinear"),
        ),
        data=data,
        out=Path("runs/study"),
        epochs=epochs,
        batch_size=128,
        optim=Optim(lr=2e-3),
    )


def cifar10() -> Study:
    """All models and ten peers on CIFAR-10: from random weights, 32x32 pixels, five epochs.

    The data are the pictures as JPEG files, a lossy copy: accuracies are near those on the original, not equal.
    """
    return _models(cifar10, "cifar10")


def fashion() -> Study:
    """All models and ten peers on the whole of Fashion-MNIST: from random weights, 32x32 pixels, five epochs."""
    return _models(fashion, "fashion-mnist", root=Path("fashion-mnist"))


def _models(function: Any, data: str, root: Path | None = None) -> Study:
    runs = {name: small(name, dict(drop_path_rate=0.0), data) for name in OURS}
    runs |= {name: small(name, {}, data) for name in PEERS}
    return _study(function, {name: replace(run, root=root) for name, run in runs.items()}, frozenset(PEERS))


def emsnet() -> Study:
    """Branches of EMSNet's block on CIFAR-10, as Table 3.5 adds them: 64x64 pixels, five epochs."""
    mixers = ("identity", "whiten", "pe2", "pe4", "gated", "cmhsa", "gmhsa")
    return _switches("emsnet_xxtiny", emsnet, {mixer: dict(mixer=mixer) for mixer in mixers})


def mat() -> Study:
    """Mixers and patch embeddings of MAT on CIFAR-10, as Tables 4.2 and 4.9 change them: 64x64 pixels, five epochs.

    Pictures are small, so windows of 4x4 positions mix in stages 1 to 3 (16, 4 and 1 of them), where the thesis has
    windows of 7x7 in stages 3 and 4.
    """
    window = dict(window_size=4)
    rows: dict[str, dict[str, Any]] = {
        "mat": dict(window, mixers=("mat", "mat", "mat", "none")),
        "window": dict(window, mixers=("window", "window", "window", "none")),
        "mlp": dict(window, mixers=("none",) * 4),
        "pure_mlp": dict(window, mixers=("none",) * 4, mlp_dwconv=False),
        "conv_embedding": dict(window, mixers=("mat", "mat", "mat", "none"), patch_embed="conv"),
        "merge_embedding": dict(window, mixers=("mat", "mat", "mat", "none"), patch_embed="merge"),
    }
    return _switches("mat_1", mat, rows)


def partialformer() -> Study:
    """Foreground, HeadMLP and the background's query of PartialFormer on CIFAR-10: 64x64 pixels, five epochs.

    One token in (4, 4, 2, 1) is foreground, since the pictures have few tokens, but where a row says otherwise.
    """
    base: dict[str, Any] = dict(fg_div=(4, 4, 2, 1))
    rows: dict[str, dict[str, Any]] = {
        "partial": base,
        "full": dict(attention="full"),
        "fg_only": dict(base, attention="fg_only"),
        "bg_mean": dict(base, attention="bg_mean"),
        "learned_query": dict(base, query="learned"),
        "mean_query": dict(base, query="fg_mean"),
        "random_score": dict(base, score="random"),
        "less_foreground": dict(fg_div=(16, 8, 4, 1)),
        "no_head_mlp": dict(base, head_expand=0),
        "no_channel_mlp": dict(base, channel_reduction=0),
    }
    return _switches("partialformer_b0", partialformer, rows)


def _switches(model: str, function: Any, rows: dict[str, dict[str, Any]]) -> Study:
    runs = {row: small(model, dict(args, drop_path_rate=0.0), "cifar10", image_size=64) for row, args in rows.items()}
    return _study(function, runs)


def _study(function: Any, runs: dict[str, Run], peers: frozenset[str] = frozenset()) -> Study:
    return Study(name=function.__name__, about=function.__doc__ or "", figures=("top1",), runs=runs, peers=peers)
