"""Which class of a model is which class of data."""

from .._errors import UserError, some


def match_classes(name: str, own: list[str], classes: list[str]) -> list[int]:
    """For each class of data the place of its name in ``own``, the classes of the model ``name``; the order is free.

    Raises:
        UserError: the names differ.
    """
    if sorted(own) != sorted(classes):
        missing, odd = sorted({*own} - {*classes}), sorted({*classes} - {*own})
        raise UserError(f"the classes differ; only {name} has {some(missing, 4)}; only the data {some(odd, 4)}")
    place = {name: i for i, name in enumerate(own)}
    return [place[name] for name in classes]
