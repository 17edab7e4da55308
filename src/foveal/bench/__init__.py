"""Parameters, multiply-adds, speed and memory of any timm model, in inference or training, side by side in one run."""

from .macs import Macs, count_macs
from .models import DTYPES, RUNTIMES, Result, Setting, bench, environment, forward_pass, training_step
from .timing import interleave, num_threads, peak_memory, ratio, synchronizer, throughput

__all__ = [
    "DTYPES",
    "RUNTIMES",
    "Macs",
    "Result",
    "Setting",
    "bench",
    "count_macs",
    "environment",
    "forward_pass",
    "interleave",
    "num_threads",
    "peak_memory",
    "ratio",
    "synchronizer",
    "throughput",
    "training_step",
]
