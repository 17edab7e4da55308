"""What is analyzed: models by name, and the pictures that they see."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_data_config
from torch import nn

from .._errors import UserError
from .._models import create_model, size_args, weights_folder
from ..data import SUFFIXES, Pictures, has_suffix, open_image
from ..data.scenes import scenes
from ._capture import check_layers, module_name

SCENE_HEIGHT = 256

Progress = Callable[[int, int], None]  # steps done, of all


def silent(done: int, total: int) -> None:
    """No progress is shown."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the models see, and which weights they have.

    Attributes:
        images: folder of pictures, with those below it; the built-in scenes otherwise.
        num_images: number of pictures, the first ones; the analysis's own by default.
        size: height and width of the images in pixels, one number for a square; the model's own by default.
        pretrained: timm's weights. A run's folder brings its own; otherwise they are random.
        seed: of random weights.
        batch: images a call, which bounds the memory.
        device: as torch names it.
    """

    images: Path | None = None
    num_images: int | None = None
    size: tuple[int, ...] | None = None
    pretrained: bool = False
    seed: int = 0
    batch: int = 8
    device: str = "cpu"

    def __post_init__(self):
        if self.size is not None and (len(self.size) not in (1, 2) or min(self.size) < 1):
            raise UserError(f"size takes one or two numbers above 0, got {self.size}")
        for name, least in (("num_images", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name.replace('_', '-')} must be at least {least}, got {value}")


DEFAULT = Setting()


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model ready to be looked into: evaluation mode, no parameter needs a gradient.

    Attributes:
        name: what it is called in figures and messages.
        weights: where they come from.
        model: images [B, 3, H, W] -> logits, on its device.
        size: height and width of the images it gets.
        transform: from an RGB picture to a normalised tensor [3, H, W].
        mean: of each channel, which the transform subtracts.
        std: of each channel, by which it divides.
    """

    name: str
    weights: str
    model: Any
    size: tuple[int, int]
    transform: Callable[[Image.Image], torch.Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def images(self, pictures: Sequence[Image.Image], batch: int) -> Iterator[torch.Tensor]:
        """The pictures as the model sees them, in batches [B, 3, H, W] on its device."""
        device = next(self.model.parameters()).device
        for start in range(0, len(pictures), batch):
            yield torch.stack([self.transform(picture) for picture in pictures[start : start + batch]]).to(device)

    def shown(self, image: torch.Tensor) -> torch.Tensor:
        """A normalised image [3, H, W] as a picture [H, W, 3] of values in 0..1."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (image.cpu().permute(1, 2, 0) * std + mean).clamp(0, 1)


def load_subjects(
    models: Sequence[str | nn.Module | Subject], setting: Setting, layers: Iterable[str] = ()
) -> list[Subject]:
    """Models made ready, from their names, from folders of runs, or built already.

    Args:
        layers: modules that all of them must have.

    Raises:
        UserError: no model, one that comes twice, an unknown name, a folder without a model, a size that it does not
            take, a layer that it does not have.
    """
    if not models:
        raise UserError("no model given; timm.list_models() names those that can stand here")
    subjects = [load_subject(model, setting) for model in models]
    names = [subject.name for subject in subjects]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name} is given twice")
    for subject in subjects:
        check_layers(subject.model, map(module_name, layers))
    return subjects


def watched(
    subjects: Sequence[Subject], pictures: Sequence[Image.Image], setting: Setting, progress: Progress
) -> Iterator[tuple[Subject, Iterator[torch.Tensor]]]:
    """Each model with the pictures as it sees them, in batches [B, 3, H, W]; ``progress`` is told of each."""
    done = 0

    def batches(subject: Subject) -> Iterator[torch.Tensor]:
        nonlocal done
        for images in subject.images(pictures, setting.batch):
            yield images
            done += len(images)
            progress(done, len(subjects) * len(pictures))

    for subject in subjects:
        yield subject, batches(subject)


def load_subject(model: str | nn.Module | Subject, setting: Setting) -> Subject:
    """One of ``load_subjects``."""
    if isinstance(model, Subject):
        return model
    size = None if setting.size is None else (setting.size[0], setting.size[-1])
    if isinstance(model, nn.Module):
        name, weights, built = type(model).__name__, "as given", copy.deepcopy(model)
    else:
        name, built = model, _build(model, setting, size)
        weights = f"random, seed {setting.seed}"
        if Path(model).is_dir():
            weights = str(weights_folder(Path(model)))
        elif setting.pretrained or ":" in model:
            weights = f"timm's, {built.pretrained_cfg.get('tag') or built.pretrained_cfg.get('hf_hub_id') or 'default'}"
    built = built.eval().requires_grad_(False).to(setting.device)
    config = resolve_data_config({} if size is None else {"input_size": (3, *size)}, model=built)
    if config["input_size"][0] != 3:
        raise UserError(f"{name} takes {config['input_size'][0]} channels, and pictures have 3")
    return Subject(
        name=name,
        weights=weights,
        model=built,
        size=config["input_size"][1:],
        transform=create_transform(**config),  # pyright: ignore[reportArgumentType]
        mean=config["mean"],
        std=config["std"],
    )


def _build(name: str, setting: Setting, size: tuple[int, int] | None) -> Any:
    """The model, for images of the size where it must be built for one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        return create_model(name, setting.pretrained, **size_args(name, size))


def load_pictures(setting: Setting, default: int) -> list[Image.Image]:
    """The pictures of a setting in RGB; ``default`` is their number where the setting has none.

    Raises:
        UserError: no such folder, no pictures or too few in it, one that cannot be read.
    """
    if setting.images is None:
        count = setting.num_images or default
        data: Pictures = scenes(f"scenes:{10 * count}x{SCENE_HEIGHT}")[1]
        return [data.picture(index) for index in range(count)]
    return [open_image(file) for file in picture_files(setting.images, setting.num_images, default)]


def picture_files(folder: Path, count: int | None, default: int) -> list[Path]:
    """The first ``count`` pictures of a folder and those below it, or at most ``default``; raises UserError."""
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    files = sorted(file for file in folder.rglob("*") if has_suffix(file, SUFFIXES) and file.is_file())
    if not files:
        raise UserError(f"{folder} has no pictures ({', '.join(SUFFIXES)})")
    if len(files) < (count or 1):
        raise UserError(f"{folder} has {len(files)} pictures, fewer than the {count} asked for")
    return files[: count or default]


def true_classes(subject: Subject, setting: Setting, default: int) -> list[int] | None:
    """The class of each picture, where all lie in folders that are called as classes of the model; None elsewhere.

    Classes are called by their numbers, by the model's names for them, or by WordNet's identifiers where the model has
    the classes of ImageNet.
    """
    if setting.images is None:
        return None
    names = subject.model.pretrained_cfg.get("label_names") if hasattr(subject.model, "pretrained_cfg") else None
    if names is None and (subset := infer_imagenet_subset(subject.model)):
        names = ImageNetInfo(subset).label_names()
    known = {str(k): k for k in range(getattr(subject.model, "num_classes", 0))}
    known |= {name: k for k, name in enumerate(names or [])}
    folders = [file.parent.name for file in picture_files(setting.images, setting.num_images, default)]
    return [known[name] for name in folders] if known.keys() >= {*folders} else None


def choose_classes(subject: Subject, logits: Any, class_index: int | None) -> torch.Tensor:
    """A class for each row of logits [B, classes]: the given one, or the largest logit's.

    Raises:
        UserError: no classifier gives such logits, or there is no such class.
    """
    if not isinstance(logits, torch.Tensor):
        raise UserError(f"{subject.name} is no classifier: it gives {len(logits)} maps")
    if getattr(subject.model, "num_classes", None) == 0 or logits.ndim != 2 or logits.shape[1] < 2:
        raise UserError(f"{subject.name} is no classifier: it gives {[*logits.shape]} for {len(logits)} pictures")
    if class_index is None:
        return logits.argmax(dim=1)
    if not 0 <= class_index < logits.shape[1]:
        raise UserError(f"{subject.name} has the classes 0 to {logits.shape[1] - 1}, got {class_index}")
    return torch.full((len(logits),), class_index, device=logits.device)
