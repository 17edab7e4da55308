"""The model that a command is given: of a run, which needs PyTorch, or of an exported file, which does without."""

from importlib.metadata import version
from typing import Any

from .._errors import UserError, first_line
from .._machine import machine
from .._views import AS_TRAINED, Preprocessing
from ..data import ArrayBatches, decoder
from ..runtime import Classifier, Model, is_exported, load, task_of


def kind_of(name: str) -> str:
    """The task of a model."""
    if is_exported(name):
        return task_of(name)
    from .. import tasks

    return tasks.kind_of(name)


def load_model(
    kind: str,
    name: str,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    preprocessing: Preprocessing = AS_TRAINED,
) -> Any:
    """The model of a run or of an exported file; raises UserError."""
    if is_exported(name):
        if (device, precision) != ("cpu", "fp32"):
            raise UserError(f"{name} runs as it was exported, on the CPU: --device and --precision have no effect")
        return load(name, kind, preprocessing)
    from .. import tasks

    options: dict[str, Any] = dict(device=check_device(device), precision=precision)
    if kind == "classification":
        options["preprocessing"] = preprocessing
    return tasks.LOADERS[kind](name, **options)


def check_device(name: str) -> str:
    """The name of a device that this machine has; raises UserError."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        what = f"cannot use device {name!r} (expected cpu, cuda, cuda:0, mps, ...)"
        raise UserError(f"{what}: {first_line(error)}") from None
    return name


def batches_of(model: Any, data: Any, transform: Any, batch_size: int, workers: int, stack: Any = None) -> Any:
    """Batches of data for a model: of arrays, read by threads, or of tensors, read by processes."""
    if isinstance(model, (Model, Classifier)):
        return ArrayBatches(data, transform, batch_size, workers=workers, stack=stack)
    from ..data import Batches

    given = {} if stack is None else {"stack": stack}
    return Batches(data, transform, batch_size, workers=workers, **given)


def environment_of(model: Any, device: str) -> dict[str, str]:
    """What figures depend on beside their settings."""
    if isinstance(model, (Model, Classifier)):
        return machine() | {name: version(name) for name in ("onnxruntime", "numpy", "pillow")} | {"decoder": decoder()}
    from ..bench import Setting, environment

    return environment(Setting(device=device)) | {"decoder": decoder()}
