"""Exported ONNX files in a browser: onnxruntime-web in headless Chromium beside ONNX Runtime here.

    python scripts/check_web.py RUN|FILE.onnx|MODEL... [--random-weights] [--threads 2]

Needs npm and Chromium. onnxruntime-web is installed into a temporary folder, from which a server on this machine alone
gives it to the browser, with the headers (COOP and COEP) without which a page has one thread. Prints for each model
the largest difference of an output at shapes that it was not traced at, and how long a picture takes in both runtimes.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import onnxruntime

from foveal.export import built_in
from foveal.export.parity import batches, difference, paired, shapes
from foveal.runtime._file import File

WEB = "onnxruntime-web@1.30.0"
SCRIPTS = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
RUNS = 5  # of which the median counts
SECONDS = 300  # that a model may take
PAGE = """\
<!doctype html><title>check</title><script type="module">
import * as ort from "./ort.wasm.min.mjs";
const post = (path, body) => fetch(path, {method: "POST", body});
try {
  const job = await (await fetch("job.json")).json();
  ort.env.wasm.numThreads = job.threads;
  const model = new Uint8Array(await (await fetch("model.onnx")).arrayBuffer());
  const session = await ort.InferenceSession.create(model, {executionProviders: ["wasm"]});
  const said = {isolated: crossOriginIsolated, agent: navigator.userAgent, ms: []};
  for (const [number, shape] of job.shapes.entries()) {
    const values = new Float32Array(await (await fetch(`${number}.bin`)).arrayBuffer());
    const images = new ort.Tensor("float32", values, shape);
    let outputs, times = [];
    for (let run = 0; run < job.runs; run++) {
      const start = performance.now();
      outputs = await session.run({[session.inputNames[0]]: images});
      times.push(performance.now() - start);
    }
    said.ms.push(times.sort((a, b) => a - b)[job.runs >> 1] / shape[0]);
    for (const [name, tensor] of Object.entries(outputs)) {
      const place = new URLSearchParams({number, name, type: tensor.type, dims: JSON.stringify(tensor.dims)});
      await post(`output?${place}`, tensor.data);
    }
  }
  await post("done", JSON.stringify(said));
} catch (error) { await post("done", JSON.stringify({error: String(error)})); }
</script>
"""


class Handler(SimpleHTTPRequestHandler):
    """Gives the files of a folder, and takes what the page found."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def __init__(self, *args: Any, found: dict[Any, Any], done: threading.Event, **kwargs: Any):
        self.found, self.done = found, done
        super().__init__(*args, **kwargs)

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def do_POST(self) -> None:
        url, data = urlsplit(self.path), self.rfile.read(int(self.headers["Content-Length"]))
        if url.path == "/done":
            self.found["said"] = json.loads(data)
            self.done.set()
        else:
            (number,), (name,), (kind,), (dims,) = (parse_qs(url.query)[k] for k in ("number", "name", "type", "dims"))
            self.found[int(number), name] = np.frombuffer(data, kind).reshape(json.loads(dims))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def in_browser(folder: Path, browser: str) -> dict[Any, Any]:
    """What a page in a folder finds."""
    found: dict[Any, Any] = {}
    done = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder, found=found, done=done)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
        url = f"http://127.0.0.1:{server.server_address[1]}/page.html"
        process = subprocess.Popen([browser, *flags, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ended = done.wait(SECONDS)
        process.terminate()
        process.wait()
        server.shutdown()
    if not ended:
        sys.exit(f"the browser has not answered within {SECONDS} s")
    if "error" in found["said"]:
        sys.exit(f"onnxruntime-web: {found['said']['error']}")
    return found


def check(model: Path, folder: Path, browser: str, threads: int) -> None:
    """Run a file at several shapes in both runtimes, and print a line."""
    file = File(str(model))
    assert file.about is not None
    seen, axes = file.about["preprocessing"], file.about["inputs"][0]["shape"]
    size = tuple(seen["input_size"][1:]) if "input_size" in seen else (seen["image_size"],) * 2
    size = file.size or size
    free = tuple(name for name in ("batch", "height", "width") if name in axes)
    wanted = shapes(size, free)
    images = batches(built_in(16), seen["mean"], seen["std"], wanted)
    for number, values in enumerate(images):
        (folder / f"{number}.bin").write_bytes(values.tobytes())
    job = {"threads": threads, "runs": RUNS, "shapes": [values.shape for values in images]}
    (folder / "job.json").write_text(json.dumps(job))
    (folder / "page.html").write_text(PAGE)
    shutil.copy(model, folder / "model.onnx")
    found = in_browser(folder, browser)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    worst: dict[str, float] = {}
    times = []
    for number, values in enumerate(images):
        spent = []
        for _ in range(RUNS):
            started = time.perf_counter()
            outputs = session.run(None, {file.input: values})
            spent.append(1000 * (time.perf_counter() - started) / len(values))
        times.append(sorted(spent)[RUNS // 2])
        expected = dict(zip(file.outputs, map(np.asarray, outputs)))
        got = {name: found[number, name] for name in expected}
        if "boxes" in expected:
            expected, got, _, _ = paired(expected, got, 1e-4, 1e-4 * max(values.shape[2:]))
        for name, value in expected.items():
            worst[name] = max(worst.get(name, 0.0), difference(value, got[name]))
    said = found["said"]
    shown = ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
    print(f"{model.name}: largest difference over {len(images)} shapes: {shown}")
    size = "x".join(map(str, images[0].shape))
    print(
        f"  at {size}: {said['ms'][0]:.1f} ms a picture in the browser, {times[0]:.1f} ms here, "
        f"{threads} threads, cross-origin isolated: {said['isolated']}"
    )
    print(f"  {said['agent']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--random-weights", action="store_true", help="of timm models, as they are initialised")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None or shutil.which("npm") is None:
        sys.exit("this needs npm and Chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place)
        subprocess.run(["npm", "install", "--silent", "--prefix", folder, WEB], check=True, stdout=subprocess.DEVNULL)
        for name in SCRIPTS:
            shutil.copy(folder / "node_modules" / "onnxruntime-web" / "dist" / name, folder / name)
        for number, name in enumerate(args.models):
            model = Path(name)
            if model.suffix != ".onnx":
                out = folder / f"export{number}"
                random = ["--random-weights"] if args.random_weights else []
                command = [sys.executable, "-m", "foveal", "export", name, "--out", out, *random]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                model = next(out.glob("*.onnx"))
            check(model, folder, browser, args.threads)


if __name__ == "__main__":
    main()
