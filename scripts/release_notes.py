"""What a release brings, from CHANGELOG.md, once everything agrees with its tag.

    python scripts/release_notes.py v0.1.0

Prints the changelog's section of that version. Ends with 1 and the reason if the tag is not the package's version, if
the changelog has no such version with a date, or if pyproject.toml does not say where the project lives.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def notes(tag: str, root: Path = ROOT) -> str:
    """The section of the changelog for a tag; ``ValueError`` if something is not as a release needs it."""
    source = (root / "src" / "foveal" / "__init__.py").read_text()
    version = re.findall(r'^__version__ = "(.+)"$', source, flags=re.MULTILINE)[0]
    if tag != f"v{version}":
        raise ValueError(
            f"the tag is {tag}, but the package is version {version}: tag v{version}, or change __version__"
        )
    sections = re.split(r"^## \[(.+?)\] - (\S+)$", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    found = {name: (date, text) for name, date, text in zip(sections[1::3], sections[2::3], sections[3::3])}
    if version not in found:
        raise ValueError(f"CHANGELOG.md has no '## [{version}] - DATE'")
    date, text = found[version]
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        raise ValueError(f"CHANGELOG.md says '{date}' of {version}: a release has a date, as 2026-01-31")
    if "\n[project.urls]\n" not in (root / "pyproject.toml").read_text():
        raise ValueError("pyproject.toml has no [project.urls]: PyPI's page links to where the project lives")
    return text.strip()


if __name__ == "__main__":
    try:
        print(notes(sys.argv[1]))
    except ValueError as error:
        sys.exit(str(error))
