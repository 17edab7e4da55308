"""Attention weights of any timm model, without a line of it in the model.

While a model is called, every softmax and every fused attention passes through ``Recorder``, which knows the module
that runs. Fused attention is computed in the open there: that is the one switch, and it needs no flag in the model.

What a layer's weights mean is read from their shape. For the layers whose shape does not tell it (windows that
overlap, abstract tokens, foreground tokens) ``READERS`` has a function by the name of their class.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from .._errors import UserError
from ._capture import call, check_layers, is_grid, token_map
from ._subject import Subject


@dataclass(frozen=True)
class Attention:
    """Attention of one kind in a layer.

    Attributes:
        kind: what it is called: ``attention``, ``windows``, ``C-MHSA``, ``abstraction``, ``fusion``, ...
        received: what each position gets, a mean over heads and queries, [B, h, w]; NaN where it takes no part.
        weights: [B, windows, heads, queries, keys]; rows sum to 1 unless ``mixed``.
        mixed: the weights are behind an MLP over the heads (PartialFormer), so rows do not sum to 1.
        queries: rows and columns of the queries, where they are all positions of a map.
        keys: likewise of the keys.
        prefix: tokens before the keys' map, such as the class token.
        before: tokens before the queries' map.
    """

    kind: str
    received: torch.Tensor
    weights: torch.Tensor
    mixed: bool = False
    queries: tuple[int, int] | None = None
    keys: tuple[int, int] | None = None
    prefix: int = 0
    before: int = 0


@dataclass
class Record:
    """What a module computed.

    Attributes:
        name: the module's.
        module: it.
        inputs: shapes of the first argument of the module and of those around it, the innermost first.
        around: the modules around it, the innermost first.
        weights: of its softmaxes and fused attentions, in their order, keys last.
        chosen: indices of its top-k, and of how many they are.
    """

    name: str
    module: Any
    inputs: list[torch.Size]
    around: list[nn.Module]
    weights: list[torch.Tensor] = field(default_factory=list)
    chosen: list[tuple[torch.Tensor, int]] = field(default_factory=list)


PARTS = ("fuse_kv", "head_mlp")


class Recorder(TorchFunctionMode):
    """Inside, calls of a model leave a record of each module that computes a softmax, an attention or a top-k."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.records: dict[str, Record] = {}
        self.outputs: dict[str, torch.Tensor] = {}  # of the parts that readers need
        self.stack: list[tuple[str, nn.Module, torch.Size]] = []
        self.handles: list[Any] = []
        self.model = model

    def __enter__(self) -> "Recorder":
        for name, module in self.model.named_modules():
            self.handles.append(module.register_forward_pre_hook(self._enter(name)))
            self.handles.append(module.register_forward_hook(self._leave))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self.handles:
            handle.remove()

    def _enter(self, name: str) -> Callable:
        def hook(module: nn.Module, args: tuple) -> None:
            shape = args[0].shape if args and isinstance(args[0], torch.Tensor) else torch.Size()
            self.stack.append((name, module, shape))

        return hook

    def _leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        name = self.stack.pop()[0]
        if name.rpartition(".")[2] in PARTS:
            self.outputs[name] = output.detach()

    def record(self) -> Record:
        """That of the module that runs; a part that is little more than a softmax counts as the one around it."""
        around = self.stack[::-1]
        if isinstance(around[0][1], nn.Softmax) or around[0][0].endswith(".head_mlp"):
            around = around[1:]
        name, module, _ = around[0]
        if name not in self.records:
            self.records[name] = Record(name, module, [shape for *_, shape in around], [m for _, m, _ in around[1:]])
        return self.records[name]

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            weights, values = open_attention(*args, **kwargs)
            self.record().weights.append(weights.detach())
            return weights @ values
        result = func(*args, **kwargs)
        if func in (F.softmax, torch.softmax, torch.Tensor.softmax):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
            self.record().weights.append(result.detach().movedim(dim, -1))
        elif func in (torch.topk, torch.Tensor.topk):
            self.record().chosen.append((result.indices.detach(), args[0].shape[-1]))
        return result


