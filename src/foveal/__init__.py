"""foveal: EMSNet, MAT Transformer and PartialFormer as timm models, and what surrounds a backbone."""

from typing import TYPE_CHECKING, Any

from . import backbones  # noqa: F401 - registers the models with timm

if TYPE_CHECKING:
    from .tasks import load_classifier as load_classifier
    from .tasks import load_detector as load_detector

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``load_classifier`` and ``load_detector``, imported when they are asked for: models alone need none of it."""
    if name in ("load_classifier", "load_detector"):
        from . import tasks

        return getattr(tasks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
