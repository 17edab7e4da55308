"""Predictions, as arrays or tensors on the CPU, drawn into a picture."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

DOUBTFUL = 0.2  # score of a joint below which it is not drawn


def draw_objects(picture: Image.Image, found: Mapping[str, Any], classes: Sequence[str]) -> Image.Image:
    """A copy of an RGB picture with the boxes, masks, class names and scores of what was found in it.

    A class has one colour. Lines and text grow with the picture; text stands above its box, or in it where there is
    no room above. What scores higher covers what scores lower.

    Args:
        found: ``boxes`` [n, 4] (x1, y1, x2, y2) in pixels, ``labels`` [n], ``scores`` [n] from high to low, and
            ``masks`` bool [n, H, W] if any.
        classes: their names.
    """
    ordered = {name: np.asarray(value)[::-1] for name, value in found.items()}
    labels = ordered["labels"].tolist()
    colours = [colour(label) for label in labels]
    drawn = picture.copy()
    if "masks" in ordered:
        pixels = np.array(picture)
        for mask, fill in zip(ordered["masks"], colours):
            pixels[mask] = fill
        drawn = Image.blend(picture, Image.fromarray(pixels), 0.5)
    pen = ImageDraw.Draw(drawn)
    line = max(1, round(min(picture.size) / 300))
    last = np.array([picture.width, picture.height] * 2) - 1  # of the pixels: a line at the edge would be outside
    for box, fill in zip(np.minimum(ordered["boxes"], last).astype(int).tolist(), colours):
        pen.rectangle(box, outline=fill, width=line)
    font = ImageFont.load_default(max(10, min(picture.size) / 40))
    for label, score, box, fill in zip(labels, ordered["scores"].tolist(), ordered["boxes"].tolist(), colours):
        text = f"{classes[label]} {score:.2f}"
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        width, height = right - left + 2 * line, bottom - top + 2 * line
        x = max(0, min(box[0], picture.width - width))
        y = box[1] - height if box[1] >= height else box[1]
        pen.rectangle((x, y, x + width, y + height), fill=fill)
        bright = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] > 128
        pen.text((x + line - left, y + line - top), text, fill="black" if bright else "white", font=font)
    return drawn


def draw_classes(picture: Image.Image, classes: Any) -> Image.Image:
    """A copy of an RGB picture under the colours of its pixels' classes [H, W]."""
    colours = np.array([colour(label) for label in range(256)])[np.asarray(classes)]  # [H, W, 3]
    return Image.fromarray(((np.array(picture, int) + colours) // 2).astype(np.uint8))


def palette_image(classes: Any) -> Image.Image:
    """A picture whose values are classes [H, W], below 256, with a palette that shows them in their colours."""
    image = Image.fromarray(np.asarray(classes).astype(np.uint8), "P")
    image.putpalette([value for label in range(256) for value in colour(label)])
    return image


def colour(label: int) -> tuple[int, int, int]:
    """Of a class; those of neighbours are far apart, for hues advance by the golden ratio."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85 if label % 2 else 0.65, 1 if label % 3 else 0.8)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_bodies(
    picture: Image.Image, found: Sequence[Mapping[str, Any]], skeleton: Sequence[tuple[int, int]]
) -> Image.Image:
    """A copy of an RGB picture with the joints of bodies, and lines between them.

    Lines are white, dots have a colour for each body, and both grow with the picture. Joints whose score is below 0.2
    are left out.

    Args:
        found: for each body ``keypoints`` [K, 2] in pixels and ``scores`` [K]; what comes first covers the rest.
        skeleton: pairs of joints that lines connect.
    """
    drawn, size = picture.copy(), min(picture.size)
    pen, width, radius = ImageDraw.Draw(drawn), max(1, round(size / 250)), max(1, round(size / 150))
    for number, body in reversed([*enumerate(found)]):
        places = np.asarray(body["keypoints"]).round().astype(int).tolist()
        seen = (np.asarray(body["scores"]) >= DOUBTFUL).tolist()
        for one, other in skeleton:
            if seen[one] and seen[other]:
                pen.line((*places[one], *places[other]), fill="white", width=width)
        for (x, y), clear in zip(places, seen):
            if clear:  # over the lines
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour(number))
    return drawn
