"""Hook of mkdocs.yml: equations of the pages become MathML, which browsers draw without a script."""

import re
from html import unescape

from latex2mathml.converter import convert

MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_: object) -> str:
    """Replace what pymdownx.arithmatex marks: in a line ``$x$``, on its own ``$$x$$``."""

    def mathml(match: re.Match[str]) -> str:
        drawn = convert(unescape(match[2]), display="block" if match[1] == "div" else "inline")
        return f'<div class="math">{drawn}</div>' if match[1] == "div" else drawn

    return MATH.sub(mathml, html)
