"""``foveal demo MODEL... [--boxes DETECTOR] [--port 7860]``"""

import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import tyro
from PIL import Image, ImageOps

from .._draw import draw_classes
from .._errors import UserError
from .._views import AT_ONCE
from ..data import open_image
from ..runtime import is_exported
from ._guard import Guard
from ._load import kind_of, load_model
from ._predict_classification import likeliest_classes
from ._predict_detection import THRESHOLD, look_for_objects
from ._predict_keypoints import load_estimator, look_for_bodies
from ._predict_segmentation import classes_of_pixels

INSIDE = {"Grad-CAM": "gradcam", "Attention": "attention"}  # analyses that the page offers
DPI = 150
HEIGHT = 360  # of pictures, in pixels of the page
TOP = 5  # classes of a classifier
MAX_BYTES = 64 * 2**20  # of a file
MAX_PIXELS = 2**24  # larger pictures are made smaller before anything else
LOCAL = ("127.0.0.1", "localhost", "::1")
STYLE = ".gradio-container {max-width: 72rem !important} footer {display: none !important}"

Answer = tuple[list[tuple[str, float]], Image.Image | None]  # names with their scores, and the picture drawn into


def main(
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")],
    /,
    *,
    boxes: str | None = None,
    device: str = "cpu",
    host: str = "127.0.0.1",
    port: int = 7860,
) -> int:
    """Try models on a page of this machine: drop in a picture, or use the camera.

    Args:
        models: runs' folders, .onnx files, timm models that have weights; the page has a choice of them.
        boxes: the folder or the file of a detector, in whose boxes keypoint estimators look for joints.
        device: as torch names it.
        host: address at which the page is given; without it none but this machine sees it.
        port: of the page; 0 for a free one.
    """
    if not models:
        raise UserError("no model given: foveal demo RUN|FILE.onnx|MODEL...")
    if not 0 <= port < 2**16:
        raise UserError(f"port must be in [0, 65535], got {port}")
    port = free_port(host, port)
    shown = [load(name, boxes, device) for name in dict.fromkeys(models)]
    if boxes is not None and all(one.kind != "keypoints" for one in shown):
        raise UserError("--boxes: no effect without a keypoint estimator")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no picture of a visitor is left behind
    with tempfile.TemporaryDirectory(prefix="foveal-demo-") as folder:
        page = serve(shown, host, port, Path(folder).resolve())
        more = "" if host in LOCAL else "; whoever reaches this machine can use it"
        print(f"{page.local_url} (Ctrl-C ends it{more})", flush=True)
        try:
            while True:
                time.sleep(3600)
        finally:
            page.close(verbose=False)


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0; raises UserError if the page cannot be given there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind((host, port))
        except OSError as error:
            raise UserError(f"cannot serve at {host}:{port}: {error.strerror or error}") from None
        return free.getsockname()[1]


@dataclass(frozen=True)
class Shown:
    """A model of the page.

    Attributes:
        name: it was loaded from.
        kind: its task.
        look: from an RGB picture and the least score to the answer.
        thresholded: whether the least score matters.
        explain: from the name of an analysis and an RGB picture to a figure and its caption; None of a model that is
            not looked into, which are all but classifiers in PyTorch.
    """

    name: str
    kind: str
    look: Callable[[Image.Image, float], Answer]
    thresholded: bool = False
    explain: Callable[[str, Image.Image], tuple[Image.Image, str]] | None = None


def load(name: str, boxes: str | None, device: str) -> Shown:
    """A model, ready to look; raises UserError."""
    kind = kind_of(name)
    if is_exported(name):
        device = "cpu"
    if kind == "keypoints":
        estimator, detector = load_estimator(name, boxes, device)

        def look(picture: Image.Image, threshold: float) -> Answer:
            return look_for_bodies(estimator, detector, threshold, False, picture, {}, True)

        return Shown(name, kind, look, thresholded=detector is not None)
    model = load_model(kind, name, device=device)
    if kind == "classification":
        explain = None if is_exported(name) else partial(explained, name, device)
        return Shown(name, kind, lambda picture, _: (likeliest_classes(model, picture, TOP), None), explain=explain)
    if kind == "detection":

        def find(picture: Image.Image, threshold: float) -> Answer:
            return look_for_objects(model, threshold, False, picture, {}, True)

        return Shown(name, kind, find, thresholded=True)

    def color(picture: Image.Image, _: float) -> Answer:
        classes, shares = classes_of_pixels(model, picture, AT_ONCE)
        return [*shares.items()], draw_classes(picture, classes)

    return Shown(name, kind, color)


def explained(name: str, device: str, analysis: str, picture: Image.Image) -> tuple[Image.Image, str]:
    """The figure of an analysis of a classifier at a picture, and its caption; raises UserError."""
    from ..analysis import ANALYSES, Setting

    with tempfile.TemporaryDirectory() as folder:  # as analyses take pictures
        picture.save(Path(folder) / "picture.png")
        setting = Setting(images=Path(folder), num_images=1, pretrained=True, device=device)
        result = ANALYSES[analysis]([name], setting=setting)
    content = BytesIO()
    result.figures()[""].savefig(content, dpi=DPI)
    return Image.open(content), result.captions()[""]


