"""The loop."""

import math
import re
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from timm.layers import convert_sync_batchnorm
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3, random_seed
from torch import nn
from torch.distributed.checkpoint import state_dict as sharded
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from .._errors import UserError, first_line, one_line, some
from .._models import DAMAGED
from ..tasks import Task
from .checkpoint import read_state, replacing, write_model
from .processes import Processes
from .progress import RunLog
from .run import Run

MAY_CHANGE = (  # where a run happens, and not what it does
    "accumulate",
    "batch_size",
    "data",
    "device",
    "logger",
    "on_bad_image",
    "out",
    "root",
    "save_steps",
    "val_data",
    "workers",
)
SHARD_PARAMETERS = 100_000  # of a block from which it is sharded on its own
WHOLE = sharded.StateDictOptions(full_state_dict=True, cpu_offload=True)  # in the first process, by way of its memory


class Loader(Protocol):
    """Batches as a pure function of epoch and position."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[dict]: ...


@dataclass
class Training:
    """What a step moves."""

    run: Run
    procs: Processes
    device: torch.device
    task: Task
    wrapped: Any  # the task as it is called: itself, or over several processes
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    averaged: ModelEmaV3 | None
    data: dict[str, Any]  # what a resumed run must find again: classes, number of pictures, readers of a stream
    step: int = 0
    epoch: int = 0  # trained and evaluated
    best: float = -math.inf
    losses: float = 0.0  # sum over the epoch so far

    @property
    def evaluated(self) -> Task:
        """The task whose weights are evaluated and kept as the best."""
        task: Any = self.task if self.averaged is None else self.averaged.module
        return task


class Interrupted(Exception):
    """SIGTERM or Ctrl-C ended a run behind a step, and its checkpoint is written.

    Attributes:
        code: what the process should exit with.
    """

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.code = 128 + number


class Signals:
    """Inside, SIGTERM and Ctrl-C are noted and obeyed behind the step; a second Ctrl-C ends the process at once."""

    received = 0

    def __enter__(self) -> "Signals":
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


def learning_rate(run: Run, epoch: float, steps: int) -> float:
    """The schedule's learning rate.

    Args:
        epoch: counted from the start, with fractions.
        steps: steps of an epoch.
    """
    optim = run.optim
    warmup = optim.warmup_epochs or optim.warmup_steps / steps
    if epoch < warmup:
        return optim.warmup_lr + (optim.lr - optim.warmup_lr) * epoch / warmup
    if optim.schedule == "constant":
        return optim.lr
    if optim.schedule == "step":
        return optim.lr * optim.decay_rate ** sum(epoch > start for start in optim.decay_epochs)
    done = min((epoch - warmup) / max(run.epochs - warmup, 1e-9), 1.0)
    share = 0.5 * (1 + math.cos(math.pi * done)) if optim.schedule == "cosine" else (1 - done) ** optim.poly_power
    return optim.min_lr + (optim.lr - optim.min_lr) * share


def prepare(run: Run, task: Task, procs: Processes, data: dict[str, Any] | None = None) -> Training:
    """Put a task on its device, with its optimiser, averaged weights and scaler.

    Args:
        data: what a resumed run must find again, by name.

    Raises:
        UserError: what the run asks for does not go together, or not with this model.
    """
    device = torch.device(run.device)
    if device.type == "cuda" and device.index is None and procs.world > 1:
        device = torch.device("cuda", procs.local_rank)
    if run.sync_bn and (device.type != "cuda" or procs.world == 1):
        raise UserError("sync-bn needs CUDA, and several processes")
    if run.fsdp and procs.world == 1:
        raise UserError("fsdp shards over several processes: torchrun --nproc-per-node N -m foveal train ...")
    if run.sync_bn:
        task.model = convert_sync_batchnorm(task.model)
    model: Any = task.model
    if run.grad_checkpointing:
        if not hasattr(model, "set_grad_checkpointing"):
            raise UserError("this model has no gradient checkpointing")
        model.set_grad_checkpointing(True)
    task.to(device)
    if run.channels_last and not run.fsdp:  # which takes weights in contiguous memory only
        model.to(memory_format=torch.channels_last)
    averaged = None
    if run.ema_decay:  # without warm-up short runs would be evaluated with the statistics that they began with
        averaged = ModelEmaV3(task, decay=run.ema_decay, use_warmup=True, foreach=not run.fsdp)
    if run.fsdp:
        for sharded_task in [task] + ([averaged.module] if averaged is not None else []):
            shard(sharded_task.model)
    optim = run.optim
    own: dict[str, Any] = dict(betas=optim.betas) if optim.betas else {}
    if optim.layer_decay < 1:
        own["layer_decay"] = optim.layer_decay
    try:
        optimizer = create_optimizer_v2(
            model, opt=optim.opt, lr=optim.lr, weight_decay=optim.weight_decay, momentum=optim.momentum, **own
        )
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"optimiser {optim.opt}: {first_line(error)}") from None
    if "layer_decay" in own and all(group.get("lr_scale", 1) == 1 for group in optimizer.param_groups):
        raise UserError("layer-decay has no effect here: timm knows no layers of this model; leave it out")
    if run.compile:
        task.compile_model()
    wrapped: Any = task
    if procs.world > 1 and not run.fsdp:
        # Gradients of depthwise kernels come in the channels-last memory that the maps have; DDP copies them.
        warnings.filterwarnings("ignore", "Grad strides do not match")
        wrapped = DistributedDataParallel(wrapped, device_ids=[device.index] if device.type == "cuda" else None)
    scaler = torch.amp.GradScaler(device.type, enabled=run.precision == "fp16")
    task.train()
    return Training(run, procs, device, task, wrapped, optimizer, scaler, averaged, data or {})


def shard(model: nn.Module) -> None:
    """FSDP2: each block of a list of blocks on its own, what is left over together."""

    def walk(module: nn.Module) -> None:
        for child in module.children():
            in_list = isinstance(module, (nn.ModuleList, nn.Sequential))
            container = isinstance(child, (nn.ModuleList, nn.Sequential))
            if in_list and not container and sum(p.numel() for p in child.parameters()) >= SHARD_PARAMETERS:
                fully_shard(child)
            else:
                walk(child)

    walk(model)
    fully_shard(model)


def moved(batch: dict, training: Training) -> dict:
    """A batch on the training's device and in its memory format."""
    batch = _to(batch, training.device)
    if training.run.channels_last:
        batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
    return batch


