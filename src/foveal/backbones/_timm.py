"""How the families enter timm: the metadata and the builder that every variant shares."""

from typing import Any, Callable, Optional, TypeVar

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs

from ..layers import PyramidBackbone

T = TypeVar("T", bound=PyramidBackbone)


def default_cfgs(first_conv: str, *variants: str) -> dict:
    """Pretrained configurations of variants without weights: 224 px, ImageNet statistics, bicubic, crop 0.875."""
    cfg = dict(
        url="",
        num_classes=1000,
        input_size=(3, 224, 224),
        pool_size=(7, 7),
        crop_pct=0.875,
        interpolation="bicubic",
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        first_conv=first_conv,
        classifier="head.fc",
        license="apache-2.0",
        paper_name="Efficient Vision Transformers with Multi-Scale and Partial Attentions for Object Recognition",
    )
    return generate_default_cfgs({f"{variant}.untrained": cfg for variant in variants})


def build(
    cls: type[T],
    variant: str,
    pretrained: bool,
    defaults: dict[str, Any],
    kwargs: dict[str, Any],
    filter_fn: Optional[Callable] = None,
) -> T:
    """Build ``cls`` with ``defaults`` overridden by ``kwargs``, as a classifier or (``features_only``) a pyramid."""
    return build_model_with_cfg(
        cls,
        variant,
        pretrained,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls="getter"),
        pretrained_filter_fn=filter_fn,
        **dict(defaults, **kwargs),
    )
