"""README and documentation: commands exist and take their flags, cheap ones and Python blocks run, links lead
somewhere, figures and excerpts are those of the code, and the site builds without warnings and needs no network."""

import contextlib
import inspect
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import tyro
from markdown.extensions.toc import slugify
from PIL import Image

import foveal.cli
import foveal.data
from foveal._weights import WEIGHTS
from foveal.cli import COMMANDS
from foveal.data.fashion_mnist import BUILT_IN, CLASSES, FashionMNIST, fashion_mnist
from foveal.detection import DETECTORS
from foveal.keypoints import ESTIMATORS
from foveal.recipes import RECIPES
from foveal.segmentation import SEGMENTERS
from test_runtime import files  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
EXECUTED = {"eval", "predict", "data", "analyze"}  # where what they name is at hand
OUTPUTS = {"--out", "--save-predictions", "--confusion", "--clean"}


class Block(NamedTuple):
    """A fenced block: where it is, its language, its text."""

    place: str
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in FENCE.finditer(text):
        line = text[: match.start()].count("\n") + 1
        yield Block(f"{page.relative_to(ROOT)}:{line}", match[2], inspect.cleandoc(match[3]) + "\n")


BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = {page: [b for b in blocks(page) if b.language == "python"] for page in PAGES}
PYTHON = {page: found for page, found in PYTHON.items() if found}
SHELL = [block for block in BLOCKS if block.language in ("sh", "bash")]


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a shell block, as words; ``NAME=VALUE`` before them is left out, and put for ``$NAME``."""
    text = re.sub(r"(^|\s)#.*$", r"\1", text.replace("\\\n", " "), flags=re.MULTILINE)
    words = shlex.shlex(text, posix=True, punctuation_chars=";&|<>\n")
    words.whitespace, words.whitespace_split, words.commenters = " \t", True, ""
    found: list[str] = []
    values: dict[str, str] = {}
    for word in [*words, "\n"]:
        if not re.fullmatch(r"[;&|<>\n]+", word):
            found.append(values.get(word, word))
            continue
        while found and ("=" in found[0] or found[0] in ("do", "srun")):
            name, _, value = found.pop(0).partition("=")
            values[f"${name}"] = value
        if found:
            yield found
        found = []


def arguments(command: list[str]) -> list[str] | None:
    """What ``foveal`` gets, called by itself or by torchrun; None for another command."""
    for i, word in enumerate(command):
        if i == 0 and Path(word).name == "foveal":
            return command[1:]
        if word == "foveal" and command[i - 1] == "-m":
            return command[i + 1 :]
    return None


FOVEAL = [(block.place, args) for block in SHELL for c in commands(block.text) if (args := arguments(c)) is not None]
INLINE = [
    (str(page.relative_to(ROOT)), shlex.split(code)[1:])
    for page in PAGES
    for code in re.findall(r"(?<!`)`(foveal [^`]+)`(?!`)", FENCE.sub("", page.read_text()))
]


class Parsed(Exception):
    """The command line was understood."""


def only_parse(cli: Callable) -> Callable:
    """tyro's ``cli`` that reads the arguments and goes no further."""

    @wraps(cli)
    def parse(target: Any, *args: Any, **options: Any) -> None:
        if inspect.isfunction(target):
            target = nothing_of(target)
        elif isinstance(target, dict):
            target = {name: nothing_of(function) for name, function in target.items()}
        cli(target, *args, **options)
        raise Parsed

    return parse


def nothing_of(function: Callable) -> Callable:
    """A function with the same signature that does nothing."""

    @wraps(function)
    def nothing(*args: Any, **options: Any) -> int:
        return 0

    return nothing


def parses(args: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a command takes its arguments."""
    if args[0] not in COMMANDS:
        return False
    if len(args) == 1 or "--help" in args:
        return True
    with monkeypatch.context() as patch:
        patch.setattr(tyro, "cli", only_parse(tyro.cli))
        patch.setattr(tyro.extras, "subcommand_cli_from_dict", only_parse(tyro.extras.subcommand_cli_from_dict))
        try:
            return foveal.cli.main(list(args)) == 0
        except (Parsed, SystemExit) as end:
            return isinstance(end, Parsed)


@pytest.fixture
def runs_json(tmp_path, monkeypatch):
    """A run.json where the documents have one."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs/mine", "RUN"):
        Path(name).mkdir(parents=True)
        Path(name, "run.json").write_text(json.dumps({"run": RECIPES["quickstart"]().to_dict()}))


def test_commands_exist_and_take_their_flags(runs_json, monkeypatch, capfd):
    assert len(FOVEAL) > 60
    wrong = [f"{place}: foveal {shlex.join(args)}" for place, args in FOVEAL if not parses(args, monkeypatch)]
    assert not wrong, "\n".join(wrong) + capfd.readouterr().err


