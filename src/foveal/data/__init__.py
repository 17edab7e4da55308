"""Data sets: one file per format, each giving a training and a validation list of labelled pictures."""

from collections.abc import Callable
from pathlib import Path

from .._errors import UserError, unknown
from ._pictures import BadImage, Pictures, make_loader, open_image
from .fashion_mnist import BUILT_IN, fashion_mnist
from .image_folder import image_folder

__all__ = ["DATASETS", "BadImage", "Pictures", "load_data", "make_loader", "open_image"]


def _fashion(root: Path | None) -> tuple[Pictures, Pictures]:
    if root is not None:
        raise UserError("--root has no effect on the built-in data 'fashion'; the full set is --data fashion-mnist")
    return fashion_mnist(BUILT_IN)


def _fashion_mnist(root: Path | None) -> tuple[Pictures, Pictures]:
    if root is None:
        raise UserError("--data fashion-mnist needs --root, the folder of its four IDX files")
    return fashion_mnist(root)


DATASETS: dict[str, Callable[[Path | None], tuple[Pictures, Pictures]]] = {
    "fashion": _fashion,
    "fashion-mnist": _fashion_mnist,
}


def load_data(name: str, root: Path | None = None) -> tuple[Pictures, Pictures]:
    """Training and validation pictures of a named data set or of a folder of pictures.

    Args:
        name: a key of ``DATASETS``, or a folder of shape ``class/picture`` or ``train/ val/``.
        root: where a named data set lies.

    Raises:
        UserError: an unknown name, a missing or malformed data set.
    """
    if name in DATASETS:
        return DATASETS[name](root)
    if Path(name).is_dir():
        if root is not None:
            raise UserError("--root has no effect on a folder of pictures")
        return image_folder(Path(name))
    if "/" in name:
        raise UserError(f"no such folder: {name}")
    raise unknown("data set or folder", name, DATASETS)
