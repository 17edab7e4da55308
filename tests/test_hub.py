"""Sharing a model: the card, ``foveal push`` to a stand-in for the Hub, Hugging Face's pipeline on our folder."""

import base64
import http.server
import json
import shutil
import sys
import threading
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
import transformers
from huggingface_hub import ModelCard
from PIL import Image

from conftest import randomize
from foveal.engine._card import model_card
from foveal.tasks import ClassificationArgs
from runs import foveal_command, save_model

NAMES = ["amber", "blue", "coral", "denim"]
CONFIG = dict(
    label_names=NAMES,
    pretrained_cfg=dict(
        input_size=(3, 48, 48),
        interpolation="bilinear",
        mean=(0.5, 0.4, 0.6),
        std=(0.2, 0.3, 0.25),
        crop_pct=0.75,
        test_input_size=None,
        pool_size=None,
    ),
)
CARD = ClassificationArgs(model="test_mat").build(SimpleNamespace(classes=NAMES)).card()
RUN = {
    "run": {
        "recipe": "quickstart",
        "task": {"kind": "classification", "model": "test_mat", "pretrained": False, "weights": None},
        "data": "a|b",
        "optim": {"opt": "adamw", "lr": 0.00123},
        "epochs": 7,
    },
    "environment": {"foveal": "9.8.7", "torch": "6.5.4"},
}
FIGURES = {"epoch": 6, "loss": 0.4321, "top1": 87.654}
COST = {"parameters": 1234567, "macs": 87654321}
COMMAND = "foveal train quickstart --epochs 7"


