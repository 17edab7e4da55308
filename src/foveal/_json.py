"""Figures as JSON has them."""

import math
from typing import Any


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """With None for what is not a number, which JSON does not have."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}
