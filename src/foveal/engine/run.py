"""What a run is: plain data that goes to JSON and back."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .._errors import UserError, unknown
from ..tasks import TASKS, TaskArgs


@dataclass(kw_only=True)
class Optim:
    """Optimiser and schedule.

    Attributes:
        opt: optimiser, by timm's names.
        lr: peak learning rate; it is not scaled with the batch.
        betas: decay rates of Adam's averages; empty for the optimiser's own.
        momentum: of SGD and its relatives.
        weight_decay: of weights with two or more dimensions, less the model's no_weight_decay.
        layer_decay: factor of the learning rate from one layer group to the one below it; 1 for none.
        schedule: from the peak downwards, by step: cosine, poly, step or constant.
        warmup_epochs: linear warm-up at the start.
        warmup_steps: the same counted in steps, in place of epochs.
        warmup_lr: learning rate before the first step.
        min_lr: learning rate behind the last one.
        poly_power: exponent of the poly schedule.
        decay_epochs: where the step schedule multiplies by decay_rate.
        decay_rate: factor of the step schedule.
        clip_grad: largest norm of the gradient; 0 for no limit.
    """

    opt: str = "adamw"
    lr: float = 1e-3
    betas: tuple[float, ...] = ()
    momentum: float = 0.9
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    schedule: Literal["cosine", "poly", "step", "constant"] = "cosine"
    warmup_epochs: float = 1.0
    warmup_steps: int = 0
    warmup_lr: float = 0.0
    min_lr: float = 0.0
    poly_power: float = 0.9
    decay_epochs: tuple[float, ...] = ()
    decay_rate: float = 0.1
    clip_grad: float = 1.0


@dataclass(kw_only=True)
class Run:
    """One training run; a recipe returns it, the command line overrides its fields, and it is stored with the result.

    Attributes:
        recipe: the recipe that it came from.
        task: what is trained.
        data: a data set's name, a folder, a list, or shards.
        val_data: validation pictures, where they lie elsewhere.
        root: where a named data set lies.
        out: folder of the run; must not exist, unless the run is resumed.
        epochs: passes over the training pictures.
        batch_size: pictures of one process a backward pass.
        accumulate: backward passes a step; a step sees processes * batch_size * accumulate pictures.
        optim: optimiser and schedule.
        ema_decay: decay of the averaged weights, which are evaluated and saved as the best; 0 for none. It begins at 0
            and is 1 - step^(-2/3) until it is reached, so that short runs forget what they began with.
        precision: of the forward pass; weights stay in float32.
        channels_last: memory format of weights and pictures.
        compile: run the model under torch.compile.
        grad_checkpointing: compute activations again in the backward pass to save memory.
        sync_bn: BatchNorm over all processes (CUDA).
        fsdp: shard weights, gradients and optimiser over the processes.
        seed: of weights, order, augmentation and all else that is random.
        workers: processes that read pictures; 0 reads them between the steps.
        device: where to train, as torch names it.
        on_bad_image: stop at a picture that cannot be read, or skip it and list it.
        save_steps: steps between two checkpoints; one is also written after every epoch. 0 for no more than that.
        logger: wandb or trackio, which must be installed; TensorBoard and JSON lines are written always.
    """

    recipe: str
    task: TaskArgs
    data: str
    val_data: str | None = None
    root: Path | None = None
    out: Path
    epochs: int = 10
    batch_size: int = 128
    accumulate: int = 1
    optim: Optim = field(default_factory=Optim)
    ema_decay: float = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    grad_checkpointing: bool = False
    sync_bn: bool = False
    fsdp: bool = False
    seed: int = 0
    workers: int = 0
    device: str = "cpu"
    on_bad_image: Literal["stop", "skip"] = "stop"
    save_steps: int = 0
    logger: Literal["wandb", "trackio"] | None = None

    def __post_init__(self):
        optim = self.optim
        at_least(1, self, "epochs", "batch_size", "accumulate")
        at_least(0, self, "seed", "workers", "save_steps")
        at_least(0, optim, "weight_decay", "warmup_epochs", "warmup_steps", "warmup_lr", "min_lr", "clip_grad")
        at_least(0, optim, "poly_power", "decay_rate")
        if not 0 < optim.lr < math.inf:
            raise UserError(f"lr must be above 0, got {optim.lr}")
        if not 0 < optim.layer_decay <= 1:
            raise UserError(f"layer-decay must be in (0, 1], got {optim.layer_decay}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema-decay must be in [0, 1), got {self.ema_decay}")
        if optim.warmup_epochs > self.epochs:
            raise UserError(f"warmup-epochs must not exceed the {self.epochs} epoch(s), got {optim.warmup_epochs}")
        if optim.warmup_epochs and optim.warmup_steps:
            raise UserError("warmup-epochs and warmup-steps exclude each other; set one of them to 0")
        if len(optim.betas) == 1:
            raise UserError("betas takes two numbers or more")
        if self.seed >= 2**31:
            raise UserError(f"seed must be below {2**31}, got {self.seed}")
        if bool(optim.decay_epochs) != (optim.schedule == "step"):
            raise UserError("decay-epochs and the step schedule need each other")
        for name, schedule in (("poly_power", "poly"), ("decay_rate", "step")):
            if optim.schedule != schedule and getattr(optim, name) != getattr(Optim(), name):
                raise UserError(f"{name.replace('_', '-')} has no effect without the {schedule} schedule")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; ``task`` gets its kind."""
        values = asdict(self)
        return json.loads(json.dumps(values | {"task": {"kind": self.task.data, **values["task"]}}, default=str))

    @classmethod
    def from_dict(cls, values: Any) -> "Run":
        """The run of ``to_dict``; raises UserError for unknown, missing or malformed fields."""
        task = values.get("task") if isinstance(values, dict) else None
        task = dict(task) if isinstance(task, dict) else {}
        kind = task.pop("kind", None)
        if kind not in TASKS:
            raise unknown("task", str(kind), TASKS)
        return _build(cls, values | {"task": _build(TASKS[kind], task)})

    def differences(self, other: "Run", ignore: tuple[str, ...] = ()) -> list[str]:
        """Where ``other`` differs, as "optim.lr: 0.001 stored, 0.01 given"."""
        ours, theirs = (dict(flat(run.to_dict())) for run in (self, other))
        names = [
            name for name in ours | theirs if name.split(".")[0] not in ignore and ours.get(name) != theirs.get(name)
        ]
        return [f"{name}: {ours.get(name)} stored, {theirs.get(name)} given" for name in names]


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields with those within them, as ``optim.lr``."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def at_least(least: int, part: Any, *names: str) -> None:
    """Raise UserError for a field of a part of a run whose value is below ``least``, infinite or no number."""
    for name in names:
        if not least <= (value := getattr(part, name)) < math.inf:
            rule = "must not be below 0" if least == 0 else f"must be above {least - 1}"
            raise UserError(f"{name.replace('_', '-')} {rule}, got {value}")


def _build(cls: Any, values: Any) -> Any:
    """A dataclass from what JSON holds of it; raises UserError."""
    hints, made = get_type_hints(cls), {}
    if not isinstance(values, dict):
        raise UserError(f"malformed run: expected the fields of {cls.__name__}, got {values!r}")
    if odd := values.keys() - {f.name for f in fields(cls)}:
        raise UserError(f"unknown fields of a run: {', '.join(sorted(odd))}")
    for name, value in values.items():
        hint = hints[name]
        if is_dataclass(hint) and not is_dataclass(value):
            value = _build(hint, value)
        elif isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, str) and Path in (hint, *get_args(hint)):
            value = Path(value)
        if not _fits(value, hint):
            raise UserError(f"malformed run: {name} cannot be {value!r}")
        made[name] = value
    try:
        return cls(**made)
    except TypeError as error:
        raise UserError(f"incomplete run: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in args
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in args)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(part, args[0]) for part in value)
    if hint is float:
        return type(value) in (int, float)
    if hint in (int, bool, str):
        return type(value) is hint
    return isinstance(value, origin or (type(None) if hint is None else hint))
