"""Cost and speed of timm models in one run."""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.optim import create_optimizer_v2
from timm.utils import reparameterize_model
from torch import nn

from .._errors import UserError, check_model, does_not_run
from .._machine import machine
from .._models import create_model, size_args
from ._apart import Apart
from .macs import count_macs
from .timing import in_turn, num_threads, peak_memory, ratio, synchronizer, timed

RUNTIMES = {"eager": None, "compile": None, "onnxruntime": "onnx", "openvino": "openvino"}  # and their export targets
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How to measure.

    Attributes:
        mode: what a call is: a forward pass, or a training step (forward pass, cross-entropy, backward pass, AdamW).
        size: height and width of the images in pixels.
        batch: images a call.
        dtype: a key of ``DTYPES``, of weights and images; in training of autocast, while the weights are float32.
        threads: CPU threads.
        device: as torch names it.
        runtimes: keys of ``RUNTIMES``; each model is measured in each, exported ones in float32 inference on the CPU.
        reparam: fuse layers for inference, by timm's ``reparameterize_model``; exported models are in any case.
        fixed: export for one image of that size; otherwise batch, height and width are free.
        channels_last: give weights and images that memory format in PyTorch.
        grad_checkpointing: compute activations again in the backward pass; in training only.
        rounds: timed calls of each model.
        jobs: models that are made ready at once, each in a process of its own; 1 for all in this one.
    """

    mode: Literal["inference", "train"] = "inference"
    size: tuple[int, int] = (224, 224)
    batch: int = 1
    dtype: str = "float32"
    threads: int = 1
    device: str = "cpu"
    runtimes: tuple[str, ...] = ("eager",)
    reparam: bool = False
    fixed: bool = False
    channels_last: bool = False
    grad_checkpointing: bool = False
    rounds: int = 20
    jobs: int = 1


@dataclass(frozen=True, kw_only=True)
class Result:
    """A model's figures.

    Attributes:
        model: its name.
        runtime: a key of ``RUNTIMES``.
        parameters: their number.
        macs: multiply-adds of one image's forward pass: convolutions, linear layers, matrix products and attention.
        latency_ms: median time of a call.
        latency_low_ms: first quartile.
        latency_high_ms: third quartile.
        ratio: median over the rounds of this time by that of the first model in the first runtime.
        images_per_second: batch by median time.
        peak_memory_mib: weights, in training the optimiser's state, and the most that a call holds at once; None
            where the runtime does not say.
    """

    model: str
    runtime: str
    parameters: int
    macs: int
    latency_ms: float
    latency_low_ms: float
    latency_high_ms: float
    ratio: float
    images_per_second: float
    peak_memory_mib: float | None


def bench(models: Sequence[str], setting: Setting, progress: Callable[[int], None] = lambda done: None) -> list[Result]:
    """Measure timm models, by name, with random weights; raises UserError for what cannot be built or run."""
    with num_threads(setting.threads):
        return _bench(list(dict.fromkeys(models)), setting, torch.device(setting.device), progress)


def _bench(models: list[str], setting: Setting, device: torch.device, progress: Callable) -> list[Result]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        where: dict[str, Any] = dict(setting=setting, device=device, folder=Path(folder))
        if setting.jobs > 1:
            apart = stack.enter_context(Apart(partial(_ready_apart, **where), models, setting.jobs))
            ready = {name: (apart.known[name][0], apart.calls(name)) for name in models}
        else:
            ready = {name: _ready(name, **where) for name in models}
        calls = {(name, runtime): call for name in models for runtime, call in ready[name][1].items()}
        try:
            seconds = in_turn(calls, setting.rounds, progress=progress)
        except torch.OutOfMemoryError:  # each of them ran, but beside fewer others
            raise UserError(
                f"{setting.device} has no memory for {len(models)} models at once; try fewer, --batch or --jobs 1"
            ) from None
    first, results = next(iter(seconds.values())), []
    for (name, runtime), times in seconds.items():
        low, median, high = statistics.quantiles(times, n=4, method="inclusive")
        cost = ready[name][0]
        results.append(
            Result(
                model=name,
                runtime=runtime,
                parameters=cost.parameters,
                macs=cost.macs,
                latency_ms=1e3 * median,
                latency_low_ms=1e3 * low,
                latency_high_ms=1e3 * high,
                ratio=ratio(times, first),
                images_per_second=setting.batch / median,
                peak_memory_mib=cost.memory[runtime],
            )
        )
    return results


class Cost(NamedTuple):
    """What a model takes beside time.

    Attributes:
        parameters: their number.
        macs: multiply-adds of one image.
        memory: MiB by runtime, None where it does not say.
    """

    parameters: int
    macs: int
    memory: dict[str, float | None]


def _ready(
    name: str, setting: Setting, device: torch.device, folder: Path
) -> tuple[Cost, dict[str, Callable[[], float]]]:
    """A model's cost, and its timed calls by runtime; each was called before."""
    calls: dict[str, Callable[[], float]] = {}
    memory: dict[str, float | None] = {}
    synchronize = synchronizer(device)
    try:
        model = _build(name, setting.size)
        if setting.reparam:
            model = reparameterize_model(model)
        products = count_macs(model, setting.size).products
        for runtime in setting.runtimes:
            memory[runtime] = None
            if target := RUNTIMES[runtime]:
                call = exported(name, model, target, setting, folder)
            else:
                prepare = training_step if setting.mode == "train" else forward_pass
                own = copy.deepcopy(model) if len(setting.runtimes) > 1 else model
                call, held = prepare(own, setting, device, runtime == "compile")
                memory[runtime] = (held + peak_memory(call, device)) / 2**20
            calls[runtime] = partial(timed, call, synchronize, time.perf_counter)
    except UserError:
        raise
    except Exception as error:  # what a foreign model raises at a size, type or device that it does not take
        raise does_not_run(name, error) from error
    return Cost(sum(p.numel() for p in model.parameters()), products, memory), calls