def _to(value: Any, device: torch.device) -> Any:
    """A tree of tensors on a device."""
    if isinstance(value, dict):
        return {name: _to(part, device) for name, part in value.items()}
    if isinstance(value, list):
        return [_to(part, device) for part in value]
    return value.to(device, non_blocking=True) if torch.is_tensor(value) else value


def autocast(training: Training) -> torch.autocast:
    """The run's precision."""
    dtype = torch.float16 if training.run.precision == "fp16" else torch.bfloat16
    return torch.autocast(training.device.type, dtype, enabled=training.run.precision != "fp32")


def steps_per_epoch(run: Run, loader: Loader) -> int:
    """Steps of the optimiser an epoch; raises UserError if there is none."""
    if len(loader) < run.accumulate:
        raise UserError(f"an epoch has {len(loader)} batch(es) and --accumulate is {run.accumulate}")
    return len(loader) // run.accumulate


def train_step(training: Training, batches: Iterator[dict], steps: int, log: RunLog) -> dict[str, float]:
    """One step of the optimiser over ``accumulate`` batches.

    Args:
        steps: steps of an epoch.

    Returns:
        ``loss`` and the task's other parts over all batches of this process, ``lr``, ``pictures``, ``waited`` seconds.

    Raises:
        UserError: a bad picture where the run stops at them, a batch without a readable one, a loss that is not finite.
    """
    run, optimizer = training.run, training.optimizer
    lr = learning_rate(run, (training.step + 0.5) / steps, steps)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    optimizer.zero_grad()
    where = f"epoch {training.step // steps + 1}, step {training.step + 1}"
    figures: dict[str, float] = {}
    waited, names = 0.0, []
    for i in range(run.accumulate):
        started = time.perf_counter()
        batch, error = next_batch(batches, where)
        if batch is not None:
            error = error or log.bad_images(batch["bad"], run.on_bad_image)
            if not len(batch["name"]) and error is None:
                error = UserError(f"{where}: no picture of a batch could be read; the last: {batch['bad'][-1]}")
        training.procs.agree(error)
        assert batch is not None
        batch = moved(batch, training)
        # Dropout, drop path and Mixup draw from a state that the position alone decides, so none has to be stored.
        position = (training.step * run.accumulate + i) * training.procs.world + training.procs.rank
        random_seed((run.seed * 1_000_003 + position) % 2**31)
        waited += time.perf_counter() - started
        names += batch["name"]
        for name, value in backward(training, batch, where, last=i == run.accumulate - 1).items():
            figures[name] = figures.get(name, 0.0) + value / run.accumulate
    training.scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(training.task.model.parameters(), run.optim.clip_grad or math.inf)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if not training.scaler.is_enabled():  # which leaves out such a step, and tries a smaller scale
        check_finite(training, "gradient's norm", norm.item(), where, names)
    training.scaler.step(optimizer)
    training.scaler.update()
    if training.averaged is not None:
        training.averaged.update(training.task, step=training.step)
    training.step += 1
    return figures | {"lr": lr, "pictures": len(names), "waited": waited}


