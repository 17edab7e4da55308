"""``foveal demo``: its page in Chromium, and what its server refuses."""

import http.client
import json
import signal
import subprocess
import sys
import uuid
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

import test_runtime
import test_web
from conftest import create
from foveal.cli import demo
from foveal.cli import main as command
from foveal.runtime import load
from runs import save_model

files, browser = test_runtime.files, test_web.browser

ALONE = """
import socket, sys
connect, ask = socket.socket.connect, socket.getaddrinfo
LOCAL = ("127.0.0.1", "localhost", "::1", None)
def near(host):
    if host not in LOCAL:
        print("OUTSIDE", host, flush=True)
        raise OSError("no network")
def connect_near(self, address):
    if self.family != socket.AF_UNIX:
        near(address[0])
    return connect(self, address)
def ask_near(host, *args, **kwargs):
    near(host.decode() if isinstance(host, bytes) else host)
    return ask(host, *args, **kwargs)
socket.socket.connect, socket.getaddrinfo = connect_near, ask_near
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
sys.meta_path.insert(0, Forbid())
from foveal.cli import main
sys.exit(main(["demo", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def served(files, tmp_path_factory):
    """The address of a page over four files, whose server has no PyTorch and no network; where its files lie."""
    place = tmp_path_factory.mktemp("pictures")
    names = [str(files / f"{task}.onnx") for task in test_runtime.TASKS]
    program = [sys.executable, "-c", ALONE, *names, "--boxes", names[1], "--port", "0"]
    environment = {"PATH": "", "TMPDIR": str(place), "PYTHONPATH": ":".join(sys.path)}
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
    said = process.stdout.readline()
    try:
        assert said.startswith("http://127.0.0.1:"), said + process.stdout.read()
        yield said.split()[0], place
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=30)[0]
    assert process.returncode == 130, rest
    assert "OUTSIDE" not in rest
    assert not [*place.iterdir()]  # no visitor's picture is left


def ask(url: str, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and content of an answer; the path is sent as it is."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def look(url: str, path: str, name: str) -> str:
    """What the server answers to a picture that is said to lie at a path."""
    session = uuid.uuid4().hex
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, name, 0.5]
    config = json.loads(ask(url, "GET", "/config")[1])
    (function,) = (one["id"] for one in config["dependencies"] if (len(one["inputs"]), len(one["outputs"])) == (3, 3))
    body = json.dumps({"data": data, "fn_index": function, "session_hash": session}).encode()
    assert ask(url, "POST", "/gradio_api/queue/join", body, content_type="application/json")[0] == 200
    return ask(url, "GET", f"/gradio_api/queue/data?session_hash={session}")[1].decode()


@pytest.mark.parametrize("path", ["/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/"])
@pytest.mark.parametrize("file", ["/etc/passwd", "../../../../../../../etc/passwd", "%2Fetc%2Fpasswd", "..%2f..%2fx"])
def test_no_file_is_given(served, path, file):
    status, content = ask(served[0], "GET", path + file)
    assert status in (403, 404)
    assert b"root:" not in content


def test_what_the_page_does_not_need_is_refused(served, files):
    url, place = served
    for path in ("proxy=http://127.0.0.1/", f"file={url}config", "runs", "vibe-code", "dev/reload", "openapi.json"):
        assert ask(url, "GET", f"/gradio_api/{path}")[0] in (403, 404)
    for path in ("/docs", "/monitoring", "/gradio_api/monitoring", f"/gradio_api/file={place}/../x"):
        assert ask(url, "GET", path)[0] in (403, 404)
    assert ask(url, "POST", "/gradio_api/run/predict", b"{}")[0] == 404
    assert ask(url, "DELETE", "/gradio_api/upload")[0] == 404
    assert ask(url, "GET", "/", Host="elsewhere.example")[0] == 403
    assert ask(url, "GET", "/")[0] == 200
    large = {"Content_Length": str(2**30)}
    assert ask(url, "POST", "/gradio_api/upload", b"", **large)[0] == 413
    assert ask(url, "POST", "/gradio_api/queue/join", b" " * 2**17)[0] == 413
    assert ask(url, "POST", "/gradio_api/upload", iter([b"a"]), Transfer_Encoding="chunked")[0] == 411
    name = str(files / "classification.onnx")
    for path in (f"{url}config", "http://169.254.169.254/"):
        assert "no picture was sent" in look(url, path, name)
    assert "/etc/passwd" in (said := look(url, "/etc/passwd", name))  # in the error
    assert '"success":false' in said


def test_a_picture_on_the_page(served, browser, files, tmp_path):
    """All four kinds of models, at the width of a phone; nothing is loaded from elsewhere, nothing goes wrong."""
    url, _ = served
    page, odd = browser.new_page(viewport={"width": 375, "height": 800}), []
    page.on("request", lambda r: None if r.url.startswith((url, "blob:", "data:")) else odd.append(r.url))
    page.on("response", lambda r: odd.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("pageerror", lambda error: odd.append(str(error)))
    page.goto(url)
    page.set_input_files("input[type=file]", files / "a.png")
    model = load(str(files / "classification.onnx"))
    scores = model.scores(model.transform()(Image.open(files / "a.png"))[None])[0]
    best = f"{100 * scores.max():.1f} %"
    expect(page.get_by_role("gridcell", name=best).first).to_be_visible(timeout=20_000)
    for task, found in (("detection", "dog"), ("segmentation", "d"), ("keypoints", "cat")):
        page.get_by_label("Model").click()
        page.get_by_role("option", name=str(files / f"{task}.onnx")).click()
        expect(page.get_by_role("gridcell", name=found, exact=True).first).to_be_visible(timeout=20_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.close()
    assert odd == []


def test_a_look_inside(files, tmp_path):
    save_model(create("test_mat", num_classes=2), {"label_names": ["a", "b"]}, tmp_path / "best")
    shown = demo.load(str(tmp_path), None, "cpu")
    assert shown.explain is not None
    for analysis in demo.INSIDE.values():
        figure, caption = shown.explain(analysis, Image.open(files / "a.png"))
        assert min(figure.size) > 100
        assert caption
    assert demo.load(str(files / "classification.onnx"), None, "cpu").explain is None


def test_pictures_are_upright_and_not_too_large(tmp_path, monkeypatch):
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20)
    exif = Image.Exif()
    exif[274] = 6  # turned clockwise by a quarter
    picture.resize((40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert demo.upright(str(tmp_path / "a.jpg")).size == (20, 40)
    monkeypatch.setattr(demo, "MAX_PIXELS", 200)
    assert demo.upright(str(tmp_path / "a.jpg")).size == (10, 20)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("", "no model given"),
        ("nothing_such", "nothing_such"),
        ("classification.onnx --boxes detection.onnx", "--boxes: no effect without a keypoint estimator"),
        ("classification.onnx --port 70000", "port must be in [0, 65535], got 70000"),
        ("classification.onnx --host 203.0.113.7 --port 0", "cannot serve at 203.0.113.7"),
    ],
)
def test_bad_input_is_answered_in_one_line(files, monkeypatch, capsys, args, said):
    monkeypatch.chdir(files)
    assert command(["demo", *args.split()]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1, err
    assert said in err