def test_commands_in_sentences_exist_with_their_flags(capfd):
    """They need not be whole."""
    named = [(place, args) for place, args in INLINE if not args[0].isupper()]  # foveal COMMAND
    assert len(named) > 30
    helps: dict[tuple[str, ...], str] = {}
    for place, args in named:
        command = tuple(args[: 2 if args[0] in ("analyze", "data") or (args[1:] and args[1] in RECIPES) else 1])
        if len(command) == 2 and not command[1].islower():  # foveal analyze WHAT
            continue
        if command not in helps:
            with contextlib.suppress(SystemExit):
                assert foveal.cli.main([*command, "--help"]) == 0, (place, args)
            helps[command] = capfd.readouterr().out
        for flag in [word.split("=")[0] for word in args if word.startswith("--")]:
            assert re.search(rf"{flag}\b", helps[command]), (place, args)


def test_a_wrong_flag_is_seen(runs_json, monkeypatch, capfd):
    assert parses(["eval", "runs/mine", "--data", "fashion"], monkeypatch)
    assert not parses(["eval", "runs/mine", "--data", "fashion", "--no-such-flag"], monkeypatch)
    assert not parses(["train", "no_such_recipe"], monkeypatch)
    assert not parses(["no-such-command"], monkeypatch)


def test_models_of_bench_exist():
    named = [args[1:] for _, args in FOVEAL + INLINE if args[0] == "bench"]
    names = {word for words in named for word in words[: next((i for i, w in enumerate(words) if w[:1] == "-"), None)]}
    assert len(names) > 20
    assert {name for name in names if not name.isupper() and name != "MODEL..."} <= set(timm.list_models())


def test_scripts_have_their_flags():
    found = [
        (block.place, c[i:])
        for block in SHELL
        for c in commands(block.text)
        for i, word in enumerate(c[:2])
        if word.startswith("scripts/")
    ]
    for page in PAGES:
        for code in re.findall(r"`python3? (scripts/[^`]+)`", page.read_text()):
            found.append((str(page), shlex.split(code)))
    assert found
    for place, (script, *words) in found:
        source = (ROOT / script).read_text()
        for flag in [word for word in words if word.startswith("--")]:
            assert flag in source, (place, script, flag)


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as mkdocs makes them."""
    text = FENCE.sub("", page.read_text())
    titles = re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE)
    return {slugify(re.sub(r"[`*]", "", title), "-") for title in titles}


def test_links_lead_somewhere():
    number = 0
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
            if re.match(r"https?:", target):
                continue
            number += 1
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(file), f"{page.name}: {target}"
            if page.name != "README.md":
                assert DOCS in file.resolve().parents, f"{page.name}: {target} is not part of the site"
    assert number > 40


def test_versions_of_other_libraries_are_those_of_the_constraints():
    pinned = (ROOT / "constraints.txt").read_text()
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \|", (DOCS / "interop.md").read_text(), flags=re.MULTILINE)
    assert len(rows) == 5
    for name, version in rows:
        assert f"\n{name}=={version};" in pinned, name


def test_excerpts_are_from_the_source():
    """Each line of a ``py`` block is one of src/foveal; comments may differ."""
    lines = {line for file in (ROOT / "src").rglob("*.py") for line in code_lines(file.read_text())}
    excerpts = [block for block in BLOCKS if block.language == "py"]
    assert len(excerpts) >= 8
    for block in excerpts:
        for line in code_lines(block.text):
            assert line in lines, (block.place, line)


def code_lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.strip() and not line.strip().startswith("#"):
            yield re.sub(r"  # .*", "", line).strip()


def test_figures_are_those_of_the_script(tmp_path):
    subprocess.run([sys.executable, str(ROOT / "scripts" / "draw_figures.py"), str(tmp_path)], check=True)
    drawn = sorted(tmp_path.glob("*.svg"))
    assert len(drawn) == 4
    assert {file.name for file in drawn} == {file.name for file in (DOCS / "figures").iterdir()}
    for file in drawn:
        assert file.read_text() == (DOCS / "figures" / file.name).read_text(), (
            f"run scripts/draw_figures.py: {file.name}"
        )


def test_reference_has_every_model():
    text = (DOCS / "reference" / "heads.md").read_text()
    models = [*DETECTORS.values(), *SEGMENTERS.values(), *ESTIMATORS.values()]
    assert len(models) > 10
    for model in models:
        assert f"::: {model.__module__}.{model.__qualname__}\n" in text


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout + done.stderr == ""
    return out


def test_site_has_every_page_and_loads_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert {p.relative_to(site).with_suffix(".md") for p in pages} == {page.relative_to(DOCS) for page in PAGES[1:]} | {
        Path("404.md")
    }
    loaded = re.compile(r'<(?:script|img|iframe|source)[^>]+src="?([^"> ]+)|<link[^>]+href="?([^"> ]+)')
    for page in pages:
        text = page.read_text()
        assert "arithmatex" not in text, page
        for found in loaded.finditer(text):
            assert not re.match(r"(https?:)?//", found[1] or found[2]), (page, found[0])
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text()), sheet
    assert (site / "families" / "mat.html").read_text().count("<math") > 5


@pytest.fixture(scope="module")
def small_data():
    """Fewer of the built-in pictures."""
    whole = fashion_mnist(BUILT_IN)
    parts = tuple(FashionMNIST(part.pictures[:n], part.labels[:n]) for part, n in zip(whole, (256, 32)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(foveal.data.DATASETS["classification"], "fashion", lambda root: parts)
        for kind, name in (
            ("detection", "scenes"),
            ("detection", "figures"),
            ("segmentation", "scenes"),
            ("keypoints", "figures"),
        ):
            read = next(known.read for known in foveal.data.FORMATS[kind] if known.fits(f"{name}:24"))
            patch.setitem(
                foveal.data.DATASETS[kind], name, lambda root, read=read, name=name: read(f"{name}:24", root, False)
            )
        yield


RUNS = {
    "quickstart": "--image-size 32",
    "quickstart_detection": "--image-size 64 --max-size 80",
    "quickstart_segmentation": "--image-size 64 --max-size 80",
    "quickstart_keypoints": "--image-size 48 --max-size 64",
}
SHORT = ["--epochs", "1", "--warmup-epochs", "0", "--batch-size", "8", "--workers", "0"]


@pytest.fixture(scope="module")
def workplace(small_data, files, tmp_path_factory):  # noqa: F811
    """A folder with what the documents speak of: runs/ of one epoch, that of the tutorial among them, and pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("docs"))
        pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        places = ["picture.jpg", "picture.png", "photos/one.png"]
        places += [f"pictures/{part}/{name}/0.png" for part in ("train", "val") for name in CLASSES]
        places += [f"pictures/val/bag/{i}.png" for i in range(1, 4)]
        for place in places:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place)
        trainings = [[recipe, *size.split()] for recipe, size in RUNS.items()]
        trainings += [["quickstart_detection", "--data", "figures", "--out", "runs/people", "--image-size", "64"]]
        tutorial = [args for place, args in FOVEAL if place.startswith("docs/tutorial.md")]
        trainings += [args[1:] for args in tutorial if args[0] == "train" and "--out" in args]
        assert len(trainings) == len(RUNS) + 2
        for args in trainings:
            assert foveal.cli.main(["train", *args, *SHORT]) == 0
        # Of a fixed size, which takes a fifth of the time; that of a detector would take longer than all the rest.
        assert foveal.cli.main(["export", "runs/mine", "--out", "exported", "--fixed"]) == 0
        Path("exported/partialformer_b0_fixed.onnx").rename("exported/partialformer_b0.onnx")
        shutil.copy("exported/partialformer_b0.onnx", "model.onnx")
        shutil.copy(files / "detection.onnx", "retinanet_mat_2.onnx")
        yield


