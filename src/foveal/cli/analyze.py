"""``foveal analyze WHAT MODEL... [--images DIR] [--out DIR]``"""

import inspect
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import docstring_parser
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .._errors import unknown
from .._models import weights_folder
from ..analysis import ANALYSES, Report, Result, Setting, Subject, load_subject, report
from ..analysis._result import check_new, new_figure
from ..analysis.interaction import part_file
from . import FLAGS
from ._load import check_device, kind_of, load_model

COMMANDS: Mapping[str, Callable[..., Result | Report]] = {**ANALYSES, "report": report}
PLAIN_SECONDS = 15.0  # between two lines where there is no terminal
ROWS = 24  # of the table


def parse(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: foveal analyze WHAT MODEL... [options]   (foveal analyze WHAT --help says more)\n")
        for name, function in COMMANDS.items():
            print(f"  {name:12s} {sentence(function)}")
        print("\nMODEL is a timm name or the folder of a run, of which the backbone is looked at")
        print("next: foveal analyze fourier mat_1")
        return 0
    what = argv[0]
    if what not in COMMANDS:
        raise unknown("analysis", what, COMMANDS)
    function = COMMANDS[what]
    files = f"{what}.npz, {what}.png and {what}.svg"
    if what == "report":
        files = "report.html and the files of each analysis"
    text = f"{sentence(function)}\n\nWrites {files} into a folder."
    given: Any = tyro.cli(
        options(function), args=argv[1:], prog=f"foveal analyze {what}", description=text, config=FLAGS
    )
    values = dict(vars(given))
    out = values.pop("out") or Path("analysis") / what
    check_device(values["setting"].device)
    for name in [what, *ANALYSES] if what == "report" else [what]:
        check_new(out, name)
    if "parts" in inspect.signature(function).parameters:
        values["parts"] = out
    new_figure(1, 1)  # says now, and not behind minutes of work, that matplotlib is missing
    models = [opened(name, values["setting"]) for name in values.pop("models")]
    with shown(what) as progress:
        result = function(models, **values, progress=progress)
    files = result.write(out)
    for model in models if "parts" in values else ():
        part_file(out, model if isinstance(model, str) else model.name).unlink(missing_ok=True)
    show(result)
    for note in result.notes():
        print(note)
    print(f"wrote {', '.join(map(str, files))}")
    if what == "report":
        print(f"next: open {files[0]} in a browser")
    else:
        print(f'next: look at {files[1]}; the numbers: numpy.load("{files[0]}")')
    return 0


def opened(name: str, setting: Setting) -> str | Subject:
    """A model as analyses take it: of a run of another task than classification its backbone, which has no classes."""
    kind = kind_of(name) if Path(name).is_dir() else "classification"
    if kind == "classification":
        return name
    trained = load_model(kind, name, device=setting.device)
    sides = trained.config["image_size"], trained.config["max_size"]
    body = trained.model.backbone.body
    if setting.size is None:
        setting = replace(setting, size=sides[::-1] if kind == "keypoints" else sides)
    backbone = load_subject(getattr(body, "model", body), setting)
    return replace(backbone, name=name, weights=f"{weights_folder(Path(name))}, the backbone")


def sentence(function: Callable) -> str:
    """The first of a docstring."""
    return (function.__doc__ or "").strip().splitlines()[0]


def options(function: Callable[..., Result | Report]) -> type:
    """A dataclass of what an analysis takes: models, its own keyword arguments, the setting, the folder to write to."""
    texts = {param.arg_name: param.description for param in docstring_parser.parse(function.__doc__ or "").params}
    hints = get_type_hints(function, include_extras=True)
    models = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...", help=texts["models"])]
    fields: list[Any] = [("models", models)]
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in ("models", "setting", "parts", "progress"):
            hint = Annotated[hints[name], tyro.conf.arg(help=texts[name])]
            fields.append((name, hint, field(default=parameter.default)))
    fields.append(("setting", Setting, field(default=Setting())))
    folder = Annotated[Path | None, tyro.conf.arg(help="folder to write to; analysis/WHAT by default")]
    fields.append(("out", folder, field(default=None)))
    return make_dataclass("Options", fields, frozen=True, kw_only=True)


@contextmanager
def shown(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    started = last = time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as live:
        task = live.add_task(what, total=None)

        def progress(done: int, total: int) -> None:
            nonlocal last
            live.update(task, completed=done, total=total)
            now = time.monotonic()
            if not console.is_terminal and now - last > PLAIN_SECONDS:
                left = (now - started) / done * (total - done)
                print(f"{what}: {done} of {total}, {left:.0f} s left", file=sys.stderr)
                last = now

        yield progress


def show(result: Result | Report) -> None:
    """The rows of a result as a table; the middle of many is left out."""
    rows = result.rows()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for i, row in enumerate(rows):
        if len(rows) <= ROWS or i < ROWS // 2 or i >= len(rows) - ROWS // 2:
            table.add_row(*(value if isinstance(value, str) else f"{value:.3g}" for value in row.values()))
        elif i == ROWS // 2:
            table.add_row("...")
    console = Console(highlight=False)
    console.print(table)
    if len(rows) > ROWS:
        print(f"{len(rows) - ROWS} rows left out; all are in the NPZ file")
