"""What a run is: plain data that goes to JSON and back."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from .._errors import UserError


@dataclass(kw_only=True)
class Run:
    """One training run; a recipe returns it, the command line overrides its fields, and it is stored with the result.

    Attributes:
        recipe: the recipe that it came from.
        model: name of any timm model.
        model_args: further arguments of the model, as JSON.
        data: a data set's name or a folder of pictures.
        root: where a named data set lies.
        out: folder of the run; must not exist.
        image_size: side of the square pictures in pixels.
        epochs: passes over the training pictures.
        batch_size: pictures a step.
        lr: peak learning rate of AdamW.
        weight_decay: of weights with two or more dimensions.
        warmup_epochs: linear warm-up; a cosine to zero follows.
        clip_grad: largest norm of the gradient.
        smoothing: label smoothing.
        ema_decay: decay of the averaged weights, which are evaluated and saved; 0 for none.
        seed: of weights, order and augmentation.
        workers: processes that read pictures; 0 reads them between the steps.
        device: where to train, as torch names it.
        on_bad_image: ``stop`` at a picture that cannot be read, or ``skip`` and list it.
    """

    recipe: str
    model: str
    model_args: dict[str, Any] = field(default_factory=dict)
    data: str
    root: Path | None = None
    out: Path
    image_size: int = 224
    epochs: int = 10
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    clip_grad: float = 1.0
    smoothing: float = 0.1
    ema_decay: float = 0.0
    seed: int = 0
    workers: int = 0
    device: str = "cpu"
    on_bad_image: Literal["stop", "skip"] = "stop"

    def __post_init__(self):
        for name in ("image_size", "epochs", "batch_size", "lr", "clip_grad"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name.replace('_', '-')} must be above 0, got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_epochs", "seed", "workers"):
            if getattr(self, name) < 0:
                raise UserError(f"{name.replace('_', '-')} must not be below 0, got {getattr(self, name)}")
        for name in ("smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', '-')} must be in [0, 1), got {getattr(self, name)}")

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, default=str)

    @classmethod
    def from_json(cls, text: str) -> "Run":
        """The run of ``to_json``; raises UserError for unknown or missing fields."""
        values = json.loads(text)
        known = {f.name for f in fields(cls)}
        if odd := values.keys() - known:
            raise UserError(f"unknown fields of a run: {', '.join(sorted(odd))}")
        for name in ("root", "out"):
            if values.get(name) is not None:
                values[name] = Path(values[name])
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"incomplete run: {error}") from None
