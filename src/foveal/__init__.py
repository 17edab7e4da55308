"""foveal: EMSNet, MAT Transformer and PartialFormer as timm models, and what surrounds a backbone."""

from typing import TYPE_CHECKING, Any

try:
    import torch
except ModuleNotFoundError:  # exported files run without it: see foveal.runtime
    torch = None
else:
    from . import backbones as backbones  # registers the models with timm

if TYPE_CHECKING:
    from .tasks import load_classifier as load_classifier
    from .tasks import load_detector as load_detector
    from .tasks import load_keypoints as load_keypoints
    from .tasks import load_segmenter as load_segmenter

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What loads a trained model, imported when it is asked for: models alone need none of it."""
    if name in ("load_classifier", "load_detector", "load_keypoints", "load_segmenter"):
        from . import tasks

        return getattr(tasks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
