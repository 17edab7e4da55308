"""What the tests share: our models, found in timm's registry, and weights that make every operator count."""

import random

import numpy as np
import pytest
import timm
import torch
from torch import nn

import foveal  # noqa: F401 - registers the models

torch.set_num_threads(1)  # two processes share the work, and threads that wait for one another would not
MODELS = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("foveal.")]
TINY = [name for name in MODELS if name.startswith("test_")]
SMALL = ["emsnet_xxtiny", "mat_1", "partialformer_b0"]
PEERS = [  # on which every analysis is tried
    "deit_tiny_patch16_224",
    "convnext_tiny",
    "resnet50",
    "swin_tiny_patch4_window7_224",
    "pvt_v2_b1",
    "mobilevitv2_100",
]


LEAST = 2600  # tests of a whole run
SKIPS = {  # why a test may be skipped: what it needs is no Python package
    "no Chromium is installed",
    "onnxruntime-web is not here, and npm cannot install it",
    "the source archive is without weights",
    "webdataset reads remote shards by curl",
}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """A whole run is one of all tests, none of which is skipped for a reason that is not known."""
    config, reporter = session.config, session.config.pluginmanager.getplugin("terminalreporter")
    if hasattr(config, "workerinput") or config.args_source != pytest.Config.ArgsSource.TESTPATHS:
        return
    if config.option.keyword or config.option.markexpr != "not slow" or session.exitstatus:
        return
    run = sum(len(reporter.stats.get(outcome, ())) for outcome in ("passed", "skipped"))
    reasons = {report.longrepr[2].removeprefix("Skipped: ") for report in reporter.stats.get("skipped", ())}
    if run < LEAST or not reasons <= SKIPS:
        odd = ", ".join(sorted(reasons - SKIPS))
        reporter.write_line(
            f"\n{run} tests were run, at least {LEAST} should be; unknown reasons of skips: {odd or 'none'}"
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def _seed():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def randomize(model: nn.Module) -> nn.Module:
    """Unit-scale weights, biases and running statistics: at their initial values many branches are nearly silent."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=max(1, parameter[0].numel()) ** -0.5)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
        else:
            nn.init.uniform_(parameter, 0.5, 1.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model


def create(name: str, **args) -> nn.Module:
    """A model with unit-scale weights in evaluation mode."""
    return randomize(timm.create_model(name, **args)).eval()


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    """Whether the largest difference is within ``tolerance`` of the largest value."""
    return (a - b).abs().max() <= tolerance * b.abs().max()
