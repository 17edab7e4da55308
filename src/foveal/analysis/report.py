"""All analyses of several models on one page: a single HTML file, with its figures in it, that needs no network."""

import base64
import inspect
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from .._errors import UserError, first_line, unknown
from ._result import DPI, Result, check_new
from ._subject import DEFAULT, Progress, Setting, Subject, load_pictures, load_subjects, silent

COST = {"interaction": 100}  # about, where another analysis costs 1; for the time left
CSS_DPI = 96  # pixels an inch, in which a browser shows a figure at its size


@dataclass(frozen=True, kw_only=True)
class Report:
    """Results of several analyses.

    Attributes:
        subjects: the models.
        results: by the analysis.
        left_out: for each analysis, the models that it does not take, and why.
        seconds: for each analysis.
    """

    subjects: Sequence[Subject]
    results: dict[str, Result]
    left_out: dict[str, dict[str, str]]
    seconds: dict[str, float]

    def rows(self) -> list[dict[str, str | float]]:
        return [
            {
                "analysis": what,
                "models": str(len(self.results[what].subjects) if what in self.results else 0),
                "left out": str(len(without)),
                "seconds": self.seconds[what],
            }
            for what, without in self.left_out.items()
        ]

    def notes(self) -> list[str]:
        return [f"left out of {what}: {line}" for what, without in self.left_out.items() for line in reasons(without)]

    def write(self, out: Path) -> list[Path]:
        """Write report.html and the files of each analysis into a folder.

        Raises:
            UserError: a file is there already, or cannot be written, or matplotlib is missing.
        """
        page = out / "report.html"
        check_new(out, "report")
        files = {what: result.write(out) for what, result in self.results.items()}
        try:
            page.write_text(self.html(files), "utf-8")
        except OSError as error:
            raise UserError(f"cannot write {page}: {first_line(error)}") from None
        return [page, *(file for some in files.values() for file in some)]

    def html(self, files: dict[str, list[Path]]) -> str:
        """The page.

        Args:
            files: of each analysis, beside which the page lies.
        """
        meta = next(iter(self.results.values())).metadata()
        models = [
            {
                "model": subject.name,
                "weights": subject.weights,
                "image": "x".join(map(str, subject.size)),
                "parameters (M)": sum(p.numel() for p in subject.model.parameters()) / 1e6,
            }
            for subject in self.subjects
        ]
        parts = [f"<p>{escape(PICTURES.format(**meta))}</p>", table(models)]
        parts.append("<nav>" + " ".join(f'<a href="#{what}">{what}</a>' for what in self.left_out) + "</nav>")
        for what, without in self.left_out.items():
            parts.append(f'<section id="{what}"><h2>{what}</h2>')
            if what in self.results:
                parts.append(section(self.results[what], files[what]))
            parts += [f"<p>Left out: {escape(line)}.</p>" for line in reasons(without)]
            parts.append("</section>")
        versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
        title = "Analyses of " + ", ".join(subject.name for subject in self.subjects)
        return PAGE.format(title=escape(title), style=STYLE, body="\n".join(parts), versions=escape(versions))


PICTURES = "Pictures: {images}; seed {seed}. Each analysis says below how many it used."

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
<footer>{versions}</footer>
</body>
</html>
"""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff; }
body { max-width: 110rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; border-bottom: 1px solid #999; margin-top: 2rem; }
nav a { display: inline-block; margin: 0 .8rem .4rem 0; }
.wide { overflow-x: auto; }
.wide img { display: block; max-width: none; }
figure { margin: 1rem 0; }
figcaption { font-size: .9rem; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #ddd; white-space: nowrap; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; }
footer { margin-top: 2rem; font-size: .85rem; }
"""