def backward(training: Training, batch: dict, where: str, *, last: bool) -> dict[str, float]:
    """Add the gradients of a batch to those of its step, and return the parts of its loss.

    Args:
        last: of its step, behind which the processes share their gradients.
    """
    run, model = training.run, training.wrapped
    if run.fsdp:
        model.model.set_requires_gradient_sync(last)
    alone = isinstance(model, DistributedDataParallel) and not last
    with model.no_sync() if alone else nullcontext():
        try:
            with autocast(training):
                parts = model(batch)
            values = {name: value.item() for name, value in parts.items()}
            check_finite(training, "loss", values["loss"], where, batch["name"])  # backward passes may crash on nan
            training.scaler.scale(parts["loss"] / run.accumulate).backward()
        except ValueError as error:  # BatchNorm refuses a single value per channel, Mixup an odd batch
            raise UserError(f"{where}, {len(batch['name'])} picture(s) a batch: {first_line(error)}") from None
        except torch.OutOfMemoryError as error:
            what = "a smaller --batch-size with more --accumulate, or --grad-checkpointing, needs less"
            raise UserError(f"{where}: {first_line(error)}; {what}") from None
    return values


def next_batch(batches: Iterator[dict], where: str) -> tuple[dict | None, UserError | None]:
    """A batch, None behind the last; or why there is none."""
    try:
        return next(batches, None), None
    except RuntimeError as error:
        if not re.search("DataLoader worker.*(killed by signal|exited unexpectedly)", str(error)):
            raise
        what = "if memory ran out, give fewer --workers"
        return None, UserError(f"{where}: a process that reads pictures ended: {first_line(error)}; {what}")


def check_finite(training: Training, what: str, value: float, where: str, names: list[str]) -> None:
    """End the run in all processes if the value of one is not finite; nothing of the step has reached the weights."""
    error = None
    if not math.isfinite(value):
        kept = training.run.out / "last"
        advice = "there is no checkpoint yet; try a smaller --lr"
        if kept.exists():
            own = " --no-pretrained" if training.run.task.pretrained else ""
            advice = f"go on from the last checkpoint, --weights {kept}/model.safetensors{own}, with a smaller --lr"
        error = UserError(f"the {what} is {value} at {where} ({some(names, 3)}); {advice}")
    training.procs.agree(error)