@pytest.fixture
def here(workplace):
    """The folder, and registries that are as before behind the test."""
    registries = [DETECTORS, SEGMENTERS, ESTIMATORS, *foveal.data.DATASETS.values()]
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before):
        registry.clear()
        registry.update(entries)


def test_python_blocks_run(here, capfd, monkeypatch):
    """The blocks of a page one after the other, in one module."""
    assert sum(map(len, PYTHON.values())) > 18
    for page, found in PYTHON.items():
        module = ModuleType(f"docs_{page.stem}")
        monkeypatch.setitem(
            sys.modules, module.__name__, module
        )  # where timm looks for what a model is registered from
        for block in found:
            exec(compile(block.text, block.place, "exec"), vars(module))


def at_hand(args: list[str]) -> bool:
    """Whether a command is cheap and the files that it names are there."""
    if args[0] not in EXECUTED or (args[0] == "analyze" and not (len(args) > 2 and Path(args[2]).exists())):
        return False
    words = [word for before, word in itertools.pairwise(args) if before not in OUTPUTS and word[:1] != "-"]
    named = [word for word in words if word not in WEIGHTS]
    return not any(word.isupper() or (re.search(r"[a-z]/|\.[a-z]", word) and not Path(word).exists()) for word in named)


def test_cheap_commands_are_executed(here, capfd):
    done = [(place, args) for place, args in FOVEAL if at_hand(args)]
    assert {args[0] for _, args in done} == EXECUTED
    assert len(done) > 20
    for number, (place, args) in enumerate(done):
        args = [
            f"out{number}/{word}" if before in OUTPUTS else word for before, word in itertools.pairwise(["", *args])
        ]
        Path(f"out{number}").mkdir()
        assert foveal.cli.main(list(args)) == 0, (place, args, capfd.readouterr().err)
        for flag in OUTPUTS & set(args):
            assert Path(args[args.index(flag) + 1]).exists(), (place, args)
