"""Parameters, multiply-adds, latency, throughput and memory of any timm model, side by side in one run."""

from .macs import Macs, count_macs

__all__ = ["Macs", "count_macs"]
