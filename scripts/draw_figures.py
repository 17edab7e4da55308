"""Draw the figures of the documentation: python scripts/draw_figures.py [FOLDER] (docs/figures).

Black, white and greys, so that they can be printed; a test holds the files to this script.
"""

import sys
from collections.abc import Callable, Iterable
from html import escape
from itertools import combinations
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "figures"
BLACK, DARK, LIGHT, WHITE = "#000", "#888", "#e2e2e2", "#fff"


class Drawing:
    """An SVG of a size in pixels; each method adds a shape."""

    def __init__(self, width: int, height: int, title: str):
        self.width, self.height, self.title = width, height, title
        self.shapes: list[str] = []

    def box(self, x: float, y: float, w: float, h: float, text: str = "", fill: str = WHITE) -> None:
        self.shapes.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" fill="{fill}" stroke="{BLACK}"/>')
        lines = text.split("\n") if text else []
        for i, line in enumerate(lines):
            self.text(x + w / 2, y + h / 2 + 4 + 14 * (i - (len(lines) - 1) / 2), line)

    def circle(self, x: float, y: float, r: float, text: str = "", fill: str = DARK) -> None:
        self.shapes.append(f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="{fill}" stroke="{BLACK}"/>')
        if text:
            self.text(x, y + 4, text)

    def text(self, x: float, y: float, text: str, anchor: str = "middle", bold: bool = False) -> None:
        weight = ' font-weight="bold"' if bold else ""
        self.shapes.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{weight}>{escape(text)}</text>')

    def line(self, *points: tuple[float, float], arrow: bool = True, dashed: bool = False) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        end = ' marker-end="url(#arrow)"' if arrow else ""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.shapes.append(f'<polyline points="{path}" fill="none" stroke="{BLACK}"{dash}{end}/>')

    def cells(self, x: float, y: float, side: float, number: int, dark: Iterable[tuple[int, int]] = ()) -> None:
        """A square of ``number`` x ``number`` tokens, some dark (row, column)."""
        step = side / number
        self.box(x, y, side, side, fill=LIGHT)
        for row, col in dark:
            self.box(x + col * step, y + row * step, step, step, fill=DARK)
        across = "".join(f"M{x:g},{y + i * step:g}h{side:g}" for i in range(1, number))
        down = "".join(f"M{x + i * step:g},{y:g}v{side:g}" for i in range(1, number))
        self.shapes.append(f'<path d="{across}{down}" stroke="{BLACK}" stroke-width="0.6"/>')

    def svg(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="sans-serif" font-size="12">'
        )
        arrow = (
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>'
        )
        ground = f'<rect width="{self.width}" height="{self.height}" fill="{WHITE}"/>'
        return "\n".join([head, f"<title>{escape(self.title)}</title>", arrow, ground, *self.shapes, "</svg>"]) + "\n"


def pyramid() -> Drawing:
    """What the three families share."""
    d = Drawing(760, 190, "A stem and four stages give maps at strides 4, 8, 16 and 32")
    d.box(4, 30, 60, 90, "image\n3 x H x W", LIGHT)
    d.line((64, 75), (82, 75))
    d.box(82, 45, 52, 60, "stem")
    x, sides = 152, (90, 66, 48, 36)
    for i, side in enumerate(sides):
        d.line((x - 18, 75), (x, 75))
        if i:
            d.box(x, 53, 76, 44, "patch\nembedding")
            d.line((x + 76, 75), (x + 90, 75))
            x += 90
        d.box(x, 75 - side / 2, 44, side, f"stage\n{i + 1}", LIGHT)
        d.line((x + 22, 75 + side / 2), (x + 22, 140))
        d.text(x + 22, 154, f"stride {4 * 2**i}")
        x += 44 + 18
    d.line((x - 18, 75), (x, 75))
    d.box(x, 53, 62, 44, "pooling,\nclasses")
    d.text(397, 180, "features_only=True: the four maps")
    return d


def emsnet() -> Drawing:
    """Multi-scale spatial interaction."""
    d = Drawing(800, 340, "EMSNet: the static operator above, the dynamic operator below, each with its scales")
    d.line((8, 180), (25, 180))
    d.box(25, 160, 45, 40, "1x1", LIGHT)
    d.text(47, 152, "C")

    d.line((70, 180), (90, 180), (90, 100), (105, 100))
    d.text(108, 145, "C/2")
    d.box(105, 80, 60, 40, "1x1,\nwhiten")
    d.line((165, 100), (180, 100))
    d.box(180, 80, 60, 40, "3x3\ndepthwise")
    for y, share, parts in (
        (45, "1/4", ("pool 2\n1x1", "1x3, 3x1\ndepthwise", "up 2")),
        (100, "1/2", ()),
        (155, "1/4", ("pool 4\n1x1", "1x3, 3x1\ndepthwise", "up 4")),
    ):
        branch(d, y, 100, 240, share, parts)
    merge(d, (45, 100, 155), 100)
    d.box(560, 80, 60, 40, "1x1,\nsigmoid")
    d.line((620, 100), (648, 100))
    d.circle(657, 100, 9, "x", WHITE)
    d.line((90, 100), (90, 12), (240, 12), dashed=True)
    d.box(240, 2, 45, 20, "1x1")
    d.line((285, 12), (657, 12), (657, 91), dashed=True)
    d.line((666, 100), (690, 100), (690, 170))

    d.line((70, 180), (90, 180), (90, 265), (240, 265), arrow=False)
    d.text(108, 227, "C/2")
    for y, share, parts in (
        (235, "1/2", ("pool 4\n1x1", "C-MHSA", "up 4")),
        (295, "1/2", ("pool 6\n1x1", "G-MHSA", "up 6")),
    ):
        branch(d, y, 265, 240, share, parts)
    merge(d, (235, 295), 265)
    d.box(560, 245, 60, 40, "1x1")
    d.line((620, 265), (690, 265), (690, 190))
    d.box(672, 170, 36, 20, "cat")
    d.line((708, 180), (725, 180))
    d.box(725, 160, 45, 40, "1x1", LIGHT)
    d.line((770, 180), (792, 180))
    d.text(200, 145, "static", bold=True)
    d.text(200, 227, "dynamic", bold=True)
    return d


def branch(d: Drawing, y: float, start_y: float, start_x: float, share: str, parts: tuple[str, ...]) -> None:
    """A share of the channels: pool, mix, enlarge; or nothing."""
    d.line((start_x, start_y), (258, start_y), (258, y), (285, y), arrow=bool(parts))
    d.text(272, y - 5, share)
    x = 285
    if not parts:
        d.line((x, y), (485, y), arrow=False)
    for i, (part, width) in enumerate(zip(parts, (55, 70, 45))):
        d.box(x, y - 18, width, 36, part, LIGHT if i == 1 else WHITE)
        x += width
        if i < 2:
            d.line((x, y), (x + 14, y))
            x += 14


def merge(d: Drawing, ys: tuple[int, ...], y: float) -> None:
    """Lines from branches into "cat"."""
    for branch_y in ys:
        d.line((483, branch_y), (500, branch_y), (500, y), arrow=False)
    d.line((500, y), (515, y))
    d.box(515, y - 10, 32, 20, "cat")
    d.line((547, y), (560, y))


def mat() -> Drawing:
    """Abstract tokens of four windows."""
    d = Drawing(760, 270, "MAT attention: abstract tokens read their windows, mix, and are read by all tokens")
    corners = ((0, 0), (95, 0), (0, 95), (95, 95))
    for x0, name in ((20, "1  abstraction"), (275, "2  mixing"), (530, "3  fusion")):
        d.text(x0 + 90, 20, name, bold=True)
        for dx, dy in corners:
            d.cells(x0 + dx, 40 + dy, 84, 7)
    for dx, dy in corners:
        x, y = 20 + dx + 42, 40 + dy + 42
        for cx, cy in ((-36, -36), (36, -36), (-36, 36), (36, 36), (0, -36), (0, 36), (-36, 0), (36, 0)):
            d.line((x + cx, y + cy), (x + cx * 0.36, y + cy * 0.36))
        d.circle(x, y, 9)
    middles = [(275 + dx + 42, 40 + dy + 42) for dx, dy in corners]
    for a, b in combinations(middles, 2):
        d.line(a, b, arrow=False)
    for x, y in middles:
        d.circle(x, y, 9)
    tokens = [(530 + dx + 42, 40 + dy + 42) for dx, dy in corners]
    goal = (530 + 95 + 6 + 5 * 12, 40 + 6)
    d.box(goal[0] - 6, goal[1] - 6, 12, 12, fill=BLACK)
    for x, y in tokens:
        d.line((x, y), goal, dashed=True)
        d.circle(x, y, 9)
    d.text(110, 240, "in each window one more")
    d.text(110, 256, "query, a learned vector")
    d.text(365, 240, "attention among the")
    d.text(365, 256, "tokens of all windows")
    d.text(620, 240, "each position adds what it reads")
    d.text(620, 256, "of the mixed tokens")
    return d


def partialformer() -> Drawing:
    """Foreground, abstract token, background."""
    d = Drawing(760, 280, "Partial attention: the foreground and an abstract token, then one query for the background")
    dark = [(1, 2), (2, 4), (3, 3), (4, 4)]
    d.text(90, 20, "all N tokens", bold=True)
    d.cells(20, 35, 140, 7, dark)
    d.text(90, 195, "dark: the N_F of the largest")
    d.text(90, 211, "mean over their channels")

    d.line((160, 75), (225, 75))
    d.text(192, 68, "N_F")
    d.text(340, 20, "MMSA: every one with every one", bold=True)
    ring = [(290, 70), (350, 45), (390, 95), (330, 130)]
    a = (262, 112)
    for p, q in combinations([*ring, a], 2):
        d.line(p, q, arrow=False)
    for x, y in ring:
        d.box(x - 8, y - 8, 16, 16, fill=DARK)
    d.circle(*a, 12, "A", WHITE)
    d.text(218, 134, "abstract", "start")

    d.line((405, 82), (570, 82))
    d.text(490, 75, "N_F rows of O_F")

    d.line((160, 165), (250, 165), (250, 240), (300, 240))
    d.text(262, 257, "N - N_F keys, values", "end")
    d.line((262, 124), (262, 150), (370, 150), (370, 218), dashed=True)
    d.text(380, 175, "query Q_A", "start")
    d.box(300, 218, 140, 44, "SQA: one query\nreads the background")
    d.line((440, 240), (470, 240))
    d.box(470, 222, 80, 36, "ChannelMLP")
    d.line((550, 240), (660, 240), (660, 180))
    d.text(606, 234, "Y'_B, one row")

    d.text(660, 20, "output", bold=True)
    d.cells(590, 35, 140, 7, dark)
    d.text(650, 205, "added to all background rows", "end")
    return d


FIGURES: dict[str, Callable[[], Drawing]] = {f.__name__: f for f in (pyramid, emsnet, mat, partialformer)}

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for name, draw in FIGURES.items():
        (folder / f"{name}.svg").write_text(draw().svg())
