"""What foveal installs, and under which licences.

    python scripts/licenses.py [EXTRA...]

Walks the requirements of foveal and of its extras (all of them, if none is named) through what is installed here, and
prints a table: package, version, licence, what it is for, who asked for it. What is not installed follows with who
wants it. Ends with 1 if a licence is unknown, or neither permissive nor one that ``ALLOWED`` names for a package.

The licence is what a package says of itself, except in ``READ``. Requirements of other systems are not looked at.
"""

import argparse
import re
import sys
from collections import deque
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PERMISSIVE = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CNRI-Python",
    "ISC",
    "MIT",
    "MIT-CMU",
    "PSF-2.0",
    "WTFPL",
    "Zlib",
}
SPDX = {  # what older packages write: in the field License, or as the end of a classifier
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "BSD-3": "BSD-3-Clause",
    "FreeBSD": "BSD-2-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "OSI Approved :: Apache Software License": "Apache-2.0",
    "Other/Proprietary License": "LicenseRef-Proprietary",
    "Python Software Foundation License": "PSF-2.0",
}
READ = {  # where the metadata are silent, or say nothing of what the wheel bundles; from the files of the wheels
    "av": "BSD-3-Clause AND GPL-2.0-or-later",
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "faster-coco-eval": "Apache-2.0",
    "opencv-python-headless": "Apache-2.0 AND LGPL-2.1-or-later",
    "torchao": "BSD-3-Clause",
    "torchcodec": "BSD-3-Clause",
}
EXPRESSION = re.compile(r"\(?[\w.+-]+\)?( (AND|OR|WITH) \(?[\w.+-]+\)?)*")
RANKS = ("runtime", "extra", "tools")  # what a package is for, from what everybody gets to what only works on foveal
TOOLS = {"docs", "test"}
ALLOWED = {  # not permissive: which licence, and up to where; docs/dependencies.md says why
    "av": ("GPL-2.0-or-later", "extra"),
    "certifi": ("MPL-2.0", "extra"),
    "cuda-toolkit": ("LicenseRef-NVIDIA-Proprietary", "runtime"),
    "hypothesis": ("MPL-2.0", "extra"),
    "nvidia-": ("LicenseRef-NVIDIA-Proprietary", "runtime"),
    "opencv-python-headless": ("LGPL-2.1-or-later", "tools"),
    "orjson": ("MPL-2.0", "extra"),
    "pathspec": ("MPL-2.0", "tools"),
    "tqdm": ("MPL-2.0", "runtime"),
}


class Package(NamedTuple):
    """An installed package, or one that is not (``version`` None)."""

    name: str
    version: str | None
    licence: str
    rank: str
    by: str

    @property
    def fault(self) -> str | None:
        """Why its licence is not accepted; None if it is. One that may be chosen among others counts like them."""
        if self.version is None:
            return None
        if not self.licence:
            return "says no licence"
        others = {part.strip(" ()") for part in re.split(r" (?:AND|OR) ", self.licence)} - PERMISSIVE
        name = "nvidia-" if self.name.startswith("nvidia-") else self.name
        licence, rank = ALLOWED.get(name, ("", ""))
        if others - {licence}:
            return f"{self.licence} is not permissive"
        if others and RANKS.index(self.rank) < RANKS.index(rank):
            return f"{self.licence} is allowed in {rank} alone, but is in {self.rank}"
        return None


def licence_of(package: Distribution) -> str:
    """SPDX expression from what a package says of itself; empty if it says nothing that is known."""
    fields = package.metadata
    for field in ("License-Expression", "License"):
        text = (fields[field] or "").strip().partition("\n")[0]  # some put a whole text there
        text = SPDX.get(text, text)
        if text != "UNKNOWN" and EXPRESSION.fullmatch(text):
            return text
    classifiers = [line.rpartition(" :: ")[2] for line in fields.get_all("Classifier") or [] if line[:7] == "License"]
    return " AND ".join(sorted({SPDX.get(name, name) for name in classifiers}))


def walk(extras: list[str]) -> list[Package]:
    """What foveal and some of its extras require, in order of who needs it most."""
    found: dict[str, Package] = {}
    seen: set[tuple[str, str]] = set()
    starts = [("runtime", "")] + [("tools" if extra in TOOLS else "extra", extra) for extra in extras]
    for rank, start in sorted(starts, key=lambda pair: RANKS.index(pair[0])):
        queue = deque([("foveal", start, f"extra {start}" if start else "")])
        while queue:
            name, extra, asked = queue.popleft()
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                package = distribution(name)
            except PackageNotFoundError:
                found.setdefault(name, Package(name, None, "", rank, asked))
                continue
            if name != "foveal" and name not in found:
                found[name] = Package(name, package.version, READ.get(name) or licence_of(package), rank, asked)
            for line in package.requires or []:
                wanted = Requirement(line)
                if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                    by = (asked or "foveal") if name == "foveal" else name
                    queue += [(canonicalize_name(wanted.name), also, by) for also in ("", *wanted.extras)]
    return sorted(found.values(), key=lambda package: (RANKS.index(package.rank), package.name))


def main(arguments: list[str] | None = None) -> int:
    every = distribution("foveal").metadata.get_all("Provides-Extra") or []
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=", ".join(every))
    extras = parser.parse_args(arguments).extras or every
    if unknown := set(extras) - set(every):
        parser.error(f"no such extra: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    packages = walk(extras)
    print("| package | version | licence | for | asked for by |\n| --- | --- | --- | --- | --- |")
    for package in packages:
        if package.version is not None:
            print(f"| {package.name} | {package.version} | {package.licence} | {package.rank} | {package.by} |")
    absent = [f"{package.name} ({package.by})" for package in packages if package.version is None]
    if absent:
        print(f"\nNot installed here, so not looked at: {', '.join(absent)}.")
    faults = [f"{package.name} {package.version}: {package.fault}" for package in packages if package.fault]
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
