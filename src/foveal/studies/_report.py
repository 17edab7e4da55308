"""The page that shows what the studies found."""

from pathlib import Path
from typing import Any, NamedTuple

from .._errors import UserError
from ._speed import Measured, measured
from ._study import Row, Study, rows

SEEDS = 100  # at most that many are looked for
HEAD = """\
# Evidence

What was trained and measured here. `foveal study report` writes this page from `evidence/`, where `run.json` and
`metrics.jsonl` of every run are kept; the remarks are ours. Figures are those of the last epoch: mean and standard
deviation over seeds. Multiply-adds are those of one picture at the study's size. Latency, and throughput in training,
are ratios to one row, measured in turn in one run, since only those mean something on another machine. Runs this short
show how fast a model learns from little, not what it reaches in the end. How they are made, and can be made again:
[Studies](how-to/studies.md).

Every row is to have three seeds in the end. What is there so far:
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
        studies: in the order of the page; those without runs stand in its first table alone.
        evidence: where their runs and speeds are kept, and ``remarks.md`` of each.
        page: Markdown; plots go to the folder of the same name.

    Raises:
        UserError: no run was made yet, matplotlib is missing, a run that was trained or measured otherwise.
    """
    everything = {study.name: rows(study, evidence, SEEDS) for study in studies}
    if not any(everything.values()):
        raise UserError(f"no run of a study is kept in {evidence}; foveal study NAME makes them")
    parts, written, folder = [HEAD, _overview(studies, everything)], [page], page.with_suffix("")
    for study in studies:
        made = everything[study.name]
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
    page.write_text("\n".join(parts))
    return written


def _overview(studies: list[Study], everything: dict[str, list[Row]]) -> str:
    """Of every study how much was made, on what, and which rows wait."""
    lines = ["| study | rows made | runs made | trained on | rows that wait |", "|---|---|---|---|---|"]
    for study in studies:
        made = everything[study.name]
        there = {row.name for row in made}
        waiting = [f"`{name}`" for name in study.runs if name not in there]
        cells = [study.name, f"{len(made)} of {len(study.runs)}", str(sum(row.seeds for row in made))]
        devices = sorted({name for row in made for name in row.devices})
        cells += [", ".join(devices), ", ".join(waiting) if made else "all"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


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
        cells += [*(row.figure(figure) for figure in study.figures), str(row.seeds), ", ".join(row.devices)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def columns(made: list[Row], speed: Measured | None) -> dict[str, dict[str, str]]:
    """The speeds of a study's rows, as people read them, by the title of the column; without what nothing has."""
    there = {row.name: speed.rows[row.name] for row in made if row.name in speed.rows} if speed is not None else {}
    found = {
        "latency": {name: f"{row.latency:.2f}" for name, row in there.items()},
        "throughput": {name: f"{row.training:.2f}" for name, row in there.items() if row.training is not None},
    }
    return {title: column for title, column in found.items() if column}


def _plots(made: list[Row], speed: Measured | None) -> list[Plot]:
    found = [Plot("cost", "", "multiply-adds of a picture, 10$^9$", {row.name: row.macs / 1e9 for row in made})]
    if speed is not None and columns(made, speed):
        places = {name: row.latency for name, row in speed.rows.items()}
        found.append(Plot("latency", "-latency", f"latency, ratio to that of {speed.first}", places))
    return found


def draw(study: Study, made: list[Row], plot: Plot, path: Path) -> None:
    """The first figure of each row against another; peers are open, bars show the spread."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullLocator
    except ImportError:
        raise UserError("plots need matplotlib: pip install 'foveal[plot]'") from None
    name = study.figures[0]
    with rc_context({"svg.hashsalt": study.name, "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot()
        points = {row.name: (plot.places[row.name], row.mean[name]) for row in made if row.name in plot.places}
        for row in (row for row in made if row.name in points):
            error = row.spread[name] if row.spread else None
            peer = row.name in study.peers
            look: dict[str, Any] = dict(fmt="s", mfc="white") if peer else dict(fmt="o", mfc="black")
            axes.errorbar(*points[row.name], error, color="black", capsize=3, **look)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(plot.label)
        axes.set_ylabel(f"{name}, %")
        axes.margins(x=0.1, y=0.1)
        figure.draw_without_rendering()  # from here on the places of points in the figure are known
        write_names(axes, points)
        figure.savefig(path, metadata={"Date": None})


def write_names(axes: Any, points: dict[str, tuple[float, float]]) -> None:
    """Write names beside points, where they stay inside and meet the fewest points and other names."""
    size, scale = 7, 72 / axes.figure.dpi  # in typographic points, as are all places below
    centers = {name: axes.transData.transform(point) * scale for name, point in points.items()}
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in centers.values()]
    left, right = axes.bbox.x0 * scale, axes.bbox.x1 * scale
    for name, (x, y) in centers.items():
        width, boxes = 0.6 * size * len(name), {}
        for dx, dy in ((5, -2.5), (-5 - width, -2.5), (5, 4), (-5 - width, 4), (5, -9), (-5 - width, -9)):
            box = (x + dx, y + dy, x + dx + width, y + dy + size)
            met = sum(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)
            boxes[dx, dy] = met + 10 * (box[0] < left or box[2] > right), box
        (dx, dy), (_, box) = min(boxes.items(), key=lambda item: item[1][0])
        taken.append(box)
        beside = dict(ha="left" if dx > 0 else "right", xytext=(5 if dx > 0 else -5, dy))
        axes.annotate(name, points[name], textcoords="offset points", fontsize=size, **beside).set_in_layout(False)
