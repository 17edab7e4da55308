"""The page of all analyses: what it says, and what a browser makes of it."""

import html
import re
import shutil
import subprocess

import numpy as np
import pytest
import timm
from PIL import Image
from torch import nn

from foveal._errors import UserError
from foveal.analysis import ANALYSES, Setting, report
from foveal.analysis.interaction import Interaction
from foveal.cli import main

SETTING = Setting(num_images=2, size=(64,))
ONLY = ("fourier", "gradcam", "receptive")
PHONE = 390  # px, the width of its page

MEASURE = """<!DOCTYPE html><title>page</title>
<iframe id="page" width="{width}" height="800" style="border: 0" srcdoc="{page}"></iframe><p id="found"></p>
<script>
onload = () => {{
  const page = document.getElementById("page").contentDocument;
  const images = [...page.images];
  const found = {{
    width: page.documentElement.scrollWidth,
    images: images.length,
    shown: images.filter(image => image.complete && image.naturalWidth > 0).length,
    sections: page.querySelectorAll("section").length,
    captions: [...page.querySelectorAll("figcaption")].filter(one => one.innerText.length > 20).length,
    links: [...page.querySelectorAll("nav a")].filter(a => page.querySelector(a.getAttribute("href"))).length,
  }};
  document.getElementById("found").innerText = Object.entries(found).map(pair => pair.join("=")).join(" ");
}};
</script>"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report of two classifiers and a model that is none: its folder and its files."""
    headless = timm.create_model("test_emsnet", num_classes=0)
    folder = tmp_path_factory.mktemp("report")
    found = report(["test_mat", "test_partialformer", headless], only=ONLY, setting=SETTING)
    return folder, found.write(folder), found


def test_what_it_says(written):
    folder, files, found = written
    page = files[0].read_text()
    assert files[0].name == "report.html"
    for name in ("test_mat", "test_partialformer", "EMSNet", "random, seed 0", "built-in scenes", "64x64"):
        assert name in page
    for what in ONLY:
        assert f"{what}.npz" in page
        assert f'<section id="{what}">' in page
        for caption in found.results[what].captions().values():
            assert html.escape(caption) in page
    assert "Left out: EMSNet is no classifier" in page
    assert found.notes() == ["left out of gradcam: EMSNet is no classifier: it gives [2, 40] for 2 pictures"]
    assert [row["left out"] for row in found.rows()] == ["0", "1", "0"]
    assert all(file.exists() for file in files)


def test_it_needs_nothing_but_itself(written):
    page = written[1][0].read_text()
    places = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(places) > 10
    for place in places:
        assert place.startswith(("data:image/png;base64,", "#")) or (written[0] / place).exists()
    assert "<script" not in page
    assert not re.search(r"url\(|@import|https?:", re.sub(r'src="[^"]*"', "", page))


def test_an_existing_page_stays(written):
    with pytest.raises(UserError, match=r"exists; nothing was overwritten"):
        written[2].write(written[0])


def test_in_a_browser(written, tmp_path):
    """Every figure is shown, and at a phone's width nothing but the figures has to be moved aside."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    page = written[1][0]
    test = tmp_path / "measure.html"
    test.write_text(MEASURE.format(width=PHONE, page=html.escape(page.read_text())))
    command = [
        chromium,
        "--headless=new",
        "--no-sandbox",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]

    def browse(*args):
        return subprocess.run([*command, *args], capture_output=True, text=True, timeout=120, check=True).stdout

    (found,) = re.findall(r'<p id="found">([^<]*)</p>', browse("--dump-dom", test.as_uri()))
    values = dict(pair.split("=") for pair in found.split())
    figures = str(page.read_text().count("<figure>"))
    assert values == {
        "width": str(PHONE),
        "images": figures,
        "shown": figures,
        "sections": "3",
        "captions": figures,
        "links": "3",
    }
    browse(f"--window-size={PHONE},900", f"--screenshot={tmp_path / 'page.png'}", page.as_uri())
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert pixels.shape[0] >= 800
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert (pixels.min(axis=-1) > 250).mean() < 0.95


def test_unknown_analyses():
    with pytest.raises(UserError, match="unknown analysis 'grad'; nearest: gradcam"):
        report(["test_mat"], only=("grad",))


def test_no_model_fits():
    with pytest.raises(UserError, match="which of its layers give maps"):
        report([nn.Sequential(nn.Conv2d(3, 4, 3))], only=("gradcam",), setting=SETTING)


def test_a_folder_without_pictures(tmp_path):
    with pytest.raises(UserError, match="has no pictures"):
        report(["test_mat"], setting=Setting(images=tmp_path))


def test_every_analysis_says_what_its_figures_show():
    """The keys of captions are those of figures; seen on the smallest results."""
    more = {"interaction": dict(orders=2, pairs=1, contexts=1)}
    for what, function in ANALYSES.items():
        found = function(["test_partialformer"], setting=SETTING, **more.get(what, {}))
        assert {*found.captions()} == {*found.figures()}, what


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["gradcam", "test_mat", "--layer", "stages3"], "unknown layer 'stages3'; nearest: stages.3"),
        (["gradcam", "test_mat", "--class-index", "2000"], "test_mat has the classes 0 to 999, got 2000"),
        (["receptive", "test_mat", "--layers", "stem2"], "unknown layer 'stem2'; nearest: stem"),
        (["interaction", "test_mat", "--num-images", "1"], "a band needs at least 2 pictures, got 1"),
        (["interaction", "test_mat", "--orders", "1"], "orders must be from 2 to 255 at a grid of 16, got 1"),
        (["interaction", "test_mat", "--grid", "99"], "pictures of 64x64 px have no 99 patches a side"),
        (["report", "test_mat", "--only", "grad"], "unknown analysis 'grad'; nearest: gradcam"),
        (["report"], "no model given"),
    ],
)
def test_mistakes_on_the_command_line(args, said, tmp_path, capsys):
    size = ["--size", "64"] if args[0] != "report" else []
    assert main(["analyze", *args, *size, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"foveal: {said}")
    assert error.count("\n") == 1


def test_an_interrupted_command_goes_on(tmp_path, capsys, monkeypatch):
    """What is done lies in the folder until the results do."""
    command = ["analyze", "interaction", "test_mat", "test_emsnet", "--out", str(tmp_path), "--size", "64"]
    command += ["--num-images", "2", "--grid", "4", "--orders", "3", "--pairs", "1", "--contexts", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(Interaction, "write", lambda self, out: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(command) == 130
    assert len([*tmp_path.glob("*.part")]) == 2
    strange = [tmp_path / "film.part", tmp_path / "interaction_mat_1.part"]  # somebody else's, another measurement's
    for file in strange:
        file.write_text("")
    assert main(command) == 0
    left = [tmp_path / f"interaction.{suffix}" for suffix in ("npz", "png", "svg")]
    assert {*tmp_path.iterdir()} == {*left, *strange}
    assert main(command) == 2
    assert "nothing was overwritten" in capsys.readouterr().err
