"""Which models run in which runtimes, checked one by one: the table of docs/deploy.md.

    python scripts/deploy_matrix.py results.jsonl             what is not in the file yet; it may be stopped and go on
    python scripts/deploy_matrix.py results.jsonl --table     the table

Weights are random and nearly of unit scale, so that every operator counts. Each model is a process of its own, with a
limit.
"""

import argparse
import gc
import json
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODELS = [
    *("emsnet_xxtiny", "emsnet_xtiny", "emsnet_tiny"),
    *("mat_1", "mat_2", "mat_3", "mat_4", "mat_5"),
    *("partialformer_b0", "partialformer_b1", "partialformer_b2", "partialformer_b3", "partialformer_b4"),
]
SMALLEST = ["emsnet_xxtiny", "mat_1", "partialformer_b0"]  # under every head; the others under one of each task
ONE = ["retinanet", "semantic_fpn", "simple_baseline"]
TARGETS = ["onnx", "openvino", "pt2", "executorch", "coreml"]


def cases() -> list[tuple[str, str, str]]:
    """Task, head and model, in the order in which they are run."""
    from foveal.detection import DETECTORS
    from foveal.keypoints import ESTIMATORS
    from foveal.segmentation import SEGMENTERS

    found = [("classification", "", model) for model in MODELS]
    for task, registry in (("detection", DETECTORS), ("segmentation", SEGMENTERS), ("keypoints", ESTIMATORS)):
        found += [(task, head, model) for head in registry for model in (MODELS if head in ONE else SMALLEST)]
    return found


def run(task: str, head: str, model: str, fixed: bool, targets: list[str], size: int, limit: int) -> None:
    """Print a line of JSON for each target."""
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    gc.disable()  # it takes a fifth of the time of ExecuTorch's conversion
    sys.path.insert(0, str(ROOT / "tests"))
    import torch

    from conftest import randomize
    from foveal._errors import UserError
    from foveal.export import TARGETS, Options, built_in, export, load_source, prepare
    from test_export import source

    torch.manual_seed(0)
    if task == "classification":
        known = load_source(model, random_weights=True)
        randomize(known.model)
    else:
        known = source(task, head, model, size)
    if head != "sparse_rcnn":  # which has its own weights, see ``source``
        for parameter in known.model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(0.7)  # or EMSNet-Tiny itself is 3e-4 away from its values in float64
    prepared, pictures = prepare(known, size=(size, size)), built_in(8)
    for name in targets:
        said = dict(task=task, head=head, model=model, target=name, fixed=fixed)
        started = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = export(prepared, TARGETS[name], Path(folder), Options(fixed), pictures)
                said |= dict(bytes=done.size)
                if parity := done.parity:  # or its runtime is for another system
                    said |= dict(difference=max(parity.differences.values()), agreed=parity.agreed)
                    said |= dict(shapes=len(parity.shapes))
            except UserError as error:
                said |= dict(failed=str(error))
        print(json.dumps(said | {"seconds": round(time.process_time() - started, 1)}), flush=True)


def has(target: str, fixed: bool) -> bool:
    """Whether a target has files of fixed, or of free, sides."""
    from foveal.export import find

    return fixed or bool(find(target).dynamic)


def table(lines: list[dict]) -> str:
    """Markdown: a row a model, a column a target, fixed and dynamic."""
    found = {(x["task"], x["head"], x["model"], x["target"], x["fixed"]): x for x in lines}
    columns = [(target, fixed) for target in TARGETS for fixed in (True, False) if has(target, fixed)]
    rows = ["| model | " + " | ".join(f"{t}, {'fixed' if f else 'dynamic'}" for t, f in columns) + " |"]
    rows.append("|---" * (len(columns) + 1) + "|")
    reasons: dict[str, int] = {}
    for key in dict.fromkeys(key[:3] for key in found):
        cells = []
        for target, fixed in columns:
            x = found.get((*key, target, fixed))
            if x is None:
                cells.append("not run")
            elif "failed" in x:
                reason = re.sub(r"^\S+ is not written", "not written", x["failed"])
                cells.append(f"no ({reasons.setdefault(reason, len(reasons) + 1)})")
            else:
                cells.append(f"{x['difference']:.0e}" if "difference" in x else "written")
        name = f"`{key[1]}` on `{key[2]}`" if key[1] else f"`{key[2]}`"
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*rows, "", *(f"{number}. {reason}" for reason, number in reasons.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--table", action="store_true", help="print the table of what is in the file")
    parser.add_argument("--task", help="only this one")
    parser.add_argument("--models", help="only these, with commas between them")
    parser.add_argument("--targets", default="onnx,openvino,pt2", help="with commas between them")
    parser.add_argument("--shape", choices=("fixed", "dynamic"), help="only this one")
    parser.add_argument("--limit", type=int, default=900, help="seconds of processor time for each model")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        run(**json.loads(args.case))
        return
    lines = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    if args.table:
        print(table(lines))
        return
    done = {(x["task"], x["head"], x["model"], x["target"], x["fixed"]) for x in lines}
    for fixed in (True, False):
        if args.shape not in (None, "fixed" if fixed else "dynamic"):
            continue
        for task, head, model in cases():
            if args.task not in (None, task) or (args.models and model not in args.models.split(",")):
                continue
            named = [target for target in args.targets.split(",") if has(target, fixed)]
            wanted = [target for target in named if (task, head, model, target, fixed) not in done]
            if not wanted:
                continue
            size = 224 if task == "classification" else 128
            case = dict(task=task, head=head, model=model, fixed=fixed, targets=wanted, size=size, limit=args.limit)
            command = [sys.executable, "-W", "ignore", __file__, "-", "--case", json.dumps(case)]
            output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            late = -output.returncode in (signal.SIGXCPU, signal.SIGKILL)
            over = f"took more than {args.limit} s" if late else f"ended with exit code {output.returncode}"
            text = output.stdout.decode()
            said = [line for line in text.splitlines() if line.startswith("{")]
            for name in wanted[len(said) :][:1]:
                line = dict(task=task, head=head, model=model, target=name, fixed=fixed, failed=over)
                said.append(json.dumps(line))
            with args.results.open("a") as file:
                file.writelines(f"{line}\n" for line in said)
            print(*said, sep="\n", flush=True)


if __name__ == "__main__":
    main()