def train(
    training: Training,
    train_loader: Loader,
    val_loader: Loader,
    log: RunLog,
    describe: Callable[[dict[str, float]], dict[str, str]],
) -> dict[str, float]:
    """Train from where ``training`` stands to the end of its run.

    ``last/`` is written after every epoch, every ``save_steps`` steps and at a signal; ``best/`` whenever the task's
    figure of merit improves.

    Args:
        describe: from an epoch's figures to further text files of ``best/``, by name.

    Returns:
        The last epoch's figures: ``epoch``, ``step``, ``loss``, ``lr``, the metric's, ``images_per_second`` over all
        processes, and ``data_wait``, the share of time in percent that went into waiting for pictures.

    Raises:
        UserError: as ``train_step``; a checkpoint that cannot be written.
        Interrupted: SIGTERM or Ctrl-C.
    """
    run, procs = training.run, training.procs
    steps = steps_per_epoch(run, train_loader)
    figures: dict[str, float] = {}
    with Signals() as signals:
        for epoch in range(training.epoch, run.epochs):
            training.task.train()
            first = training.step - epoch * steps
            batches = train_loader.epoch(epoch, start=first * run.accumulate)
            training.losses *= first > 0
            started, pictures, waited = time.perf_counter(), 0, 0.0
            for done in range(first + 1, steps + 1):
                step = train_step(training, batches, steps, log)
                training.losses += step["loss"]
                pictures += int(step.pop("pictures")) * procs.world
                waited += step.pop("waited")
                rate = pictures / (time.perf_counter() - started)
                log.step(training.step, f"{epoch + 1}/{run.epochs}", step | {"images_per_second": rate})
                stop = interrupted(training, signals, steps)
                if stop or done == steps or (run.save_steps and training.step % run.save_steps == 0):
                    save_last(training, log)
                if stop:
                    raise stop
            seconds = time.perf_counter() - started
            loss = mean_loss(training) / steps
            figures = {"epoch": epoch + 1, "step": training.step, "loss": loss}
            figures |= {"lr": learning_rate(run, (training.step - 0.5) / steps, steps)}
            figures |= evaluate(training, val_loader, log, lambda: interrupted(training, signals, steps))
            figures |= {"images_per_second": pictures / seconds, "data_wait": 100 * waited / seconds}
            best = training.task.best
            if math.isnan(figures[best]):
                raise UserError(
                    f"{best} has no value: no validation picture could be read, or there is nothing to find in them"
                )
            log.metrics(figures, best, training.step)
            if figures[best] > training.best:
                training.best = figures[best]
                save_best(training, describe(figures))
            training.epoch = epoch + 1
        save_last(training, log)
    return figures


def interrupted(training: Training, signals: Signals, steps: int) -> Interrupted | None:
    """What ends a run at a signal in any process; all of them must call this together."""
    if not training.procs.any(signals.received > 0):
        return None
    out, epoch, done = training.run.out, training.epoch, training.step - training.epoch * steps
    return Interrupted(
        signals.received or signal.SIGTERM,
        f"stopped behind step {done} of {steps} in epoch {epoch + 1}; {out}/last is saved; "
        f"go on with: foveal train --from {out}/run.json --resume",
    )


def evaluate(
    training: Training, loader: Loader, log: RunLog, ended: Callable[[], Exception | None] = lambda: None
) -> dict[str, float]:
    """The metric over a loader and all processes, in evaluation mode.

    Args:
        ended: called before each batch, in all processes together; what it returns is raised.
    """
    procs, task = training.procs, training.evaluated.eval()
    procs.share_buffers(task)
    metric, merged = task.metric(), task.metric()
    batches, filler = loader.epoch(), None
    while True:
        batch, error = next_batch(batches, "evaluation")
        if batch is not None:
            error = error or log.bad_images(batch["bad"], training.run.on_bad_image)
        procs.agree(error)
        if stop := ended():
            raise stop
        if not procs.any(batch is not None):
            break
        counts = batch is not None and len(batch["name"]) > 0
        if batch is not None and counts:
            filler = moved(batch, training)
        if training.run.fsdp:  # every process has to take part in every forward pass, with or without pictures
            procs.agree(None if filler is not None else UserError("fsdp needs validation pictures in every process"))
        if filler is None or not (counts or training.run.fsdp):
            continue
        with autocast(training):
            predictions = task.predict(filler)
        if counts:
            metric.update(predictions, filler)
    for state in procs.gather(metric.state()):
        merged.merge(state)
    return merged.compute()


def _weights(training: Training, model: Any) -> dict[str, Any]:
    """A model's whole state, of which the first process needs the values."""
    if training.run.fsdp:
        return sharded.get_model_state_dict(model, options=WHOLE)
    return model.state_dict()


def mean_loss(training: Training) -> float:
    """The sum of the epoch's losses so far, as the mean over all processes."""
    return sum(training.procs.gather(training.losses)) / training.procs.world


