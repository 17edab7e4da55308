"""The house: who imports whom, the tools that keep it tidy, and what must stay out of it."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import foveal

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "foveal"
MAY_IMPORT = {  # docs/architecture.md says why
    "layers": set(),
    "backbones": {"layers"},
    "analysis": {"data"},
    "bench": {"export"},
    "fidelity": {"backbones", "bench", "detection", "keypoints", "segmentation"},
    "data": set(),
    "metrics": {"data"},
    "necks": set(),
    "detection": {"necks"},
    "keypoints": {"necks"},
    "segmentation": {"data", "necks"},
    "runtime": {"data"},
    "tasks": {"data", "detection", "keypoints", "metrics", "necks", "segmentation"},
    "engine": {"tasks"},
    "export": {"data", "detection", "keypoints", "runtime", "segmentation", "tasks"},
    "recipes": {"data", "engine", "tasks"},
    "studies": {"bench", "engine", "recipes", "tasks"},
    "cli": {
        "analysis",
        "bench",
        "data",
        "engine",
        "export",
        "fidelity",
        "metrics",
        "recipes",
        "runtime",
        "studies",
        "tasks",
    },
}


def imports(path: Path) -> set[str]:
    """Rooms of foveal that a file imports."""
    room = path.relative_to(SOURCE).parts[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            package = ["foveal", *path.relative_to(SOURCE).parts[:-1]]
            base = package[: len(package) - node.level + 1] if node.level else []
            names = base + (node.module.split(".") if node.module else [])
            if names[:1] == ["foveal"]:
                found |= {names[1]} if len(names) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("foveal.")}
    return found - {
        room,
        "_classes",
        "_draw",
        "_errors",
        "_json",
        "_machine",
        "_models",
        "_views",
        "_weights",
        "__version__",
    }


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room):
    files = list((SOURCE / room).rglob("*.py"))
    assert files
    for file in files:
        assert imports(file) <= MAY_IMPORT[room], file


def test_every_room_is_in_the_table():
    assert {folder.name for folder in SOURCE.iterdir() if (folder / "__init__.py").exists()} == set(MAY_IMPORT)


def test_versions_agree():
    assert f"version: {foveal.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {foveal.__version__}" in re.sub(r"[\[\]]", "", (ROOT / "CHANGELOG.md").read_text())


@pytest.mark.parametrize(
    "command",
    [["ruff", "check"], ["ruff", "format", "--check"], ["pyright"], ["zizmor", "--offline", "--quiet", ".github"]],
)
def test_tools(command):
    tool = shutil.which(command[0], path=Path(sys.executable).parent)
    assert tool, f"{command[0]} comes with the extra 'test'"
    extra = ["--pythonpath", sys.executable] if command[0] == "pyright" else []
    result = subprocess.run([tool, *command[1:], *extra], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_nothing_of_a_machine_is_committed():
    """No absolute path of a machine, no registry's host."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert len(listed) > 40
    odd = re.compile(r"/(home|root|tmp|work|Users)/\w|files\.pythonhosted|https?://[\w.]*(pypi|index)\b")
    for name in listed:
        data = (ROOT / name).read_bytes()
        if b"\0" not in data[:1024] and name != "tests/test_house.py":
            assert not odd.search(data.decode()), name


def dependencies(text: str) -> str:
    """The runtime dependencies and the extras of pyproject.toml."""
    start, end = text.index("dependencies = ["), text.index("[project.scripts]")
    return text[start:end]


def test_constraints_pin_every_dependency():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    needed = re.findall(
        r'"([a-z0-9-]+)(?:\[[a-z,]+\])?(?:[>=][^"]+)?"[,\]]', dependencies((ROOT / "pyproject.toml").read_text())
    )
    assert len(needed) > 20
    assert {name for name in needed if name != "foveal"} <= pinned


def test_ci_runs_the_command_of_the_readme():
    command = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    assert command.endswith("-m pytest -q")
    assert command in (ROOT / "README.md").read_text().splitlines()


def test_readme_commands_are_known():
    """Every ``foveal ...`` line of the README names a command that exists."""
    from foveal.cli import COMMANDS

    used = re.findall(r"^(?:\S*/)?foveal (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert set(used) == set(COMMANDS)
