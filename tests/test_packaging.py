"""What is released: files of the wheel and of the source archive, licences of what comes along, the workflow."""

import importlib.util
import re
import subprocess
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import Distribution
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import hatchling.build
import pytest
import yaml
from packaging.requirements import Requirement

import foveal

ROOT = Path(__file__).parents[1]
INFO = f"foveal-{foveal.__version__}.dist-info"
DEPENDENCIES = (ROOT / "docs" / "dependencies.md").read_text()


def script(name: str) -> ModuleType:
    """A file of scripts/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


licenses = script("licenses")


def files(*folders: str) -> set[str]:
    """What git keeps, or would keep, of a checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return {name for name in listed if (ROOT / name).exists()}


class Wheel(NamedTuple):
    """Names of the files in a wheel, and what it says of itself."""

    names: set[str]
    metadata: Message


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        path = folder / hatchling.build.build_wheel(str(folder))
    with zipfile.ZipFile(path) as archive:
        metadata = Parser().parsestr(archive.read(f"{INFO}/METADATA").decode())
        return Wheel(set(archive.namelist()), metadata)


def test_wheel_holds_the_package_and_nothing_else(wheel):
    info = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    info.add("licenses/src/foveal/data/_fashion_mnist/LICENSE")
    package = {name.removeprefix("src/") for name in files("src")}
    assert wheel.names == package | {f"{INFO}/{name}" for name in info}
    pictures, page = "foveal/data/_fashion_mnist/train-images-idx3-ubyte.gz", "foveal/export/_web/index.html"
    assert {"foveal/py.typed", pictures, page} <= wheel.names


