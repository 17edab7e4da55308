"""The page that shows what the studies found."""

from pathlib import Path
from typing import NamedTuple

from .._errors import UserError
from ._speed import Measured, measured
from ._study import Row, Study, rows

SEEDS = 100  # at most that many are looked for
HEAD = """\
# Evidence

What was trained and measured here. `foveal study report` writes this page from `evidence/`, where `run.json` and
`metrics.jsonl` of every run are kept; the remarks are ours. Figures are those of the last epoch: mean and standard
deviation over seeds. Multiply-adds are those of one picture at the study's size. Latency and training throughput are
ratios to one row, measured in turn in one run, since only those mean something on another machine. Runs this short show
how fast a model learns from little, not what it reaches in the end. How they are made: [Studies](how-to/studies.md).
"""


class Plot(NamedTuple):
    """What the first figure of a study is drawn against.

    Attributes:
        what: it is called in a sentence.
        suffix: of the file's name.
        label: of the axis.
        places: of the rows on it; those without one are left out.
    """

    what: str
    suffix: str
    label: str
    places: dict[str, float]


def report(studies: list[Study], evidence: Path, page: Path) -> list[Path]:
    """Write the page, and the plots of each study beside it; return what was written.

    Args:
        studies: in the order of the page; those without runs are left out.
        evidence: where their runs and speeds are kept, and ``remarks.md`` of each.
        page: Markdown; plots go to the folder of the same name.

    Raises:
        UserError: no run was made yet, matplotlib is missing, a run that was trained or measured otherwise.
    """
    parts, written, folder = [HEAD], [page], page.with_suffix("")
    for study in studies:
        made = rows(study, evidence, SEEDS)
        if not made:
            continue
        speed = measured(study, evidence)
        parts.append(_table(study, made, speed))
        folder.mkdir(parents=True, exist_ok=True)
        for plot in _plots(made, speed):
            file = folder / f"{study.name}{plot.suffix}.svg"
            draw(study, made, plot, file)
            written.append(file)
            parts.append(f"![{study.figures[0]} against {plot.what}]({folder.name}/{file.name})\n")
        remarks = evidence / study.name / "remarks.md"
        parts += [remarks.read_text()] if remarks.is_file() else []
    if len(parts) == 1:
        raise UserError(f"no run of a study is kept in {evidence}; foveal study NAME makes them")
    page.write_text("\n".join(parts))
    return written


def _table(study: Study, made: list[Row], speed: Measured | None) -> str:
    title, _, more = study.about.strip().partition("\n")
    speeds = columns(made, speed)
    header = ["model", "M parameters", "GMACs", *speeds, *(f"{figure} %" for figure in study.figures)]
    header += ["seeds", "trained on"]
    lines = [f"## {study.name}", "", title, *([more.replace("\n    ", "\n")] if more.strip() else []), ""]
    lines += [f"`foveal study {study.name}`: {len(made)} of {len(study.runs)} rows.", ""]
    lines += [speed.sentence(), ""] if speed is not None and speeds else []
    lines += [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for row in sorted(made, key=lambda row: -row.mean[study.figures[0]]):
        name = f"{row.name} (peer)" if row.name in study.peers else row.name
        cells = [name, f"{row.parameters / 1e6:.2f}", f"{row.macs / 1e9:.4f}"]
        cells += [column.get(row.name, "") for column in speeds.values()]
        cells += [*(row.figure(figure) for figure in study.figures), str(row.seeds), row.devices]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def columns(made: list[Row], speed: Measured | None) -> dict[str, dict[str, str]]:
    """The speeds of a study's rows, as people read them, by the title of the column; without what nothing has."""
    there = {row.name: speed.rows[row.name] for row in made if row.name in speed.rows} if speed is not None else {}
    found = {
        "latency": {name: f"{row.latency:.2f}" for name, row in there.items()},
        "training throughput": {name: f"{row.training:.2f}" for name, row in there.items() if row.training is not None},
    }
    return {title: column for title, column in found.items() if column}


def _plots(made: list[Row], speed: Measured | None) -> list[Plot]:
    found = [Plot("cost", "", "multiply-adds of a picture, 10$^9$", {row.name: row.macs / 1e9 for row in made})]
    if speed is not None and columns(made, speed):
        places = {name: row.latency for name, row in speed.rows.items()}
        found.append(Plot("latency", "-latency", f"latency of a picture by that of {speed.first}", places))
    return found


def draw(study: Study, made: list[Row], plot: Plot, path: Path) -> None:
    """The first figure of each row against another; peers are open, bars show the spread."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("plots need matplotlib: pip install 'foveal[plot]'") from None
    name = study.figures[0]
    with rc_context({"svg.hashsalt": study.name, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for row in (row for row in made if row.name in plot.places):
            x, y = plot.places[row.name], row.mean[name]
            error = row.spread[name] if row.spread else None
            peer = row.name in study.peers
            axes.errorbar(
                x, y, error, fmt="s" if peer else "o", color="black", mfc="white" if peer else "black", capsize=3
            )
            axes.annotate(row.name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        axes.set_xlabel(plot.label)
        axes.set_ylabel(f"{name}, %")
        axes.margins(x=0.15)
        figure.savefig(path, metadata={"Date": None})