def open_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights of ``F.scaled_dot_product_attention`` in evaluation, and the values that they weigh."""
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones_like(logits, dtype=torch.bool).tril()
    if attn_mask is not None:
        keep = attn_mask.dtype == torch.bool
        logits = logits.masked_fill(~attn_mask, float("-inf")) if keep else logits + attn_mask
    return logits.softmax(-1), value


def read_attention(
    subject: Subject, images: torch.Tensor, layers: tuple[str, ...] = ()
) -> tuple[dict[str, list[Attention]], dict[str, str]]:
    """Attention of a model's layers on images [B, 3, H, W].

    Args:
        layers: modules whose attention counts, with what is in them; all without any.

    Returns:
        By the layers' names what they attend to; and for layers whose weights cannot be read, why.

    Raises:
        UserError: there is no attention, or none that can be read.
    """
    check_layers(subject.model, layers)
    with Recorder(subject.model) as recorder:
        call(subject.model, images, subject.name)
    found: dict[str, list[Attention]] = {}
    unread: dict[str, str] = {}
    for name, record in recorder.records.items():
        inside = not layers or any(name == layer or name.startswith(f"{layer}.") for layer in layers)
        if not record.weights or not inside:
            continue
        reader = READERS.get(type(record.module).__name__, read_shape)
        try:
            found[name] = reader(record, recorder, images)
        except Unreadable as error:
            unread[name] = str(error)
    if not found:
        where = f" in {', '.join(layers)}" if layers else ""
        why = "".join(f"; {name}: {reason}" for name, reason in [*unread.items()][:1])
        raise UserError(f"{subject.name} has no attention over positions{where}{why}")
    return found, unread


class Unreadable(Exception):
    """Why the weights of a layer cannot be read."""


def read_shape(record: Record, recorder: Recorder, images: torch.Tensor) -> list[Attention]:
    """Attention of all positions, or of windows in the order of a map, from the shape of its weights."""
    weights = record.weights[-1]
    if weights.ndim != 4 or weights.shape[0] % len(images):
        raise Unreadable(f"weights of shape {list(weights.shape)}")
    weights = weights.unflatten(0, (len(images), -1))  # [B, windows, heads, queries, keys]
    if weights.shape[1] > 1:
        return [_windows(record, weights, images)]
    if not {*weights.shape[-2:]} & token_counts(record):  # between channels, as XCiT's
        raise Unreadable(f"{weights.shape[-2]} times {weights.shape[-1]} weights between what are no positions")
    model = recorder.model
    keys, prefix = find_grid(weights.shape[-1], record, model, images)
    received = weights.mean((1, 2, 3))[:, prefix:].unflatten(1, keys)
    if weights.shape[-2] < weights.shape[-1]:  # MobileViTv2's queries are places in a patch, a class token's is one
        return [Attention("attention", received, weights)]
    queries, before = find_grid(weights.shape[-2], record, model, images)
    return [Attention("attention", received, weights, queries=queries, keys=keys, prefix=prefix, before=before)]


def find_grid(count: int, record: Record, model: nn.Module, images: torch.Tensor) -> tuple[tuple[int, int], int]:
    """Rows and columns of a number of tokens, and how many stand before them."""
    for shape in record.inputs:
        for i in (1, 2):
            if len(shape) == 4 and shape[i] * shape[i + 1] == count:
                return (shape[i], shape[i + 1]), 0
    if (found := token_map(count, model, *images.shape[-2:])) is None:
        raise Unreadable(f"{count} tokens make no map")
    return found


def token_counts(record: Record) -> set[int]:
    """Numbers of tokens that a module, or the one around it, may have got."""
    counts = set()
    for shape in record.inputs[:2]:
        if len(shape) == 3:
            counts.add(shape[1])
        elif len(shape) == 4:
            counts |= {shape[2], shape[3], shape[1] * shape[2], shape[2] * shape[3]}
    return counts


def _windows(record: Record, weights: torch.Tensor, images: torch.Tensor) -> Attention:
    """Swin's windows: rolled, then padded at the right and lower side, then cut row by row."""
    side: Any = getattr(record.module, "window_size", None)
    maps = [(shape[i], shape[i + 1]) for shape in record.inputs if len(shape) == 4 for i in (1, 2)]
    size = next((size for size in maps if is_grid(*size, *images.shape[-2:])), None)
    if side is None or size is None:
        raise Unreadable(f"{weights.shape[1]} groups of {weights.shape[-1]} tokens, in an order that is not known")
    side = (side, side) if isinstance(side, int) else tuple(side)
    received = tile(weights.mean((2, 3)), side, size)
    shift: Any = next((m.shift_size for m in record.around if hasattr(m, "shift_size")), 0)
    received = received.roll((shift, shift) if isinstance(shift, int) else tuple(shift), (1, 2))
    return Attention("windows", received, weights)


