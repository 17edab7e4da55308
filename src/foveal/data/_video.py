"""Video files, read and written by PyAV, which brings FFmpeg along."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .._errors import UserError, first_line
from ._decode import BadImage

CODECS: dict[str, tuple[str, dict[str, str]]] = {  # of what is written, by suffix, with quality and speed
    ".avi": ("mpeg4", {"qmax": "4"}),
    ".m4v": ("h264", {"crf": "20"}),
    ".mkv": ("h264", {"crf": "20"}),
    ".mov": ("h264", {"crf": "20"}),
    ".mp4": ("h264", {"crf": "20"}),
    ".webm": ("vp9", {"crf": "30", "b": "0", "cpu-used": "5"}),
}
VIDEO_SUFFIXES = tuple(CODECS)


class Video:
    """The pictures of a video file, as its player would turn them.

    Attributes:
        rate: pictures a second.
        num_frames: their number as the file states it; 0 if it does not.

    Raises:
        BadImage: no such file, no video, no picture in it.
        UserError: PyAV is not installed.
    """

    def __init__(self, path: Path):
        self.path, av = path, _library()
        with _reading(path):
            self.file = open(path, "rb")  # noqa: SIM115 - closed with the video
        try:
            with _reading(path):
                self.container = av.open(self.file)
            if not self.container.streams.video:
                raise BadImage(path, "it has no pictures", "video")
            self.stream = self.container.streams.video[0]
            rate = self.stream.average_rate or self.stream.guessed_rate
            if not rate:
                raise BadImage(path, "it does not say its rate", "video")
        except BaseException:
            self.file.close()
            raise
        self.rate, self.num_frames = Fraction(rate), self.stream.frames

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_) -> None:
        self.container.close()
        self.file.close()

    def __iter__(self) -> Iterator[tuple[float, Image.Image]]:
        """Seconds from the start, and the picture in RGB; raises BadImage at what cannot be decoded."""
        number = -1
        with _reading(self.path):
            for number, frame in enumerate(self.container.decode(self.stream)):
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                seconds = float(number / self.rate) if frame.time is None else frame.time
                yield seconds, Image.fromarray(np.ascontiguousarray(pixels))
        if number < 0:
            raise BadImage(self.path, "it has no pictures", "video")


@contextmanager
def new_video(path: Path, rate: Fraction) -> Iterator[Callable[[Image.Image], None]]:
    """Inside, a function that adds an RGB picture to a new video without sound; all have the size of the first.

    After an error nothing is left of it.

    Args:
        path: its suffix, one of ``CODECS``, says the format.
        rate: pictures a second.

    Raises:
        UserError: it cannot be written; PyAV is not installed.
    """
    av, stream = _library(), None
    (codec, options) = CODECS[path.suffix.lower()]

    def add(picture: Image.Image) -> None:
        nonlocal stream
        if stream is None:
            stream = container.add_stream(codec, rate=rate, options=options)
            stream.width, stream.height = picture.size
            odd = picture.width % 2 or picture.height % 2
            stream.pix_fmt = "yuv444p" if odd and codec == "h264" else "yuv420p"  # which it takes at even sizes only
        frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
        container.mux(stream.encode(frame))

    try:
        with av.open(str(path), "w") as container:
            yield add
            if stream is not None:
                container.mux(stream.encode())
    except av.FFmpegError as error:
        path.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Inside, what a file that is no good video makes Python and PyAV raise becomes BadImage."""
    try:
        yield
    except FileNotFoundError:
        raise BadImage(path, "no such file", "video") from None
    except (OSError, ValueError, _library().FFmpegError) as error:
        raise BadImage(path, getattr(error, "strerror", None) or first_line(error), "video") from None


def _library() -> Any:
    try:
        import av
    except ImportError:
        raise UserError("videos need PyAV: pip install 'foveal[video]'") from None
    return av
