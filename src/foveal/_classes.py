"""Which class of a model is which class of data."""

from collections.abc import Sequence

from ._errors import UserError, some


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


def class_positions(name: str, own: list[str] | None, num_classes: int, classes: list[str]) -> list[int]:
    """For each class of data the class of a classifier.

    Names that agree are matched whatever their order. Folders 0, 1, 2, ... are taken for the model's indices. Folders
    that are synsets are in the order of these, where the model has no or other names; without names the data's counts.

    Args:
        name: of the model.
        own: names of its classes, if it has any.
        num_classes: of its scores.
        classes: those of the data.

    Raises:
        UserError: the names differ, or the numbers.
    """
    if own is not None and sorted(own) == sorted(classes):
        return match_classes(name, own, classes)
    if len(classes) == num_classes:
        if {*classes} == {str(i) for i in range(num_classes)}:
            return [int(name) for name in classes]
        if _synsets(classes) and not (own is not None and _synsets(own)):
            return match_classes(name, sorted(classes), classes)
        if own is None:
            return [*range(num_classes)]
    if own is None or len(classes) != num_classes:
        raise UserError(f"{name} has {num_classes} classes, the data {len(classes)}: {some(classes, 4)}")
    return match_classes(name, own, classes)


def check_scores(
    name: str, shape: Sequence[int], classes: list[str] | None, titles: dict[str, str]
) -> tuple[int, list[str]]:
    """How many classes a classifier has, and what to call them before people.

    Args:
        name: of the classifier.
        shape: of what it gives for two pictures.
        classes: names, if it has any.
        titles: what to call a class, if not its name.

    Raises:
        UserError: no classifier gives such scores, or they are not as many as the names.
    """
    if len(shape) != 2 or shape[1] < 1:
        raise UserError(f"{name} is no classifier: it gives {list(shape)} for two pictures")
    if classes is not None and len(classes) != shape[1]:
        raise UserError(f"{name} names {len(classes)} classes but gives {shape[1]} scores")
    return shape[1], [titles.get(name, name) for name in classes or map(str, range(shape[1]))]


def _synsets(names: list[str]) -> bool:
    return all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in names)
