"""The thesis's figures as data, and ours measured beside them."""

from .tables import KNOWN, Comparison, compare

__all__ = ["KNOWN", "Comparison", "compare"]
