"""``foveal tables [N.N] [--markdown | --json]``"""

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from itertools import groupby
from typing import Annotated

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .._errors import UserError, unknown
from ..fidelity import KNOWN, Comparison, compare


def main(
    table: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[N.N]")] = None,
    /,
    *,
    markdown: bool = False,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """The thesis's parameters and multiply-adds, reported beside measured here.

    Args:
        table: number of a table or section (3.1, 5.3.3); all without it.
        markdown: print Markdown.
        as_json: print a JSON list of objects.
    """
    if table is not None and table not in KNOWN:
        raise unknown("table", table, KNOWN)
    if markdown and as_json:
        raise UserError("--markdown and --json exclude each other")
    comparisons = compare(table)
    if as_json:
        print(json.dumps([asdict(comparison) for comparison in comparisons], indent=1))
        return 0
    for number, rows in groupby(comparisons, key=lambda comparison: comparison.table):
        show = _markdown if markdown else _rich
        show(f"{'Section' if number.count('.') > 1 else 'Table'} {number}: {KNOWN[number]}", rows)
    if not markdown:
        print("next: foveal bench MODEL PEER...")
    return 0


def _numbers(c: Comparison) -> list[str]:
    return [f"{c.reported:g}", f"{c.measured:.3f}", f"{c.difference:+.3f}"]


def _markdown(title: str, rows: Iterable[Comparison]) -> None:
    header = [field.name for field in fields(Comparison)][1:]
    print(f"### {title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for c in rows:
        print(f"| {' | '.join([c.row, c.quantity, c.unit, *_numbers(c), c.note])} |")
    print()


def _rich(title: str, rows: Iterable[Comparison]) -> None:
    shown = Table("row", "quantity", title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("reported", "measured", "difference"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("note", no_wrap=True)
    notes: list[str] = []
    for c in rows:
        if c.note and c.note not in notes:
            notes.append(c.note)
        mark = f"({notes.index(c.note) + 1})" if c.note else ""
        shown.add_row(c.row, f"{c.quantity}, {c.unit}", *_numbers(c), mark)
    console = Console(highlight=False)
    console.print(shown)
    for i, note in enumerate(notes, start=1):
        console.print(f"({i}) {note}", soft_wrap=True)
    console.print()
