"""Cost and speed of timm models in one run."""

import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from .._errors import check_model, does_not_run
from .macs import count_macs
from .timing import interleave, peak_memory, ratio

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How to measure.

    Attributes:
        size: height and width of the images in pixels.
        batch: images a call.
        dtype: a key of ``DTYPES``, of weights and images.
        threads: CPU threads.
        device: as torch names it.
        compile: ``torch.compile`` instead of eager.
        channels_last: give weights and images that memory format.
        rounds: timed calls of each model.
    """

    size: tuple[int, int] = (224, 224)
    batch: int = 1
    dtype: str = "float32"
    threads: int = 1
    device: str = "cpu"
    compile: bool = False
    channels_last: bool = False
    rounds: int = 20


@dataclass(frozen=True, kw_only=True)
class Result:
    """A model's figures.

    Attributes:
        model: its name.
        parameters: their number.
        macs: multiply-adds of one image: convolutions, linear layers, matrix products and attention.
        latency_ms: median time of a call.
        latency_low_ms: first quartile.
        latency_high_ms: third quartile.
        ratio: median over the rounds of this model's time by the first model's.
        images_per_second: batch by median time.
        peak_memory_mib: weights, and the most that a call holds at once.
    """

    model: str
    parameters: int
    macs: int
    latency_ms: float
    latency_low_ms: float
    latency_high_ms: float
    ratio: float
    images_per_second: float
    peak_memory_mib: float


def bench(models: Sequence[str], setting: Setting, progress: Callable[[int], None] = lambda done: None) -> list[Result]:
    """Measure timm models, by name, with random weights; raises UserError for what cannot be built or run."""
    device = torch.device(setting.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    try:
        return _bench(list(dict.fromkeys(models)), setting, device, progress)
    finally:
        torch.set_num_threads(threads)


def _bench(models: list[str], setting: Setting, device: torch.device, progress: Callable) -> list[Result]:
    costs, calls = {}, {}
    for name in models:
        model = _build(name, setting.size)
        try:
            costs[name] = (sum(p.numel() for p in model.parameters()), count_macs(model, setting.size).products)
            call, held = _prepare(model, setting, device)
            costs[name] += ((held + peak_memory(call, device)) / 2**20,)
        except Exception as error:  # whatever a foreign model raises at a size, type or device that it does not take
            raise does_not_run(name, error) from error
        calls[name] = call
    synchronize = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    seconds = interleave(calls, setting.rounds, synchronize=synchronize, progress=progress)
    results = []
    for name, times in seconds.items():
        parameters, macs, memory = costs[name]
        low, median, high = statistics.quantiles(times, n=4, method="inclusive")
        results.append(
            Result(
                model=name,
                parameters=parameters,
                macs=macs,
                latency_ms=1e3 * median,
                latency_low_ms=1e3 * low,
                latency_high_ms=1e3 * high,
                ratio=ratio(times, seconds[models[0]]),
                images_per_second=setting.batch / median,
                peak_memory_mib=memory,
            )
        )
    return results


def _build(name: str, size: tuple[int, int]) -> nn.Module:
    check_model(name)
    config = timm.get_pretrained_cfg(name)
    args: dict[str, Any] = {"img_size": size} if config is not None and config.fixed_input_size else {}
    return timm.create_model(name, **args).eval()


def _prepare(model: nn.Module, setting: Setting, device: torch.device) -> tuple[Callable[[], torch.Tensor], int]:
    """A call of the model on random images, called once, and the bytes of its weights."""
    images = torch.randn(setting.batch, 3, *setting.size).to(device, DTYPES[setting.dtype])
    model = model.to(device, DTYPES[setting.dtype])
    if setting.channels_last:
        images, model = images.to(memory_format=torch.channels_last), model.to(memory_format=torch.channels_last)
    held = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    forward = torch.compile(model) if setting.compile else model

    @torch.inference_mode()
    def call() -> torch.Tensor:
        return forward(images)

    call()
    return call, held


def environment(setting: Setting) -> dict[str, str | int]:
    """What the figures depend on beside the setting."""
    from .. import __version__

    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    device = torch.cuda.get_device_name(setting.device) if setting.device.startswith("cuda") else cpu
    return {
        "foveal": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "hardware": device,
    }