def _ready_apart(
    name: str, setting: Setting, device: torch.device, folder: Path
) -> tuple[Cost, dict[str, Callable[[], float]]]:
    """``_ready`` in a process of its own, which leaves the device's memory to the others."""
    torch.set_num_threads(setting.threads)
    made = _ready(name, setting, device, folder)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return made


def _build(name: str, size: tuple[int, int]) -> nn.Module:
    check_model(name)
    return create_model(name, **size_args(name, size)).eval()


def forward_pass(
    model: nn.Module, setting: Setting, device: torch.device, compile: bool = False
) -> tuple[Callable[[], object], int]:
    """A call of the model on random images, called once, and the bytes of its weights."""
    model, images = _place(model, setting, device, DTYPES[setting.dtype])
    forward = torch.compile(model) if compile else model

    @torch.inference_mode()
    def call() -> torch.Tensor:
        return forward(images)

    call()
    return call, _bytes(*model.parameters(), *model.buffers())


def training_step(
    model: Any, setting: Setting, device: torch.device, compile: bool = False
) -> tuple[Callable[[], object], int]:
    """A training step on random images and labels, done once, and the bytes of weights and the optimiser's state."""
    model, images = _place(model.train(), setting, device, torch.float32)
    labels = torch.randint(model.num_classes, (setting.batch,), device=device)
    if setting.grad_checkpointing:
        model.set_grad_checkpointing()
    forward = torch.compile(model) if compile else model
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-4, weight_decay=0.05)
    autocast = torch.autocast(device.type, DTYPES[setting.dtype], enabled=setting.dtype != "float32")
    # Any scale takes the same time; one that overflows at first would leave steps out.
    scaler = torch.amp.GradScaler(device.type, init_scale=1.0, enabled=setting.dtype == "float16")

    def call() -> None:
        with autocast:
            logits = forward(images)
        scaler.scale(F.cross_entropy(logits.float(), labels)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()  # here and not before the forward pass: gradients count as what a call holds

    call()
    states = [value for state in optimizer.state.values() for value in state.values()]
    return call, _bytes(*model.parameters(), *model.buffers(), *states)


def exported(name: str, model: nn.Module, target: str, setting: Setting, folder: Path) -> Callable[[], object]:
    """A call of the model, exported without a comparison, on random images; called once.

    Raises:
        UserError: a missing package, a model that the target does not take.
    """
    from ..export import Options, find, load_source, prepare, text_of  # here, since it brings all tasks along

    kind = find(target)
    kind.check("fp32")
    source = replace(load_source(name, random_weights=True), model=model, size=setting.size)
    prepared, options = prepare(source, size=setting.size), Options(fixed=setting.fixed)
    files = kind.convert(prepared, folder / f"{name}{kind.suffix}", text_of(prepared, kind, options), options)
    run = kind.load(files[0], threads=setting.threads)
    images = torch.randn(setting.batch, 3, *setting.size).numpy()
    run(images)
    return lambda: run(images)


def _place(model: nn.Module, setting: Setting, device: torch.device, dtype: torch.dtype) -> tuple[Any, torch.Tensor]:
    """The model and random images as the setting says."""
    images = torch.randn(setting.batch, 3, *setting.size).to(device, dtype)
    model = model.to(device, dtype)
    if setting.channels_last:
        return model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    return model, images


def _bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def environment(setting: Setting) -> dict[str, str]:
    """What the figures depend on beside the setting."""
    here, device = machine(), setting.device
    if device.startswith("cuda"):
        here["hardware"] = torch.cuda.get_device_name(device)
    return here | {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__}
