"""Parameters, multiply-adds, latency, throughput and memory of any timm model, side by side in one run."""

from .macs import Macs, count_macs
from .models import DTYPES, Result, Setting, bench, environment
from .timing import interleave, peak_memory, ratio

__all__ = [
    "DTYPES",
    "Macs",
    "Result",
    "Setting",
    "bench",
    "count_macs",
    "environment",
    "interleave",
    "peak_memory",
    "ratio",
]