def save_best(training: Training, texts: dict[str, str]) -> None:
    """Replace ``best/``; all processes must call this together."""
    task = training.evaluated
    weights = _weights(training, task.model)

    def write(folder: Path) -> None:
        write_model(task, weights, folder)
        for name, text in texts.items():
            (folder / name).write_text(text)

    _replace(training, "best", write)


def _replace(training: Training, name: str, write: Callable[[Path], None]) -> None:
    """Replace a folder of the run; nobody goes on before it is written, nor if it cannot be."""
    error = None
    if training.procs.first:
        try:
            with replacing(training.run.out / name) as folder:
                write(folder)
        except UserError as met:
            error = met
    training.procs.agree(error)


def restore(training: Training) -> int:
    """Go on from ``last/`` of the run's folder.

    Returns:
        Bytes of ``metrics.jsonl`` that belong to the steps done.

    Raises:
        UserError: no or a damaged checkpoint, another recipe, other data, another number of pictures a step.
    """
    run, model, folder = training.run, training.task.model, training.run.out / "last"
    state = read_state(folder)
    try:
        if changed := Run.from_dict(state["run"]).differences(run, ignore=MAY_CHANGE):
            raise UserError(f"{run.out} was started with another recipe ({'; '.join(changed)})")
        _check_data(run, state["data"], training.data)
        world, before = training.procs.world, state["step_batch"]
        if (now := world * run.batch_size * run.accumulate) != before:
            raise UserError(
                f"a step had {before} pictures and would have {now}: choose --batch-size and --accumulate so that "
                f"{world} process(es) * batch-size * accumulate = {before}"
            )
        weights: Any = load_file(folder / "model.safetensors")
        averaged: Any = training.averaged and training.averaged.module
        if run.fsdp:
            options = sharded.StateDictOptions(full_state_dict=True)
            sharded.set_model_state_dict(model, weights, options=options)
            sharded.set_optimizer_state_dict(model, training.optimizer, state["optimizer"], options=options)
            if averaged:
                sharded.set_model_state_dict(averaged.model, state["averaged"], options=options)
        else:
            model.load_state_dict(weights)
            training.optimizer.load_state_dict(state["optimizer"])
            if averaged:
                averaged.model.load_state_dict(state["averaged"])
        training.scaler.load_state_dict(state["scaler"])
        training.step, training.epoch = int(state["step"]), int(state["epoch"])
        training.best, training.losses = float(state["best"]), float(state["losses"])
        return int(state["log_bytes"])
    except DAMAGED as error:
        what = f"cannot go on from {folder}, written by another version or damaged"
        raise UserError(f"{what}: {one_line(error)}") from None


def _check_data(run: Run, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError where the data is not what the run was started with."""
    for name in before | now:
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, list) and isinstance(new, list):
            odd = sorted({*old} ^ {*new}) or ["their order"]
            raise UserError(f"the {name} of {run.data} are not those of the checkpoint; they differ in {some(odd, 5)}")
        raise UserError(f"{run.data} had {old} {name} when the run was started, and has {new}")


def save_last(training: Training, log: RunLog) -> None:
    """Replace ``last/`` by weights and all that a resumed run needs; all processes must call this together."""
    run, task, model = training.run, training.task, training.task.model
    training.procs.share_buffers(task, training.evaluated)
    weights = _weights(training, model)
    optimizer = (
        sharded.get_optimizer_state_dict(model, training.optimizer, options=WHOLE)
        if run.fsdp
        else training.optimizer.state_dict()
    )
    averaged = _weights(training, training.evaluated.model) if training.averaged is not None else None
    state = dict(
        run=run.to_dict(),
        data=training.data,
        step=training.step,
        step_batch=training.procs.world * run.batch_size * run.accumulate,
        epoch=training.epoch,
        best=training.best,
        losses=mean_loss(training),
        log_bytes=log.position,
        optimizer=optimizer,
        averaged=averaged,
        scaler=training.scaler.state_dict(),
    )

    def write(folder: Path) -> None:
        write_model(task, weights, folder)
        torch.save(state, folder / "state.pt")

    _replace(training, "last", write)
