"""Studies: runs that are compared, what is kept of them, and the page that shows it."""

from collections.abc import Callable

from ._report import columns, report
from ._speed import Measured, Speed, measure, measured
from ._study import Row, Study, Trial, keep, kept, rows
from .classification import cifar10, emsnet, fashion, mat, partialformer
from .transfer import bccd, camvid, detectors, estimators, openfield, segmenters

__all__ = [
    "STUDIES",
    "Measured",
    "Row",
    "Speed",
    "Study",
    "Trial",
    "columns",
    "keep",
    "kept",
    "measure",
    "measured",
    "report",
    "rows",
]

STUDIES: dict[str, Callable[[], Study]] = {
    study.__name__: study
    for study in (
        cifar10,
        fashion,
        emsnet,
        mat,
        partialformer,
        detectors,
        segmenters,
        estimators,
        bccd,
        camvid,
        openfield,
    )
}
