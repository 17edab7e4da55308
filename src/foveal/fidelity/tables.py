"""Reported beside measured: the rows of ``foveal tables``."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ..bench import count_macs
from . import measure
from .reported import REPORTED, TABLES, Reported


@dataclass(frozen=True)
class Comparison:
    """One printed figure beside ours.

    Attributes:
        table: number of the table, or of the section that prints the figure.
        row: name of the row.
        quantity: ``parameters`` or ``multiply-adds``.
        unit: ``M`` (millions) or ``G`` (billions).
        reported: the figure in the thesis.
        measured: the figure here.
        difference: measured - reported.
        note: empty where rounding gives the printed figure, else what explains the difference.
    """

    table: str
    row: str
    quantity: str
    unit: str
    reported: float
    measured: float
    difference: float
    note: str


SECTION = "5.3.3"  # prints the cost of one attention module in its text
KNOWN = {**TABLES, SECTION: "one attention module at 56x56, d = 64, h = 8"}


def compare(table: str | None = None) -> Iterator[Comparison]:
    """Comparisons of one table, or of all."""
    for row in REPORTED:
        if table in (None, row.table):
            yield from _compare(row)
    if table in (None, SECTION):
        yield from _section_533()


def _compare(row: Reported) -> Iterable[Comparison]:
    chosen = tuple(row.args.items()), row.size, row.method, tuple(row.method_args.items())
    parameters, macs, other = _measure(row.model, *chosen)
    more = "" if other is None else f"{other[0] / 1e9:.3f} {other[1]}"
    return (
        _comparison(row.table, row.row, "parameters", "M", row.parameters, parameters / 1e6, row.note),
        _comparison(row.table, row.row, "multiply-adds", "G", row.gmacs, macs / 1e9, row.note, more),
    )


@cache
def _measure(
    model: str,
    args: tuple[tuple[str, Any], ...],
    size: tuple[int, int],
    method: str,
    method_args: tuple[tuple[str, Any], ...],
) -> tuple[int, int, tuple[int, str] | None]:
    """Parameters, multiply-adds and ``measure.other_macs``.

    The model stands on the meta device, where the operators of a forward pass have shapes and take no time.
    """
    with torch.device("meta"):
        built = measure.build(method, model, dict(args), **dict(method_args))
    macs = count_macs(built, size)
    return measure.parameters(built), measure.thesis_macs(built, macs, size), measure.other_macs(built, macs, size)


def _comparison(
    table: str, row: str, quantity: str, unit: str, printed: str, measured: float, why: str, more: str = ""
) -> Comparison:
    decimals = len(printed.partition(".")[2])
    note = ""
    if f"{measured:.{decimals}f}" != printed:
        truncated = int(measured * 10**decimals) == round(float(printed) * 10**decimals)
        note = "; ".join(part for part in (("printed truncated", more) if truncated else (more, why)) if part)
    reported, measured = float(printed), round(measured, 6)
    return Comparison(table, row, quantity, unit, reported, measured, round(measured - reported, 6), note)


def _section_533() -> Iterator[Comparison]:
    shape = dict(tokens=56 * 56, dim=64)
    for row, printed, macs, note in [
        ("partial attention", "40.1", measure.equations_macs(**shape, heads=8, foreground=25, expand=4), ""),
        (
            "partial attention (reading=tables)",
            "40.1",
            measure.equations_macs(**shape, heads=8, foreground=49, expand=4),
            "49 foreground tokens; the printed figure needs 24 or 25",
        ),
        ("PVT attention", "58.6", measure.pvt_macs(**shape, reduction=8), ""),
        ("Swin attention", "71.1", measure.swin_macs(**shape, window=7), ""),
    ]:
        yield _comparison(SECTION, row, "multiply-adds", "M", printed, macs / 1e6, note)
