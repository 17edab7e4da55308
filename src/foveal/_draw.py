"""Predictions drawn into a picture."""

import colorsys
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks


def draw_objects(picture: Image.Image, found: dict[str, torch.Tensor], classes: list[str]) -> Image.Image:
    """A copy of an RGB picture with the boxes, masks, class names and scores of what was found in it.

    A class has one colour. Lines and text grow with the picture; text stands above its box, or in it where there is
    no room above. What scores higher covers what scores lower.

    Args:
        found: ``boxes`` [n, 4] (x1, y1, x2, y2) in pixels, ``labels`` [n], ``scores`` [n] from high to low, and
            ``masks`` bool [n, H, W] if any.
        classes: their names.
    """
    if not len(found["labels"]):
        return picture.copy()
    ordered = {name: value.flip(0) for name, value in found.items()}
    labels = ordered["labels"].tolist()
    colours: list[Any] = [colour(label) for label in labels]
    image = pil_to_tensor(picture)
    if "masks" in ordered:
        image = draw_segmentation_masks(image, ordered["masks"], alpha=0.5, colors=colours)
    line = max(1, round(min(picture.size) / 300))
    last = torch.tensor([picture.width, picture.height] * 2) - 1  # of the pixels: a line at the edge would be outside
    boxes = ordered["boxes"].minimum(last)
    drawn = to_pil_image(draw_bounding_boxes(image, boxes, colors=colours, width=line))
    font = ImageFont.load_default(max(10, min(picture.size) / 40))
    pen = ImageDraw.Draw(drawn)
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


def draw_classes(picture: Image.Image, classes: torch.Tensor) -> Image.Image:
    """A copy of an RGB picture under the colours of its pixels' classes [H, W]."""
    colours = torch.tensor([colour(label) for label in range(256)], dtype=torch.uint8)[classes]  # [H, W, 3]
    return to_pil_image(((pil_to_tensor(picture).int() + colours.permute(2, 0, 1)) // 2).byte())


def palette_image(classes: torch.Tensor) -> Image.Image:
    """A picture whose values are classes [H, W], below 256, with a palette that shows them in their colours."""
    image = Image.fromarray(classes.byte().numpy(), "P")
    image.putpalette([value for label in range(256) for value in colour(label)])
    return image


def colour(label: int) -> tuple[int, int, int]:
    """Of a class; those of neighbours are far apart, for hues advance by the golden ratio."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85 if label % 2 else 0.65, 1 if label % 3 else 0.8)
    return round(255 * red), round(255 * green), round(255 * blue)
