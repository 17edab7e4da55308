"""From the bytes of a picture to RGB.

JPEG is decoded by the first of torchcodec, simplejpeg and Pillow that is installed, WebP by torchcodec or Pillow.
Everything else is Pillow's: the other formats, and CMYK, transparency, several frames and EXIF in these two (by whose
orientation torchcodec would turn the picture, while here it is ignored), and what simplejpeg finds flawed. So the
decoders give equal pixels, repair the same flaws and refuse the same files.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from PIL import ExifTags, Image

from .._errors import UserError, first_line

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 128_000_000


class BadImage(UserError):
    """A picture, or a video, that cannot be used."""

    def __init__(self, path: Path | str, reason: str, what: str = "picture"):
        super().__init__(f"cannot read {what} {path}: {reason}")


@dataclass(frozen=True)
class Decoder:
    """What decodes some formats to uint8 [H, W, 3]; for broken data it raises ValueError."""

    name: str
    formats: dict[str, Callable[[bytes], np.ndarray]] = field(default_factory=dict)


def decoder() -> str:
    """Name and version of the decoder in use."""
    return _best().name


def decoders() -> list[Decoder]:
    """The decoders that are installed and work, best first."""
    found = []
    for make in (_torchcodec, _simplejpeg):
        try:
            found.append(make())
        except (ImportError, OSError, RuntimeError, ValueError):  # not installed, or not for this PyTorch or machine
            continue
    return [*found, Decoder(f"pillow {PIL.__version__}")]


def open_image(path: Path | str) -> Image.Image:
    """Open a picture as RGB.

    Only the formats of ``FORMATS`` are tried, and no picture of more than ``MAX_PIXELS`` is decoded.

    Raises:
        BadImage: the file is missing, of another format, too large or broken.
    """
    with reading(path), open(path, "rb") as file:
        return decode(file, path, _best())


def decode_image(data: bytes, name: str) -> Image.Image:
    """``open_image`` of the bytes of a file; ``name`` is what the message of BadImage calls it."""
    return decode(BytesIO(data), name, _best())


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture, by its header alone.

    Raises:
        BadImage: it is missing, or of another format.
    """
    with reading(path), Image.open(path, formats=FORMATS) as image:
        return image.height, image.width


def orientation(path: Path) -> int:
    """How EXIF says that a picture is to be turned, 1 for not at all; raises BadImage."""
    with reading(path), Image.open(path, formats=FORMATS) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1)


def decode(file: BinaryIO, name: Path | str, decoder: Decoder) -> Image.Image:
    """``open_image`` with a given decoder."""
    with reading(name), Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise BadImage(name, f"{image.width}x{image.height} exceeds {MAX_PIXELS // 10**6} megapixels")
        fast = decoder.formats.get(image.format or "")
        if fast and _is_plain(image):
            file.seek(0)
            return Image.fromarray(fast(file.read()))
        if image.mode in ("F", "I"):  # of no known range; Pillow would cut them at 0 and 255
            raise BadImage(name, f"mode {image.mode} has no known range of values; expected 8 or 16 bits a channel")
        if image.mode.startswith("I;16"):  # which Pillow would clip instead of scale
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        if "transparency" in image.info:  # Pillow warns of palettes with it otherwise
            return image.convert("RGBA").convert("RGB")
        return image.convert("RGB")


@contextmanager
def reading(name: Path | str) -> Iterator[None]:
    """Inside, what a file that is no good picture makes Pillow and the decoders raise becomes BadImage."""
    try:
        yield
    except FileNotFoundError:
        raise BadImage(name, "no such file") from None
    except Image.UnidentifiedImageError:
        raise BadImage(name, f"not a picture in {', '.join(FORMATS)}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # ValueError for a name with \0
        raise BadImage(name, first_line(error)) from None


def _is_plain(image: Image.Image) -> bool:
    return image.mode in ("L", "RGB") and getattr(image, "n_frames", 1) == 1 and "exif" not in image.info


@cache
def _best() -> Decoder:
    return decoders()[0]


def _torchcodec() -> Decoder:
    import torch
    import torchcodec
    from torchcodec.decoders import decode_jpeg, decode_webp

    def decode_with(function: Callable, data: bytes) -> np.ndarray:
        try:
            pixels = function(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode="RGB")  # [3, H, W]
        except RuntimeError as error:  # behind the place in its C++ code
            raise ValueError(re.sub(r"^\w+, \S+:\d+, ", "", first_line(error))) from None
        return pixels.permute(1, 2, 0).numpy()

    decode_with(decode_jpeg, _tiny_jpeg())
    return Decoder(
        f"torchcodec {torchcodec.__version__}",
        {"JPEG": partial(decode_with, decode_jpeg), "WEBP": partial(decode_with, decode_webp)},
    )


def _simplejpeg() -> Decoder:
    import simplejpeg

    def decode_jpeg(data: bytes) -> np.ndarray:
        try:
            return simplejpeg.decode_jpeg(data, "RGB")
        except ValueError:  # at any flaw; unless strict, at hardly any
            return np.asarray(Image.open(BytesIO(data), formats=["JPEG"]).convert("RGB"))

    decode_jpeg(_tiny_jpeg())
    return Decoder(f"simplejpeg {simplejpeg.__version__}", {"JPEG": decode_jpeg})


def _tiny_jpeg() -> bytes:
    file = BytesIO()
    Image.new("RGB", (1, 1)).save(file, "JPEG")
    return file.getvalue()
