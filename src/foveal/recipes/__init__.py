"""Recipes: functions that return a finished ``Run``. Their docstrings are the run cards."""

from collections.abc import Callable

from ..engine import Run
from .quickstart import quickstart

RECIPES: dict[str, Callable[[], Run]] = {recipe.__name__: recipe for recipe in (quickstart,)}

__all__ = ["RECIPES", "quickstart"]
