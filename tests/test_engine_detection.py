"""The engine with every detector: resumption to the last bit, averaged weights, several processes, and what may differ."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from foveal.cli import main
from foveal.data import Batches, load_data
from foveal.detection import DETECTORS, build
from foveal.engine import Processes, RunLog, prepare, train_step
from foveal.recipes import RECIPES
from foveal.tasks import load_detector
from runs import execute, execute_all, lines, same, state, weights

DATA = "scenes:24x64"
DROPS = '{"drop_path_rate":0.1}'


def run(detector: str, out: Path, *extra: str) -> list[str]:
    """Arguments of a run of two epochs of six steps with all that is random in it."""
    fixed = f"quickstart_detection --model test_mat --model-args {DROPS} --detector {detector} --detector-args {{}}"
    small = "--image-size 64 --max-size 80 --batch-size 4 --epochs 2 --warmup-epochs 0.5 --mosaic 0.5 --ema-decay 0.9"
    return [*fixed.split(), *small.split(), "--data", DATA, "--out", str(out), *extra]


@pytest.mark.parametrize("detector", DETECTORS)
def test_kills_in_one_epoch_change_nothing(detector, tmp_path):
    """Weights, averaged weights, optimiser, schedule, order, augmentation, sampled boxes: all to the last bit."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert execute(run(detector, whole)) == 0
    argv = run(detector, cut, "--save-steps", "2", "--workers", "1", "--resume")
    assert execute(argv, die_at=3, number=signal.SIGKILL) == -signal.SIGKILL
    assert state(cut)["step"] == 2
    assert execute(argv, die_at=8, number=signal.SIGTERM) == 128 + signal.SIGTERM
    assert state(cut)["step"] == 9
    assert execute(argv) == 0
    for folder in ("last", "best"):
        assert same(weights(cut / folder), weights(whole / folder))
    assert lines(cut) == lines(whole)
    ours, theirs = state(cut), state(whole)
    for name in ("optimizer", "averaged", "scaler", "step", "epoch", "best", "losses"):
        assert same(ours[name], theirs[name]), name
