"""The one graph that all targets are made from: images in, named tensors out, nothing of training in it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from timm.utils import reparameterize_model
from torch import nn
from torch.export import Dim, ExportedProgram

from .._errors import UserError, cause
from ..segmentation._segmenter import enlarged
from ._decode import decode
from ._fold import cut_weights, flatten_tokens, fold_norms, forget_bounds, forget_layout, forget_sources
from ._quiet import quiet
from ._source import Source

BATCH = 2  # of the example: a batch of 1 would be taken for a constant
SMALLEST = 224  # EMSNet pools its map of stride 32 by 6
AXES = {0: "batch", 2: "height", 3: "width"}


@dataclass(frozen=True)
class Output:
    """One output of a graph.

    Attributes:
        name: of the tensor.
        shape: numbers, and names of what is free.
        what: it is.
    """

    name: str
    shape: tuple[int | str, ...]
    what: str


class Graph(nn.Module):
    """A model as a function from images [B, 3, H, W] to a tuple of tensors.

    Args:
        model: it is not changed.
        function: from model and images to the outputs.
    """

    def __init__(self, model: nn.Module, function: Callable[[Any, torch.Tensor], tuple[torch.Tensor, ...]]):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.function(self.model, images)


@dataclass
class Prepared:
    """A model that is ready for every target.

    Attributes:
        source: where it is from.
        graph: the definition, which the targets are compared with.
        outputs: what the graph gives.
        decoding: what has been done to the outputs and what is left to do.
        size: height and width in pixels of the example.
        programs, onnx: what was made of it so far, for the next target.
    """

    source: Source
    graph: Graph
    outputs: list[Output]
    decoding: dict[str, Any]
    size: tuple[int, int]
    programs: dict[Any, ExportedProgram] = field(default_factory=dict)
    onnx: dict[tuple[str, ...], Any] = field(default_factory=dict)

    @property
    def counted(self) -> bool:
        """Whether the outputs are lists of what was found, as long as what was found is many."""
        return self.outputs[0].name == "boxes"

    @property
    def advice(self) -> str:
        """The end of an error of a runtime that does not take the graph."""
        return "; try without decoding (--raw)" if self.counted else ""

    @cached_property
    def fused(self) -> Graph:
        """The graph with layers that are made for inference; see ``fuse`` of layers and blocks."""
        return Graph(reparameterize_model(self.graph.model), self.graph.function)

    def expected(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the definition gives."""
        with torch.inference_mode():
            return {out.name: value for out, value in zip(self.outputs, self.graph(images), strict=True)}

    def traced(self, free: tuple[str, ...]) -> tuple[int, int]:
        """Height and width of what ``torch.export`` sees.

        Where they are free no map may be one position wide, which would be taken for a constant, and both must differ.
        """
        height, width = (max(side, SMALLEST) if "height" in free else side for side in self.size)
        return height, width + (32 if "height" in free and height == width else 0)

    def program(
        self, free: tuple[str, ...], most: dict[str, int] | None = None, *, layout: bool = True
    ) -> ExportedProgram:
        """The graph by ``torch.export``, norms folded into convolutions, and of weights what is read.

        Args:
            free: which of batch, height and width may differ from the example's.
            most: of each, where a target has to know how large it can be.
            layout: keep what changes the layout of maps in memory, which is for PyTorch alone.

        Raises:
            UserError: ``torch.export`` does not take the model.
        """
        key = free, tuple((most or {}).items()), layout
        if key not in self.programs:
            batch = BATCH if "batch" in free else 1
            example = torch.zeros(batch, 3, *self.traced(free))
            dims = {axis: _dim(name, most) for axis, name in AXES.items() if name in free}
            try:
                with torch.no_grad(), quiet():
                    program = torch.export.export(self.fused, (example,), dynamic_shapes=(dims,) if dims else None)
            except Exception as error:  # torch.export has no base of its errors
                raise UserError(f"torch.export does not take {self.source.stem}: {cause(error)}") from None
            forget_bounds(program)
            forget_sources(program)
            fold_norms(program)
            cut_weights(program)
            flatten_tokens(program)
            if not layout:
                forget_layout(program)
            self.programs[key] = program
        return self.programs[key]


