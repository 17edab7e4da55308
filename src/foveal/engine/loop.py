"""The loop."""

import math
import time
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader

from .._errors import UserError
from ..tasks import Task
from .checkpoint import save_model
from .progress import RunLog
from .run import Run


def learning_rate(run: Run, epoch: float) -> float:
    """Linear warm-up, then a cosine to zero; ``epoch`` counts fractions."""
    if epoch < run.warmup_epochs:
        return run.lr * epoch / run.warmup_epochs
    done = (epoch - run.warmup_epochs) / max(run.epochs - run.warmup_epochs, 1e-9)
    return run.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def train(run: Run, task: Task, train_loader: DataLoader, val_loader: DataLoader, log: RunLog) -> dict[str, float]:
    """Train ``task`` as ``run`` says and write ``best/`` into the run's folder whenever top-1 improves.

    Returns:
        The last epoch's figures: ``epoch``, ``loss``, the metric's, ``images_per_second``.

    Raises:
        UserError: a loss that is not finite, no usable picture, or a bad one where the run stops at them.
    """
    device = torch.device(run.device)
    task.to(device)
    optimizer = create_optimizer_v2(task.model, opt="adamw", lr=run.lr, weight_decay=run.weight_decay)
    averaged = ModelEmaV3(task, decay=run.ema_decay) if run.ema_decay else None
    parameters = list(task.parameters())
    sampler: Any = train_loader.sampler  # a pure function of the epoch, as DistributedSampler
    figures, best, step = {}, -1.0, 0
    for epoch in range(run.epochs):
        task.train()
        sampler.set_epoch(epoch)
        started, images, losses = time.monotonic(), 0, []
        for batch in train_loader:
            log.bad_images(batch["bad"], run.on_bad_image)
            if not len(batch["label"]):
                continue
            lr = learning_rate(run, (step + 1) / len(train_loader))
            for group in optimizer.param_groups:
                group["lr"] = lr
            try:
                loss = task({name: batch[name].to(device) for name in ("image", "label")})["loss"]
            except ValueError as error:  # BatchNorm refuses a single value per channel
                raise UserError(f"step {step + 1}, {len(batch['label'])} picture(s) a batch: {error}") from None
            if not torch.isfinite(loss):
                raise UserError(f"the loss is {loss.item()} at epoch {epoch + 1}, step {step + 1}; try a smaller --lr")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, run.clip_grad)
            optimizer.step()
            if averaged is not None:
                averaged.update(task, step=step)
            step += 1
            images += len(batch["label"])
            losses.append(loss.item())
            log.step(step, f"{epoch + 1}/{run.epochs}", losses[-1], images / (time.monotonic() - started))
        if not losses:
            raise UserError("no picture of the training set could be read")
        rate = images / (time.monotonic() - started)
        evaluated: Any = averaged.module if averaged is not None else task
        figures = {"epoch": epoch + 1, "loss": sum(losses) / len(losses), "lr": optimizer.param_groups[0]["lr"]}
        figures |= evaluate(run, evaluated, val_loader, log) | {"images_per_second": rate}
        if math.isnan(figures["top1"]):
            raise UserError("no picture of the validation set could be read")
        log.metrics(figures)
        if figures["top1"] > best:
            best = figures["top1"]
            save_model(evaluated.model, task.config(), run.out / "best")
    return figures


def evaluate(run: Run, task: Task, loader: DataLoader, log: RunLog) -> dict[str, float]:
    """The task's metric over a loader, in evaluation mode."""
    device = next(task.parameters()).device
    task.eval()
    metric = task.metric()
    for batch in loader:
        log.bad_images(batch["bad"], run.on_bad_image)
        if len(batch["label"]):
            metric.update(task.predict(batch["image"].to(device)).cpu(), batch["label"])
    return metric.compute()
