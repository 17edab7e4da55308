"""How the families enter timm: the metadata and the builder that every variant shares."""

from typing import Any, Callable, Optional, TypeVar

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, resolve_pretrained_cfg

from .._weights import WEIGHTS, file_name, find
from ..layers import PyramidBackbone

T = TypeVar("T", bound=PyramidBackbone)


def default_cfgs(first_conv: str, *variants: str) -> dict:
    """Pretrained configurations: of variants 224 px, ImageNet's statistics, bicubic, crop 0.875; of weights their own.

    A name without a tag means no weights: those of small pictures have to be asked for by their tag.
    """
    cfg: dict[str, Any] = dict(
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
    known = [name for name in WEIGHTS if name.partition(".")[0] in variants]
    cfgs: dict[str, Any] = {name: cfg | WEIGHTS[name].cfg | {"file": file_name(name)} for name in known}
    return generate_default_cfgs(cfgs | {f"{variant}.untrained*": cfg for variant in variants})  # *: the default


def build(
    cls: type[T],
    variant: str,
    pretrained: bool,
    defaults: dict[str, Any],
    kwargs: dict[str, Any],
    filter_fn: Optional[Callable] = None,
) -> T:
    """Build ``cls`` with ``defaults`` overridden by ``kwargs``, as a classifier or (``features_only``) a pyramid.

    Raises:
        UserError: the file of shipped weights is missing or another one.
    """
    if pretrained:
        kwargs = _with_file(variant, kwargs)
    return build_model_with_cfg(
        cls,
        variant,
        pretrained,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls="getter"),
        pretrained_filter_fn=filter_fn,
        **dict(defaults, **kwargs),
    )


def _with_file(variant: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments for timm in which shipped weights are a file that is there; the registry has its name alone."""
    overlay = kwargs.get("pretrained_cfg_overlay")
    cfg = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), overlay)
    name = f"{variant}.{cfg.tag}"
    if name not in WEIGHTS or cfg.file != file_name(name):
        return kwargs
    return kwargs | {"pretrained_cfg_overlay": {**(overlay or {}), "file": str(find(name))}}
