"""Run timm's own model tests on our models.

    python scripts/run_timm_tests.py [PATTERN ...] [-- PYTEST_OPTION ...]

Fetches the source distribution of the installed timm into a temporary folder, adds our modules to the tests'
intermediate-feature filter, and runs ``tests/test_models.py`` for the models whose names match the patterns (all of
ours without one). Needs the ``test`` extra; nothing of timm is kept.
"""

import fnmatch
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import timm

import foveal  # noqa: F401 - registers the models

FILTER = "FEAT_INTER_FILTERS = ["
MODULES = ("emsnet", "mat", "partialformer")
CONFTEST = """
def pytest_collection_modifyitems(items):
    def ours(item):
        params = getattr(item, "callspec", None) and item.callspec.params
        return params and not set({models}).isdisjoint(v for v in params.values() if isinstance(v, str))
    items[:] = filter(ours, items)
"""


def main(argv: list[str]) -> int:
    split = argv.index("--") if "--" in argv else len(argv)
    patterns, options = argv[:split] or ["*"], argv[split + 1 :]
    models = [name for module in MODULES for name in timm.list_models(module=module)]
    models = [name for name in models if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if not models:
        print(f"no model of ours matches {' '.join(patterns)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        fetch = ["pip", "download", "--quiet", "--no-deps", "--no-binary", "timm"]
        release = f"timm=={timm.__version__}"
        subprocess.run([sys.executable, "-m", *fetch, "--dest", folder, release], check=True)
        with tarfile.open(next(Path(folder).glob("timm-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        source = next(Path(folder).glob("timm-*/tests/test_models.py")).read_text()
        if source.count(FILTER) != 1:
            print(f"timm {timm.__version__} has no single {FILTER!r} any more", file=sys.stderr)
            return 1
        source = source.replace(FILTER, FILTER + "".join(f"{module!r}, " for module in MODULES))
        tests = Path(folder, "test_models.py")
        tests.write_text("import foveal\n" + source)
        Path(folder, "conftest.py").write_text(CONFTEST.format(models=models))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder]
        return subprocess.run([*command, *options, str(tests)], cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
