"""What a model computes on the way: outputs of modules by name, as maps [B, C, H, W].

The models know nothing of it. They are called with autograd on and no parameter that needs it: then every module of the
definition runs (no fast path leaves one out), and no graph is kept, unless images or a layer start one.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .._errors import UserError, does_not_run, unknown

INPUT = ":input"  # behind the name of a layer: what it gets instead of what it gives


def module_name(layer: str) -> str:
    """The module of a layer's name, which may end in ``:input``."""
    return layer.removesuffix(INPUT)


def check_layers(model: nn.Module, layers: Iterable[str]) -> None:
    """Raise UserError, with the nearest names, for a layer that the model does not have."""
    known = [name for name, _ in model.named_modules() if name]
    for layer in layers:
        if layer not in known:
            raise unknown("layer", layer, known)


@contextmanager
def capturing(model: nn.Module, layers: Iterable[str], graph: bool = False) -> Iterator[dict[str, torch.Tensor]]:
    """Inside, a call of the model fills the dictionary with the outputs of the layers, in the order in which they end.

    Of a tuple or a list it is the first; of a layer that is called several times the last. A name that ends in
    ``:input`` is the module's first argument. ``graph`` keeps what leads from the images to the outputs.

    Raises:
        UserError: the model has no such layer.
    """
    layers = [*layers]
    check_layers(model, map(module_name, layers))
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any = None) -> None:
            output = args if name.endswith(INPUT) else output
            output = output[0] if isinstance(output, (list, tuple)) else output
            if isinstance(output, torch.Tensor):
                seen.pop(name, None)
                seen[name] = (output if graph else output.detach()).clone()  # what follows may write into it

        module = model.get_submodule(module_name(name))
        return (module.register_forward_pre_hook if name.endswith(INPUT) else module.register_forward_hook)(hook)

    handles = [keep(name) for name in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def severed(model: nn.Module, layer: str) -> Iterator[dict[str, torch.Tensor]]:
    """Inside, a call of the model fills the dictionary with a layer's output, at which the graph of what follows ends.

    Raises:
        UserError: the model has no such layer.
    """
    check_layers(model, [layer])
    seen: dict[str, torch.Tensor] = {}

    def cut(module: nn.Module, args: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, (list, tuple)) else output
        if not isinstance(first, torch.Tensor):
            return output
        seen[layer] = first.detach().requires_grad_()
        behind = seen[layer].clone()  # what follows may overwrite it
        return type(output)([behind, *output[1:]]) if isinstance(output, (list, tuple)) else behind

    handle = model.get_submodule(layer).register_forward_hook(cut)
    try:
        yield seen
    finally:
        handle.remove()


def call(model: nn.Module, images: torch.Tensor, name: str) -> torch.Tensor:
    """The output of a model by its definition, without a fast path; raises UserError for a size it does not take."""
    try:
        with torch.enable_grad():
            return model(images)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise does_not_run(name, error) from None


def capture_maps(
    model: nn.Module, layers: Iterable[str], images: torch.Tensor, name: str, graph: bool = False
) -> dict[str, torch.Tensor]:
    """Outputs of layers as maps [B, C, H, W], in the order in which they end; raises UserError if one is no map."""
    with capturing(model, layers, graph) as seen:
        call(model, images, name)
    maps = as_maps(seen, model, images.shape[-2:])
    for layer in layers:
        if layer not in maps:
            what = f"gives {list(seen[layer].shape)}, which is no map" if layer in seen else "gives no tensor"
            raise UserError(f"layer {layer} of {name} {what}")
    return maps


def find_blocks(model: nn.Module, images: torch.Tensor, name: str) -> list[str]:
    """Names of the blocks of any timm model, in the order in which they end.

    Blocks are what stands in a list (``nn.Sequential``, ``nn.ModuleList``), has two or more weights of its own and
    gives a map. Of such modules inside one another the outer one is a stage, and no block, if it gives a map of the
    same shape as one within; otherwise what is within is a part of a block. Models without any have the levels of
    timm's ``feature_info``.

    Raises:
        UserError: there are neither.
    """
    candidates = [
        f"{path}.{child}" if path else child
        for path, module in model.named_modules()
        if isinstance(module, (nn.Sequential, nn.ModuleList))
        for child, part in module.named_children()
        if child.isdigit() and sum(p.ndim > 1 for p in part.parameters()) > 1
    ]
    with capturing(model, candidates) as seen:
        call(model, images[:1], name)
    maps = as_maps(seen, model, images.shape[-2:])
    stages = {a for a in maps for b in maps if b.startswith(f"{a}.") and maps[a].shape == maps[b].shape}
    inner = {b for a in maps for b in maps if b.startswith(f"{a}.") and a not in stages}
    blocks = [block for block in maps if block not in stages | inner]
    return blocks or find_levels(model, name)


def find_levels(model: nn.Module, name: str) -> list[str]:
    """Names of the modules whose outputs are the levels of timm's ``feature_info``; raises UserError without any."""
    modules = dict(model.named_modules())
    info: Any = getattr(model, "feature_info", [])
    if not isinstance(info, list):  # timm has taken the model apart, and its stages.0 is called stages_0
        info = [{"module": level["module"].replace(".", "_")} for level in info.info]
    levels = [level["module"] for level in info if level["module"] in modules]
    if not levels:
        raise UserError(f"{name} does not say which of its layers give maps; name them")
    return levels


def as_maps(outputs: dict[str, torch.Tensor], model: nn.Module, size: Iterable[int]) -> dict[str, torch.Tensor]:
    """Those of some outputs that are maps, or lists of tokens, as [B, C, H, W].

    Where the place of the channels cannot be told from the shape, for a map as high or wide as it has channels, it is
    that of other outputs of such modules, or of most.

    Args:
        outputs: by the name of the module.
        size: height and width of the images.
    """
    height, width = size
    readings: dict[str, list[bool]] = {}  # whether the channels may come first
    for name, x in outputs.items():
        if x.ndim == 4:
            fits = [is_grid(x.shape[i], x.shape[i + 1], height, width) for i in (2, 1)]
            readings[name] = [first for first, fit in zip((True, False), fits) if fit]
    kinds = {name: type(model.get_submodule(module_name(name))) for name in readings}
    certain = [(kinds[name], found[0]) for name, found in readings.items() if len(found) == 1]
    usual = sum(first for _, first in certain) * 2 >= len(certain)
    maps = {}
    for name, x in outputs.items():
        if x.ndim == 3:
            if (found := token_map(x.shape[1], model, height, width)) is not None:
                grid, prefix = found
                maps[name] = x[:, prefix:].transpose(1, 2).unflatten(2, grid)
        elif readings.get(name):
            kind = kinds[name]
            same = [first for other, first in certain if other is kind]
            first = readings[name][0]
            if len(readings[name]) == 2:
                first = issubclass(kind, nn.Conv2d) or (same[0] if same else usual)
            maps[name] = x if first else x.permute(0, 3, 1, 2)
    return maps


def is_grid(rows: int, cols: int, height: int, width: int) -> bool:
    """Whether a map of this size may be that of an image of the given height and width."""
    return rows <= height and cols <= width and abs(cols - width * rows / height) <= 1


def token_map(count: int, model: nn.Module, height: int, width: int) -> tuple[tuple[int, int], int] | None:
    """Rows and columns of a number of tokens, and how many stand before them: those of the model or, before they have
    joined (CaiT), none; None if neither makes a map."""
    own = getattr(model, "num_prefix_tokens", 0)
    for prefix in (own, 0) if count > own else ():
        if (grid := token_grid(count - prefix, height, width)) is not None:
            return grid, prefix
    return None


def token_grid(count: int, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of a number of tokens, in about the proportions of the image; None if there are none."""
    grids = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    grids = [grid for grid in grids if is_grid(*grid, height, width)]
    return min(grids, key=lambda grid: abs(math.log(grid[0] * width / grid[1] / height)), default=None)
