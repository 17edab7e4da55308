"""The one error that a user causes, and how to answer an unknown name."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Bad input: its message says in one line what was wrong and what would be right.

    Not a ValueError, which tyro would catch and print in a frame.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a ``name`` that is not among the ``known`` ones, with the nearest of them."""
    known = sorted(known)
    near = get_close_matches(name, known, n=3, cutoff=0.4) or known[:8]
    return UserError(f"unknown {kind} {name!r}; nearest: {', '.join(near)}")
