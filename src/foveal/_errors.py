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


def check_model(name: str) -> None:
    """Raise UserError unless timm knows the model."""
    import timm  # not at the top: what runs an exported file needs none of PyTorch

    if "/" in name and ":" not in name:
        raise UserError(f"no such folder: {name}; expected that of a run, or the name of a model")
    if not timm.is_model(name):
        raise unknown("model", name, timm.list_models())


def some(names: list[str], most: int) -> str:
    """The first of some names in one line, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def one_line(error: BaseException) -> str:
    """What an error says, all of it; of load_state_dict's lists of keys, the beginning of each."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(line if len(line) <= 160 else f"{line[:160]} ..." for line in lines[:4]) or type(error).__name__


def last_line(error: BaseException) -> str:
    """The last line of what an error says, behind where it came from."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1]


def cause(error: BaseException) -> str:
    """What the error behind an error says, in one line: the first that was raised."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def does_not_run(model: str, error: Exception) -> UserError:
    """The error for a model that was built or called with what it does not take."""
    return UserError(f"{model} does not run at this setting: {first_line(error)}")
