"""What a new thing costs: each kind is added to a copy of the package, works there, and the files are counted."""

import difflib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "foveal"
PAGES = ROOT / "docs" / "add"

TARGET = '''
"""Archives of torch.export under another name."""

from dataclasses import replace

from . import pt2
from ._target import register

TARGET = register(replace(pt2.TARGET, name="plain", suffix=".plain"))
'''

RECIPE = '''
"""The quick start for one epoch."""

from dataclasses import replace

from ..engine import Run
from .quickstart import quickstart


def brief() -> Run:
    """The quick start for one epoch."""
    return replace(quickstart(), recipe="brief", epochs=1)
'''

ANALYSIS = '''
"""The mean of the logits."""

from dataclasses import dataclass

import numpy as np
import torch

from ._result import Result, new_figure
from ._subject import DEFAULT, load_pictures, load_subjects, silent


@dataclass(frozen=True, kw_only=True)
class Means(Result):
    values: dict[str, float]

    def data(self):
        return {name: np.array(value) for name, value in self.values.items()}

    def rows(self):
        return [{"model": name, "mean": value} for name, value in self.values.items()]

    def figures(self):
        return {"": new_figure(1, 1)}

    def captions(self):
        return {"": "nothing"}


def means(models, *, setting=DEFAULT, progress=silent) -> Means:
    """The mean of the logits.

    Args:
        models: names of timm models.
        setting: what the models see.
        progress: not called.
    """
    subjects = load_subjects(models, setting)
    pictures = load_pictures(setting, 1)
    values = {}
    for subject in subjects:
        with torch.no_grad():
            values[subject.name] = float(torch.cat([subject.model(x) for x in subject.images(pictures, 1)]).mean())
    return Means(what="means", subjects=subjects, setting=setting, num_images=1, values=values)
'''


def of_page(name: str) -> str:
    """The first block of a page that is run."""
    found = re.search(r"^```python\n(.*?)^```", (PAGES / f"{name}.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def data_set() -> str:
    """The page's list of stripes as a file of the package, without the lines that enter it from outside."""
    text = of_page("data").split("DATASETS[")[0].replace("import DATASETS, Labelled, load_data", "import Labelled")
    return text.replace("from foveal.data import", "from ._pictures import") + STRIPES


STRIPES = '''
def stripes(root):
    """Both parts."""
    return Stripes(64), Stripes(16)
'''

ADDED = {  # the room, the new file, its text, and the lines that another file gets: in front of which line each stands
    "backbone": ("backbones", "plain", of_page("backbone"), {"__all__ = ": "from .plain import PlainNet"}),
    "detector": (
        "detection",
        "cells",
        of_page("detector").replace("from foveal.detection import", "from foveal.detection._detector import"),
        {"from ._detector import": "from . import cells"},
    ),
    "data set": (
        "data",
        "stripes",
        data_set(),
        {
            "if TYPE_CHECKING:": "from .stripes import stripes",
            "FORMATS: dict": 'DATASETS["classification"]["stripes"] = stripes',
        },
    ),
    "export target": ("export", "plain", TARGET, {"from ._export import": "from . import plain"}),
    "recipe": (
        "recipes",
        "brief",
        RECIPE,
        {"RECIPES: dict": "from .brief import brief", "        finetune,": "        brief,"},
    ),
    "analysis": (
        "analysis",
        "means",
        ANALYSIS,
        {"ANALYSES: dict": "from .means import means", "__all__ = ": 'ANALYSES["means"] = means'},
    ),
}

USE = """
import sys, timm, torch
import foveal
from foveal import cli

assert foveal.__file__.startswith(sys.argv[1]), foveal.__file__
assert timm.create_model("test_plain", num_classes=3)(torch.randn(1, 3, 64, 64)).shape == (1, 3)
small = ["--epochs", "1", "--warmup-epochs", "0", "--batch-size", "8"]
run = [*small, "--model", "test_plain", "--image-size", "32"]
assert cli.main(["train", "quickstart", "--data", "stripes", "--out", "a", *run, "--workers", "0"]) == 0
seen = ["--image-size", "64", "--max-size", "80", "--detector", "cells", "--model", "test_plain"]
assert cli.main(["train", "quickstart_detection", "--data", "scenes:16", "--out", "b", *small, *seen]) == 0
assert cli.main(["eval", "b", "--data", "scenes:16"]) == 0
assert cli.main(["export", "a", "--to", "plain", "--fixed"]) == 0
assert cli.main(["analyze", "means", "a", "--out", "c"]) == 0
assert cli.main(["train", "brief", "--out", "d", *run, "--data", "stripes", "--workers", "0"]) == 0
"""


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A copy of the package to which everything was added."""
    copy = tmp_path_factory.mktemp("adding") / "foveal"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for room, name, text, lines in ADDED.values():
        (copy / room / f"{name}.py").write_text(text)
        init = copy / room / "__init__.py"
        for before, line in lines.items():
            whole = init.read_text()
            assert whole.count(f"\n{before}") == 1, (room, before)
            init.write_text(whole.replace(f"\n{before}", f"\n{line}\n{before}"))
    return copy


def test_what_is_added_works_with_everything_else(grown):
    environment = os.environ | {"PYTHONPATH": str(grown.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", USE, str(grown.parent)]
    done = subprocess.run(command, cwd=grown.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ADDED)
def test_a_new_thing_costs_one_file_and_a_line_or_two(grown, kind):
    room, name, _, lines = ADDED[kind]
    before, after = ({p.relative_to(root) for p in (root / room).rglob("*.py")} for root in (PACKAGE, grown))
    assert after - before == {Path(room) / f"{name}.py"}
    changed = [p for p in before if (PACKAGE / p).read_text() != (grown / p).read_text()]
    assert changed == [Path(room) / "__init__.py"]
    texts = [(root / room / "__init__.py").read_text().splitlines() for root in (PACKAGE, grown)]
    new = [line[2:] for line in difflib.ndiff(*texts) if line[:2] in ("+ ", "- ")]
    assert new == list(lines.values())
    assert len(new) <= 2
