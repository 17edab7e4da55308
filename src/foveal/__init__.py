"""foveal: EMSNet, MAT Transformer and PartialFormer as timm models, and what surrounds a backbone."""

from . import backbones  # noqa: F401 - registers the models with timm

__version__ = "0.1.0"