def _dim(name: str, most: dict[str, int] | None) -> Any:
    return Dim.DYNAMIC(max=most[name]) if most else Dim.DYNAMIC


def prepare(source: Source, *, raw: bool = False, size: tuple[int, int] | None = None) -> Prepared:
    """The graph of a model of any task.

    Args:
        raw: leave decoding and suppression of detections, and the enlargement of segmentations, to the user.
        size: height and width in pixels of the example; that of the model without it.

    Raises:
        UserError: ``raw`` has no effect on the task.
    """
    if raw and source.task not in ("detection", "segmentation"):
        raise UserError(f"--raw has no effect on {source.task}: its outputs are raw")
    size = size or source.size
    model: Any = source.model
    if source.task == "classification":
        classes = len(source.classes) if source.classes else "classes"
        outputs = [Output("logits", ("batch", classes), "of each class, before the softmax")]
        return Prepared(source, Graph(model, _classified), outputs, source.decoding, size)
    if source.task == "segmentation":
        shape = ("batch", model.num_classes, *(("height/4", "width/4") if raw else ("height", "width")))
        where = "at a quarter of the sides, these rounded up to multiples of 32" if raw else "for each pixel"
        outputs = [Output("logits", shape, f"of each class, before the softmax, {where}")]
        return Prepared(source, Graph(model, _coarse if raw else _segmented), outputs, {"full_size": not raw}, size)
    if source.task == "keypoints":
        shape = ("batch", model.num_classes, "height/4", "width/4")
        outputs = [Output("heatmaps", shape, "of each joint, 1 where it lies")]
        return Prepared(source, Graph(model, _heatmaps), outputs, source.decoding, size)
    if raw:
        return _raw_detector(source, size)
    outputs = [
        Output("boxes", ("found", 4), "x1, y1, x2, y2 in pixels of the images"),
        Output("scores", ("found",), "from 0 to 1, from high to low within a picture"),
        Output("labels", ("found",), "places in the list of classes"),
        Output("pictures", ("found",), "places in the batch, from low to high"),
    ]
    if model.masks:
        outputs.append(Output("masks", ("found", 28, 28), "probabilities over the area of each box"))
    return Prepared(source, Graph(model, _detected), outputs, {"decoded": True, "threshold": _least(model)}, size)


def _least(model: Any) -> float:
    """The score below which the graph gives nothing."""
    return float(getattr(model, "score_thresh", getattr(model, "box_score_thresh", 0.0)))


def _raw_detector(source: Source, size: tuple[int, int]) -> Prepared:
    """The graph of a detector's raw outputs, whose names a call tells."""
    model: Any = source.model
    with torch.inference_mode():
        first = _flat(model(torch.zeros(BATCH, 3, *size)))

    def function(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = _flat(model(images))
        return tuple(flat[name] for name in first)

    what = f"see the detector's forward in foveal.detection.{source.head}"
    outputs = [Output(name, tuple(f"{name}_{i}" for i in range(x.ndim)), what) for name, x in first.items()]
    return Prepared(source, Graph(model, function), outputs, {"decoded": False}, size)


def _flat(raw: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Raw outputs by one name each, without the sizes that came in."""
    flat = {}
    for name, value in raw.items():
        if isinstance(value, list):
            flat |= {f"{name}.{i}": one for i, one in enumerate(value)}
        elif name != "sizes":
            flat[name] = value
    return flat


def _classified(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (model(images),)


def _coarse(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (model(images)["logits"],)


def _segmented(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (enlarged(model(images)["logits"], images.shape[2:]),)


def _heatmaps(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (model(images)["heatmaps"],)


def _detected(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(decode(model, model(images), images))
