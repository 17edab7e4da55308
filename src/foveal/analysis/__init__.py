"""The thesis's analyses, of any timm model: one file each, a function that gives a ``Result``."""

from collections.abc import Callable

from ._result import Result
from ._subject import Setting, Subject, load_pictures, load_subject
from .attention import attention
from .fourier import fourier
from .gradcam import gradcam
from .interaction import interaction
from .receptive import receptive
from .report import Report, report
from .similarity import similarity
from .tokens import tokens

ANALYSES: dict[str, Callable[..., Result]] = {
    function.__name__: function
    for function in [fourier, attention, similarity, tokens, gradcam, receptive, interaction]
}

__all__ = [
    "ANALYSES",
    "Report",
    "Result",
    "Setting",
    "Subject",
    "attention",
    "fourier",
    "gradcam",
    "interaction",
    "load_pictures",
    "load_subject",
    "receptive",
    "report",
    "similarity",
    "tokens",
]
