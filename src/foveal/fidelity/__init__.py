"""The thesis's figures as data, and ours measured beside them."""

from .reported import TOP1
from .tables import KNOWN, Comparison, compare

__all__ = ["KNOWN", "TOP1", "Comparison", "compare"]