def section(result: Result, files: list[Path]) -> str:
    """What a page says of one result."""
    pictures = {file.stem: file for file in files if file.suffix == ".png"}
    parts = []
    for name, caption in result.captions().items():
        file = pictures[f"{result.what}_{name}" if name else result.what]
        with Image.open(file) as image:
            width, height = (round(side / DPI * CSS_DPI) for side in image.size)
        source, text = base64.b64encode(file.read_bytes()).decode(), escape(caption)
        parts.append(
            f'<figure><div class="wide"><img width="{width}" height="{height}" alt="{text}" '
            f'src="data:image/png;base64,{source}"></div><figcaption>{text}</figcaption></figure>'
        )
    parts.append(f"<details><summary>Numbers</summary>{table(result.rows())}</details>")
    parts += [f"<p>{escape(note)}</p>" for note in result.notes()]
    links = ", ".join(f'<a href="{escape(file.name)}">{escape(file.name)}</a>' for file in files)
    parts.append(f"<p>{result.num_images} pictures. Files: {links}</p>")
    settings = escape(json.dumps(result.metadata(), indent=1))
    parts.append(f"<details><summary>Settings</summary><pre>{settings}</pre></details>")
    return "\n".join(parts)


def reasons(without: dict[str, str]) -> list[str]:
    """Models that were left out, by the reason."""
    models = {why: [name for name, other in without.items() if other == why] for why in without.values()}
    return [why if names[0] in why else f"{', '.join(names)}: {why}" for why, names in models.items()]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with the same keys, as HTML."""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    lines = [
        "".join(f"<td>{escape(value if isinstance(value, str) else f'{value:.3g}')}</td>" for value in row.values())
        for row in rows
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def report(
    models: Sequence[str | nn.Module | Subject],
    *,
    only: tuple[str, ...] = (),
    setting: Setting = DEFAULT,
    parts: Path | None = None,
    progress: Progress = silent,
) -> Report:
    """All analyses of several models side by side, on one HTML page.

    An analysis leaves out the models that it does not take, such as those without attention, and says so.

    Args:
        models: names of timm models, folders of runs, or modules.
        only: names of the analyses; all without any.
        setting: what the models see.
        parts: a folder for what is done so far of analyses that can be resumed.
        progress: called with the share that is done and all.

    Raises:
        UserError: an unknown model or analysis, or one that takes none of the models.
    """
    from . import ANALYSES  # which this file belongs to

    for what in only:
        if what not in ANALYSES:
            raise unknown("analysis", what, ANALYSES)
    chosen = [what for what in ANALYSES if not only or what in only]
    subjects = load_subjects(models, setting)
    load_pictures(setting, 1)  # whether there are any
    results, left_out, seconds = {}, {}, {}
    for what in chosen:
        start = time.perf_counter()
        run: Any = partial(ANALYSES[what], setting=setting, progress=within(progress, chosen, what))
        if "parts" in inspect.signature(ANALYSES[what]).parameters:
            run = partial(run, parts=parts)
        result, left_out[what] = run_those_that_fit(run, subjects)
        if result is not None:
            results[what] = result
        seconds[what] = time.perf_counter() - start
    if not results:
        raise UserError(next(why for without in left_out.values() for why in without.values()))
    return Report(subjects=subjects, results=results, left_out=left_out, seconds=seconds)


def run_those_that_fit(
    run: Callable[[Sequence[Subject]], Result], subjects: Sequence[Subject]
) -> tuple[Result | None, dict[str, str]]:
    """An analysis of the models that it takes, None if there are none; and for the others why not."""
    try:
        return run(subjects), {}
    except UserError as error:
        if len(subjects) == 1:
            return None, {subjects[0].name: str(error)}
        together = error
    refused: dict[str, str] = {}
    for subject in subjects:
        try:
            run([subject])
        except UserError as error:
            refused[subject.name] = str(error)
    if not refused:
        raise together
    fit = [subject for subject in subjects if subject.name not in refused]
    return (run(fit) if fit else None), refused


def within(progress: Progress, chosen: Sequence[str], what: str) -> Progress:
    """The progress of one of several analyses, each weighted by about what it costs."""
    costs = [COST.get(other, 1) for other in chosen]
    past, own = sum(costs[: chosen.index(what)]), COST.get(what, 1)
    return lambda done, total: progress(round(1000 * (past + own * done / total)), 1000 * sum(costs))