def tile(values: torch.Tensor, side: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """Values of windows [B, windows, places] -> a map [B, *size], without the padding."""
    rows, cols = (-(-n // w) for n, w in zip(size, side))
    if values.shape[1:] != (rows * cols, side[0] * side[1]):
        raise Unreadable(f"{values.shape[1]} windows of {values.shape[2]} tokens on a map of {size[0]}x{size[1]}")
    x = values.view(-1, rows, cols, *side).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, : size[0], : size[1]]


def read_mat(record: Record, recorder: Recorder, images: torch.Tensor) -> list[Attention]:
    """Where MAT's abstract tokens look, and how much each position gets back from them: the norm of Z (eq. 4.5)."""
    module = record.module
    H, W = record.inputs[0][1:3]
    side = (min(module.window_size, H), min(module.window_size, W))
    weights = record.weights[0].unflatten(0, (len(images), -1))
    places = side[0] * side[1]
    if not module.mix:
        return [Attention("windows", tile(weights.mean((2, 3)), side, (H, W)), weights)]
    abstraction = tile(weights[..., -1, :places].mean(2), side, (H, W))
    fusion = record.weights[2].unsqueeze(1)  # [B, 1, heads, H*W, windows]
    values = module.split_heads(recorder.outputs[f"{record.name}.fuse_kv"], 2)[1]
    z = (record.weights[2] @ values).transpose(1, 2).flatten(2).norm(dim=-1).unflatten(1, (H, W))
    return [Attention("abstraction", abstraction, weights), Attention("fusion", z, fusion)]


def read_partial(record: Record, recorder: Recorder, images: torch.Tensor) -> list[Attention]:
    """Where PartialFormer's foreground tokens look among one another, and where the background's query looks."""
    module = record.module
    mixed = recorder.outputs.get(f"{record.name}.head_mlp")  # A_F of eq. 5.5, [B, heads, M, M]
    shares = record.weights[0]  # that or, before the heads are mixed back, [B, M, more heads, M]
    received = shares.mean((1, 2))
    weights = (shares if mixed is None else mixed).unsqueeze(1)
    grid, _ = find_grid(record.inputs[0][1], record, recorder.model, images)
    if not record.chosen:  # attention="full"
        received = received.unflatten(1, grid)
        return [Attention("attention", received, weights, mixed is not None, queries=grid, keys=grid)]
    index, count = record.chosen[0]
    own = weights.shape[-1] - index.shape[1]  # 1 where the abstract token is there, before the others
    none = torch.full((len(index), count), torch.nan, device=index.device)
    received = none.scatter(1, index, received[:, own:])
    weights = weights[..., own:, own:]
    found = [Attention("foreground", received.unflatten(1, grid), weights, mixed is not None)]
    if module.attention == "partial":
        query = record.weights[-1][:, None, :, None]  # [B, 1, heads, 1, N]
        background = query.mean((1, 2, 3)).scatter(1, index, torch.nan)
        found.append(Attention("query", background.unflatten(1, grid), query))
    return found


def read_cmhsa(record: Record, recorder: Recorder, images: torch.Tensor) -> list[Attention]:
    """What each position gets in C-MHSA's overlapping windows (eq. 3.9), a mean over the windows that hold it."""
    weights = record.weights[0]  # [B, windows, heads, 9, 9]
    size = tuple(record.inputs[0][1:3])
    taps = weights.mean((2, 3)).transpose(1, 2)  # [B, 9, windows]
    place: Any = dict(output_size=size, kernel_size=3, stride=2, padding=1)
    received = F.fold(taps, **place) / F.fold(torch.ones_like(taps), **place)
    return [Attention("C-MHSA", received[:, 0], weights)]


def read_gmhsa(record: Record, recorder: Recorder, images: torch.Tensor) -> list[Attention]:
    """EMSNet's global attention between cells of 6x6 positions."""
    return [replace(found, kind="G-MHSA") for found in read_shape(record, recorder, images)]


READERS: dict[str, Callable[[Record, Recorder, torch.Tensor], list[Attention]]] = {
    "CMHSA": read_cmhsa,
    "GMHSA": read_gmhsa,
    "MATAttention": read_mat,
    "PartialAttention": read_partial,
}
