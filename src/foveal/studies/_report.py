"""The page that shows what the studies found."""

from pathlib import Path

from .._errors import UserError
from ._study import Row, Study, rows

SEEDS = 100  # at most that many are looked for
HEAD = """\
# Evidence

What was trained and measured here. `foveal study report` writes this page from `evidence/`, where `run.json` and
`metrics.jsonl` of every run are kept; the remarks are ours. Figures are those of the last epoch: mean and standard
deviation over seeds. Multiply-adds are those of one picture at the study's size. Runs this short show how fast a model
learns from little, not what it reaches in the end.
"""


def report(studies: list[Study], evidence: Path, page: Path) -> list[Path]:
    """Write the page, and a plot of each study beside it; return what was written.

    Args:
        studies: in the order of the page; those without runs are left out.
        evidence: where their runs are kept, and ``remarks.md`` of each.
        page: Markdown; plots go to the folder of the same name.

    Raises:
        UserError: no run was made yet, matplotlib is missing, a run that was trained otherwise.
    """
    parts, written = [HEAD], [page]
    for study in studies:
        made = rows(study, evidence, SEEDS)
        if not made:
            continue
        plot = page.with_suffix("") / f"{study.name}.svg"
        plot.parent.mkdir(parents=True, exist_ok=True)
        draw(study, made, plot)
        written.append(plot)
        remarks = evidence / study.name / "remarks.md"
        parts.append(_section(study, made, f"{plot.parent.name}/{plot.name}"))
        parts += [remarks.read_text()] if remarks.is_file() else []
    if len(parts) == 1:
        raise UserError(f"no run of a study is kept in {evidence}; foveal study NAME makes them")
    page.write_text("\n".join(parts))
    return written


def _section(study: Study, made: list[Row], plot: str) -> str:
    title, _, more = study.about.strip().partition("\n")
    header = ["model", "M parameters", "GMACs", *(f"{figure} %" for figure in study.figures), "seeds", "trained on"]
    lines = [f"## {study.name}", "", title, *([more.replace("\n    ", "\n")] if more.strip() else []), ""]
    lines += [f"`foveal study {study.name}`: {len(made)} of {len(study.runs)} rows.", ""]
    lines += [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for row in sorted(made, key=lambda row: -row.mean[study.figures[0]]):
        name = f"{row.name} (peer)" if row.name in study.peers else row.name
        cells = [name, f"{row.parameters / 1e6:.2f}", f"{row.macs / 1e9:.4f}"]
        cells += [*(row.figure(figure) for figure in study.figures), str(row.seeds), row.devices]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"![{study.figures[0]} against cost]({plot})", ""])


def draw(study: Study, made: list[Row], path: Path) -> None:
    """The first figure of each row against its multiply-adds; peers are open, bars show the spread."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("plots need matplotlib: pip install 'foveal[plot]'") from None
    name = study.figures[0]
    with rc_context({"svg.hashsalt": study.name, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for row in made:
            x, y = row.macs / 1e9, row.mean[name]
            error = row.spread[name] if row.spread else None
            peer = row.name in study.peers
            axes.errorbar(
                x, y, error, fmt="s" if peer else "o", color="black", mfc="white" if peer else "black", capsize=3
            )
            axes.annotate(row.name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        axes.set_xlabel("multiply-adds of a picture, 10$^9$")
        axes.set_ylabel(f"{name}, %")
        axes.margins(x=0.15)
        figure.savefig(path, metadata={"Date": None})