def card(**changes):
    return model_card(
        **(dict(card=CARD, run=RUN, config=CONFIG, figures=FIGURES, cost=COST, command=COMMAND) | changes)
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder, with files that are nobody's business beside the model's."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    folder.mkdir()
    torch.manual_seed(0)
    save_model(randomize(timm.create_model("test_mat", num_classes=4)), CONFIG, folder / "best")
    (folder / "best" / "README.md").write_text(card())
    (folder / "best" / "run.json").write_text(json.dumps(RUN))
    (folder / "best" / "state.pt").write_bytes(b"private")
    (folder / "best" / "notes").mkdir()
    (folder / "best" / "notes" / "README.md").write_text("private")
    (folder / "metrics.jsonl").write_text("private")
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    pixels = torch.randint(0, 256, (7, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    Image.fromarray(pixels.numpy()).resize((90, 70), Image.Resampling.BICUBIC).save(path)
    return path


# the card


def test_card_is_a_function_of_its_arguments():
    text = card()
    assert text == card()
    for told in (
        "test_mat",
        "quickstart",
        "9.8.7",
        "6.5.4",
        "87.65 %",
        "0.4321",
        "1.23 M",
        "0.088 G",
        "48x48",
        COMMAND,
    ):
        assert told in text
    assert "| optim.lr | 0.00123 |" in text
    assert "| data | a\\|b |" in text
    assert "| crop_pct | 0.75 |" in text
    assert all(name in text for name in NAMES)
    assert "from scratch" in text
    assert "87.65" not in card(figures={"epoch": 1, "top1": 12.5})


def test_card_names_where_training_started(tmp_path, monkeypatch):
    task = RUN["run"]["task"] | {"pretrained": True}
    assert "the weights of test_mat" in card(run=RUN | {"run": RUN["run"] | {"task": task}})
    task = RUN["run"]["task"] | {"model": "runs/before"}
    assert "the weights of before" in card(run=RUN | {"run": RUN["run"] | {"task": task}})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    task = RUN["run"]["task"] | {"model": "mine"}
    assert "the weights of mine" in card(run=RUN | {"run": RUN["run"] | {"task": task}})


def test_front_matter_is_what_the_hub_reads():
    data = ModelCard(card()).data
    assert data.library_name == "timm"
    assert data.pipeline_tag == "image-classification"
    assert data.license == "other"
    assert data.metrics == ["accuracy"]
    assert {"timm", "foveal", "test_mat"} <= set(data.tags)


def test_card_of_many_classes_stays_short():
    names = [f"class {i}" for i in range(1000)]
    assert len(card(config=CONFIG | {"label_names": names})) < len(card()) + 400


# the Hub


class Hub(http.server.ThreadingHTTPServer):
    """As much of the Hub as an upload needs; ``status`` is what it answers, ``files`` what it was given."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.status, self.files, self.asked, self.commits = 200, {}, [], []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if self.server.status != 200:
            return self.reply(self.server.status, {"error": "no, says the stand-in"})
        if self.path == "/api/repos/create":
            self.server.created = json.loads(body)
            return self.reply(200, {"url": f"{self.server.url}/me/model", "name": "me/model"})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.reply(200, {"files": files})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                else:
                    self.server.commits.append((self.path.rsplit("/", 1)[1], line["value"]["summary"]))
            oid = "a" * 40
            return self.reply(200, {"commitUrl": f"{self.server.url}/me/model/commit/{oid}", "commitOid": oid})
        return self.reply(200, {})  # validate-yaml, branch

    def do_GET(self):
        self.reply(404, {"error": "nothing here"})

    def reply(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the Hub on this machine, a token, and a home without another one."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
    huggingface_hub.close_session()


def test_push_sends_the_folder_and_nothing_else(hub, run):
    answer = foveal_command("push", run, "me/model", "--private", "--message", "first")
    assert (answer.code, answer.err) == (0, "")
    assert f"{hub.url}/me/model" in answer.out
    expected = {
        name: (run / "best" / name).read_bytes()
        for name in ("model.safetensors", "config.json", "README.md", "run.json")
    }
    assert hub.files == expected
    assert hub.commits == [("main", "first")]
    assert hub.created["name"] == "model"
    assert hub.created["organization"] == "me"
    assert hub.created["visibility"] == "private"
    assert all(token == "Bearer hf_secret" for path, token in hub.asked if path.startswith("/api/"))
    assert "hf_secret" not in answer.out


def test_what_to_do_with_another_task_is_said(hub, run, tmp_path):
    shutil.copytree(run / "best", tmp_path / "best")
    config = json.loads((tmp_path / "best" / "config.json").read_text()) | {"task": "detection"}
    (tmp_path / "best" / "config.json").write_text(json.dumps(config))
    answer = foveal_command("push", tmp_path, "me/model")
    assert "next: hf download me/model --local-dir FOLDER, then import foveal; foveal.load_detector(" in answer.out


def test_push_to_a_branch(hub, run):
    answer = foveal_command("push", run / "best", "me/model", "--revision", "second")
    assert (answer.code, answer.err) == (0, "")
    assert "/api/models/me/model/branch/second" in [path for path, _ in hub.asked]
    assert [branch for branch, _ in hub.commits] == ["second"]


def test_what_was_pushed_loads(hub, run, tmp_path):
    foveal_command("push", run, "me/model")
    for name, data in hub.files.items():
        (tmp_path / name).write_bytes(data)
    images = torch.randn(1, 3, 48, 48)
    there, here = (timm.create_model(f"local-dir:{f}", pretrained=True).eval() for f in (tmp_path, run / "best"))
    with torch.inference_mode():
        assert torch.equal(there(images), here(images))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "the Hub answered 401 to me/model: the token is not valid"),
        (403, "the Hub answered 403 to me/model: the token may not write there"),
        (400, "the Hub answered 400 to me/model: no, says the stand-in"),
    ],
)
def test_a_refusal_is_one_line(hub, run, status, said):
    hub.status = status
    answer = foveal_command("push", run, "me/model")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"foveal: {said}\n"
    assert not hub.files


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("nowhere me/model", "nowhere is no run: expected best/config.json"),
        ("empty me/model", "empty is no run: expected best/config.json"),
        ("run me/mo/del", "cannot push to me/mo/del"),
    ],
)
def test_bad_input_is_one_line(hub, run, tmp_path, monkeypatch, args, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    answer = foveal_command("push", *args.split())
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 1
    assert said in answer.err
    assert not hub.files


def test_no_token_is_one_line(hub, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    answer = foveal_command("push", run, "me/model")
    assert answer.code == 2
    assert answer.err == "foveal: no token of the Hugging Face Hub: run `hf auth login`, or set HF_TOKEN\n"
    assert not hub.asked


def test_nobody_there_is_one_line(hub, run, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    answer = foveal_command("push", run, "me/model")
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
    assert "cannot push to me/model at http://127.0.0.1:9" in answer.err


def test_the_missing_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    answer = foveal_command("push", run, "me/model")
    assert answer.code == 2
    assert "foveal[hub]" in answer.err


# Hugging Face's pipeline


def test_pipeline_equals_predict(run, picture):
    pipe = transformers.pipeline("image-classification", model=str(run / "best"))
    theirs = {row["label"]: row["score"] for row in pipe(str(picture), top_k=4)}
    answer = foveal_command("predict", run, picture, "--top", 4, "--json")
    ours = {row["class"]: row["score"] for row in json.loads(answer.out)["labels"]}
    assert set(theirs) == set(NAMES)
    assert theirs == pytest.approx(ours, abs=1e-6)
    assert max(theirs, key=theirs.get) == json.loads(answer.out)["labels"][0]["class"]