def test_source_archive_holds_what_builds_and_tests_it(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with tarfile.open(tmp_path / hatchling.build.build_sdist(str(tmp_path))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    beside = {".gitignore", "CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "constraints.txt", "mkdocs.yml"}
    assert names == files("docs", "scripts", "src", "tests") | beside | {"PKG-INFO", "pyproject.toml"}


def test_metadata(wheel):
    assert wheel.metadata["License-Expression"] == "Apache-2.0 AND MIT"
    assert "Typing :: Typed" in wheel.metadata.get_all("Classifier", [])
    assert wheel.metadata["Description-Content-Type"] == "text/markdown"


def test_extras(wheel):
    """``all`` is what users may want, ``test`` holds it; docs/dependencies.md has a row for each."""
    wanted: dict[str, set[str]] = {extra: set() for extra in wheel.metadata.get_all("Provides-Extra", [])}
    for need in map(Requirement, wheel.metadata.get_all("Requires-Dist", [])):
        for extra in [extra for extra in wanted if need.marker and need.marker.evaluate({"extra": extra})]:
            wanted[extra].add(need.name)
    users = wanted.keys() - {"all", "coreml", "docs", "executorch", "test"}
    assert len(users) >= 10
    assert wanted["all"] == set().union(*(wanted[extra] for extra in users))
    assert wanted["all"] | wanted["docs"] < wanted["test"]
    assert [extra for extra in wanted if f"`{extra}`" not in DEPENDENCIES] == []


def test_licences_of_what_is_installed(capsys):
    packages = licenses.walk(["docs", "executorch", "test"])
    assert [(package, package.fault) for package in packages if package.fault] == []
    names = {package.name for package in packages if package.version}
    assert {"torch", "timm", "tqdm", "gradio", "pathspec", "hypothesis"} <= names
    assert len(names) > 120
    absent = {package.name: package.by for package in packages if not package.version}
    assert absent in ({}, {"executorch": "extra executorch"}), "pip install -e '.[test]'"
    assert licenses.main(["executorch"]) == 0
    assert ("\nNot installed here, so not looked at: executorch (extra executorch).\n" in capsys.readouterr().out) == (
        "executorch" in absent
    )


def test_licence_that_is_not_permissive_is_a_fault(monkeypatch, capsys):
    def fault(name: str, licence: str, rank: str = "runtime") -> str | None:
        return licenses.Package(name, "1", licence, rank, "foveal").fault

    assert fault("a", "MIT OR (Apache-2.0 WITH LLVM-exception)") is None
    assert fault("a", "GPL-3.0-only") == "GPL-3.0-only is not permissive"
    assert fault("a", "MIT AND (MPL-2.0 OR ISC)") == "MIT AND (MPL-2.0 OR ISC) is not permissive"
    assert fault("a", "") == "says no licence"
    assert fault("pathspec", "MPL-2.0", "tools") is None
    assert fault("pathspec", "GPL-3.0-only", "tools") == "GPL-3.0-only is not permissive"
    assert fault("pathspec", "MPL-2.0", "extra") == "MPL-2.0 is allowed in tools alone, but is in extra"
    assert fault("nvidia-cublas", "LicenseRef-NVIDIA-Proprietary") is None
    monkeypatch.setattr(licenses, "ALLOWED", {})
    assert licenses.main(["docs"]) == 1
    assert re.search(r"^pathspec \S+: MPL-2.0 is not permissive$", capsys.readouterr().err, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ("License-Expression: MIT AND (ISC OR Zlib)", "MIT AND (ISC OR Zlib)"),
        ("License: Apache 2.0", "Apache-2.0"),
        ("License: MIT License\n  \n  Permission is granted", "MIT"),
        ("License: Permission is granted\nClassifier: License :: OSI Approved :: BSD License", "BSD-3-Clause"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License", "MIT"),
        ("Classifier: License :: OSI Approved :: MIT License\nClassifier: License :: Own", "MIT AND Own"),
        ("Classifier: Environment :: GPU", ""),
    ],
)
def test_licence_is_what_a_package_says(tmp_path, fields, licence):
    (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.4\nName: a\nVersion: 1\n{fields}\n")
    assert licenses.licence_of(Distribution.at(tmp_path)) == licence


def test_allowances_are_documented():
    section = DEPENDENCIES.partition("## Licences")[2]
    rows = dict(re.findall(r"^\| ([a-z-]+)\*? \| .+? \| (\w+) \| [^|]+ \|$", section, flags=re.MULTILINE))
    assert rows == {name: rank for name, (_, rank) in licenses.ALLOWED.items()}


def test_release_workflow():
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    workflow = yaml.safe_load(text)
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads "on" as true
    assert workflow["permissions"] == {}
    assert "secrets." not in text
    jobs = workflow["jobs"]
    assert {name: job["permissions"] for name, job in jobs.items()} == {
        "build": {"contents": "read"},
        "test": {"contents": "read"},
        "pypi": {"id-token": "write"},
        "github": {"contents": "write"},
    }
    assert [job.get("needs") for job in jobs.values()] == [None, "build", "test", "pypi"]
    assert jobs["pypi"]["environment"] == "pypi"
    used = re.findall(r"uses: (.+)", text)
    assert len(used) == sum("uses" in step for job in jobs.values() for step in job["steps"])
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action) for action in used), used
    for job in jobs.values():
        for step in job["steps"]:
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
            for name in re.findall(r"scripts/\w+\.py", step.get("run", "")):
                assert (ROOT / name).exists()
    publish = jobs["pypi"]["steps"][-1]
    assert publish["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert publish["with"]["attestations"] is True


def test_release_notes(tmp_path):
    notes = script("release_notes").notes
    version = foveal.__version__
    package = tmp_path / "src" / "foveal" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text((ROOT / "src" / "foveal" / "__init__.py").read_text())
    changelog, project = tmp_path / "CHANGELOG.md", tmp_path / "pyproject.toml"
    changelog.write_text((ROOT / "CHANGELOG.md").read_text())
    project.write_text("[project]\n")
    with pytest.raises(ValueError, match=f"the package is version {version}"):
        notes("v9", tmp_path)
    changelog.write_text("# Changelog\n\n## [9] - 2026-01-31\n")
    with pytest.raises(ValueError, match="has no "):
        notes(f"v{version}", tmp_path)
    changelog.write_text(f"## [{version}] - unreleased\n\n### Added\n- This.\n")
    with pytest.raises(ValueError, match="a release has a date"):
        notes(f"v{version}", tmp_path)
    changelog.write_text(f"## [{version}] - 2026-01-31\n\n### Added\n- This.\n\n## [0.0.1] - 2025-01-31\n- That.\n")
    with pytest.raises(ValueError, match=r"has no \[project.urls\]"):
        notes(f"v{version}", tmp_path)
    project.write_text('[project]\n[project.urls]\nRepository = "somewhere"\n')
    assert notes(f"v{version}", tmp_path) == "### Added\n- This."