def upright(path: str) -> Image.Image:
    """The picture of a file as a person sees it, made smaller where it has more than ``MAX_PIXELS``; raises UserError.

    ``open_image`` leaves the orientation that a camera has noted alone; people do not.
    """
    picture = open_image(path)
    with Image.open(path) as header:
        picture.info = {name: value for name, value in header.info.items() if name == "exif"}
    picture = ImageOps.exif_transpose(picture)
    scale = (MAX_PIXELS / (picture.width * picture.height)) ** 0.5
    if scale < 1:
        picture = picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))
    return picture


def serve(models: Sequence[Shown], host: str, port: int, folder: Path) -> Any:
    """Start the page, whose files lie in a folder; returns gradio's application, running.

    Raises:
        UserError: gradio is not installed.
    """
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(folder)}
    try:
        import gradio
        from starlette.middleware import Middleware
    except ImportError:
        raise UserError("the page needs gradio: pip install 'foveal[demo]'") from None
    page = build(gradio, {one.name: one for one in models})
    hosts = {*LOCAL, "[::1]"} if host in LOCAL else None
    guard = Middleware(Guard, hosts=hosts, folder=str(folder), max_bytes=MAX_BYTES)
    page.queue(max_size=16, default_concurrency_limit=1, api_open=False)
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        share=False,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        max_file_size=MAX_BYTES,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        app_kwargs={"middleware": [guard], "docs_url": None, "redoc_url": None, "openapi_url": None},
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=STYLE,
    )
    return page


def actions(gradio: Any, models: dict[str, Shown]) -> tuple[Callable, Callable, Callable]:
    """What the page does: look at a picture, explain what was seen, choose a model."""

    def look(path: str | None, name: str, threshold: float) -> tuple[Any, Any, str]:
        """What a model finds in a picture: the drawing, names and scores, times."""
        if path is None:
            return None, [], ""
        started = time.perf_counter()
        try:
            picture = upright(path)
            decoded = time.perf_counter()
            found, drawn = models[name].look(picture, threshold)
        except UserError as error:
            raise gradio.Error(str(error).replace(path, Path(path).name)) from None
        ended = time.perf_counter()
        spent = f"{picture.width} x {picture.height} px, decoded in {1000 * (decoded - started):.0f} ms, "
        spent += f"looked at and drawn in {1000 * (ended - decoded):.0f} ms"
        return drawn or picture, [[title, f"{100 * score:.1f} %"] for title, score in found], spent

    def explain(analysis: str, path: str | None, name: str) -> tuple[Any, str]:
        """What an analysis shows of a model at a picture."""
        one = models[name]
        if path is None or one.explain is None:
            raise gradio.Error("no picture was sent")
        try:
            return one.explain(INSIDE[analysis], upright(path))
        except UserError as error:
            raise gradio.Error(str(error).replace(path, Path(path).name)) from None

    def chosen(name: str) -> tuple[Any, Any]:
        one = models[name]
        return gradio.update(visible=one.thresholded), gradio.update(visible=one.explain is not None)

    return look, explain, chosen


def build(gradio: Any, models: dict[str, Shown]) -> Any:
    """The page's parts."""
    look, explain, chosen = actions(gradio, models)
    first = next(iter(models.values()))
    shown: dict[str, Any] = dict(show_label=False, interactive=False, format="png", buttons=["download", "fullscreen"])
    with gradio.Blocks(title="foveal", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gradio.Markdown("# foveal\nDrop in a picture, or use the camera. It stays on the machine that gives this page.")
        name = gradio.Dropdown([*models], value=first.name, label="Model", interactive=True)
        with gradio.Row():
            with gradio.Column():
                sources = ["upload", "webcam", "clipboard"]
                sent: dict[str, Any] = dict(sources=sources, type="filepath", image_mode=None)
                picture = gradio.Image(**sent, label="Picture", height=HEIGHT)
                refuse_addresses(gradio, picture)
                scores = dict(minimum=0.05, maximum=0.95, value=THRESHOLD, step=0.05)
                threshold = gradio.Slider(**scores, label="Least score", visible=first.thresholded)
            with gradio.Column():
                drawn = gradio.Image(label="Result", height=HEIGHT, **shown)
                times = gradio.Markdown()
                table = gradio.Dataframe(headers=["what", "score"], interactive=False, label="Found")
        with gradio.Column(visible=first.explain is not None) as inside:
            gradio.Markdown("## Look inside")
            with gradio.Row():
                buttons = [gradio.Button(label) for label in INSIDE]
            figure = gradio.Image(label="Look inside", **shown)
            caption = gradio.Markdown()
        for button in buttons:
            button.click(
                explain,
                [button, picture, name],
                [figure, caption],
                api_visibility="private",
                concurrency_id="model",
            )
        name.change(chosen, name, [threshold, inside], api_visibility="private", show_progress="hidden")
        gradio.on(
            [picture.change, name.change, threshold.release],
            look,
            [picture, name, threshold],
            [drawn, table, times],
            api_visibility="private",
            concurrency_id="model",
        )
    return page


def refuse_addresses(gradio: Any, picture: Any) -> None:
    """Take from visitors what they have sent, and no address, from which gradio would fetch a picture.

    On the part itself: for a class of its own gradio would write a file beside this one.
    """
    move = picture.async_move_resource_to_block_cache

    async def take(path: Any) -> Any:
        if not Path(str(path)).is_file():
            raise gradio.Error("no picture was sent")
        return await move(path)

    picture.async_move_resource_to_block_cache = take
