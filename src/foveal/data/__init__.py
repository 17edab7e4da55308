"""Data sets: one file per format, each giving labelled pictures as a list or as a stream.

Reading them needs numpy and Pillow. What makes tensors of pictures needs PyTorch, and is imported when it is asked for.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .._errors import UserError, first_line, some, unknown
from ._arrays import ArrayBatches, OnImage
from ._bodies import Bodies, Crop, MarkedBodies
from ._class_map import IGNORED, ONE_CLASS, class_map, is_of_one_class
from ._decode import BadImage, decode_image, decoder, open_image
from ._objects import Marked, Objects, Problem, Unreadable, decode_mask, read_text, run_length_code, size_problems
from ._pictures import (
    SUFFIXES,
    UNLABELLED,
    Divisible,
    Labelled,
    Pictures,
    Sample,
    Stream,
    class_order,
    has_suffix,
    hold_out,
    hold_out_tenth,
)
from ._shapes import fitted, look, warped
from ._skeleton import Joints
from ._video import VIDEO_SUFFIXES, Video, new_video
from .coco import coco, coco_crops, coco_keypoints, is_coco, is_coco_keypoints, write_coco
from .fashion_mnist import BUILT_IN, fashion_mnist
from .figures import Figures, figures, whole_figures
from .hugging_face import PREFIX, hugging_face
from .image_folder import image_folder
from .listing import listing
from .mask_folder import Masked, is_mask_folder, mask_folder
from .scenes import SceneMasks, Scenes, scene_masks, scenes
from .voc import is_voc, voc
from .webdataset import webdataset
from .yolo import is_yolo, yolo

if TYPE_CHECKING:
    from ._loader import Batches
    from .boxes import BoxAugment, BoxTransform, stack_marked
    from .joints import JointAugment, JointTransform, stack_bodies
    from .masks import MaskAugment, MaskTransform, stack_masked

__all__ = [
    "DATASETS",
    "FORMATS",
    "IGNORED",
    "ONE_CLASS",
    "SUFFIXES",
    "UNLABELLED",
    "VIDEO_SUFFIXES",
    "ArrayBatches",
    "BadImage",
    "Batches",
    "Bodies",
    "BoxAugment",
    "BoxTransform",
    "Crop",
    "Data",
    "Divisible",
    "Figures",
    "JointAugment",
    "JointTransform",
    "Joints",
    "Labelled",
    "Marked",
    "MarkedBodies",
    "MaskAugment",
    "MaskTransform",
    "Masked",
    "Objects",
    "OnImage",
    "Pictures",
    "Problem",
    "Sample",
    "SceneMasks",
    "Scenes",
    "Stream",
    "Unreadable",
    "Video",
    "class_map",
    "coco_crops",
    "decode_image",
    "decode_mask",
    "decoder",
    "divided",
    "fitted",
    "has_suffix",
    "is_of_one_class",
    "load_data",
    "load_parts",
    "load_split",
    "look",
    "new_video",
    "open_image",
    "read_text",
    "run_length_code",
    "size_problems",
    "split_of",
    "stack_bodies",
    "stack_marked",
    "stack_masked",
    "warped",
    "write_coco",
]

OF_TENSORS = {  # by the file that holds it
    "_loader": ("Batches",),
    "boxes": ("BoxAugment", "BoxTransform", "stack_marked"),
    "joints": ("JointAugment", "JointTransform", "stack_bodies"),
    "masks": ("MaskAugment", "MaskTransform", "stack_masked"),
}

Data: TypeAlias = Pictures | Stream
Parts: TypeAlias = tuple[Data | None, Data | None]  # training and validation; None is what the source does not say


class Format(NamedTuple):
    """A format of data.

    Attributes:
        what: names that it takes, for people.
        fits: whether it takes a name.
        read: from a name, a root, and whether to skip what is wrong, to the data.
    """

    what: str
    fits: Callable[[str], bool]
    read: Callable[[str, Path | None, bool], Parts]


def __getattr__(name: str) -> Any:
    """What needs PyTorch."""
    for file, names in OF_TENSORS.items():
        if name in names:
            return getattr(import_module(f".{file}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _fashion(root: Path | None) -> Parts:
    if root is not None:
        raise UserError("--root has no effect on the built-in data 'fashion'; the full set is --data fashion-mnist")
    return fashion_mnist(BUILT_IN)


def _fashion_mnist(root: Path | None) -> Parts:
    if root is None:
        raise UserError("--data fashion-mnist needs --root, the folder of its four IDX files")
    return fashion_mnist(root)


def _rootless(read: Callable[[str], Parts], takers: str = "fashion, fashion-mnist") -> Callable[..., Parts]:
    """A reader of data that lies where its name says; ``takers`` have a root."""

    def reader(name: str, root: Path | None, _: bool = False) -> Parts:
        if root is not None:
            raise UserError(f"--root has no effect on {name}; it is for {takers}")
        return read(name)

    return reader


TAKERS = "the pictures of a COCO file and the data of a YAML file"
_scenes, _scene_masks = _rootless(scenes, TAKERS), _rootless(scene_masks, TAKERS)
_figures, _whole_figures = _rootless(figures, TAKERS), _rootless(whole_figures, TAKERS)

DATASETS: dict[str, dict[str, Callable[[Path | None], Parts]]] = {  # by kind
    "classification": {"fashion": _fashion, "fashion-mnist": _fashion_mnist},
    "detection": {"scenes": partial(_scenes, "scenes"), "figures": partial(_whole_figures, "figures")},
    "segmentation": {"scenes": partial(_scene_masks, "scenes")},
    "keypoints": {"figures": partial(_figures, "figures")},
}

FORMATS: dict[str, list[Format]] = {  # by kind; the first that fits is taken
    "classification": [
        Format("hf:NAME, hf:PATH", lambda name: name.startswith(PREFIX), _rootless(hugging_face)),
        Format("shards .tar, .json", lambda name: name.endswith((".tar", ".json")), _rootless(webdataset)),
        Format("lists .csv, .jsonl", lambda name: name.endswith((".csv", ".jsonl")), _rootless(listing)),
        Format("class folders", lambda name: Path(name).is_dir() or "/" in name, _rootless(image_folder)),
    ],
    "detection": [
        Format("scenes:COUNT, scenes:COUNTxHEIGHT", lambda name: name.startswith("scenes:"), _scenes),
        Format("figures:COUNT, figures:COUNTxHEIGHT", lambda name: name.startswith("figures:"), _whole_figures),
        Format("COCO .json, annotations/instances_*.json, train/_annotations.coco.json", is_coco, coco),
        Format("YOLO .yaml, data.yaml", is_yolo, yolo),
        Format("Pascal VOC Annotations/", is_voc, voc),
    ],
    "segmentation": [
        Format("scenes:COUNT, scenes:COUNTxHEIGHT", lambda name: name.startswith("scenes:"), _scene_masks),
        Format("images/ beside masks/ and classes.txt, ADE20K", is_mask_folder, _rootless(mask_folder, TAKERS)),
    ],
    "keypoints": [
        Format("figures:COUNT, figures:COUNTxHEIGHT", lambda name: name.startswith("figures:"), _figures),
        Format(
            "COCO .json, annotations/person_keypoints_*.json, train/_annotations.coco.json",
            is_coco_keypoints,
            coco_keypoints,
        ),
    ],
}


def load_data(
    name: str, root: Path | None = None, val: str | None = None, *, kind: str = "classification", skip: bool = False
) -> tuple[Data, Data]:
    """Training and validation pictures.

    Args:
        name: a key of ``DATASETS``, or what a format takes. For classification a folder of shape ``class/picture`` or
            ``train/ val/``, a list (.csv, .jsonl), ``hf:`` and a name or path, or shards (a pattern of .tar files, an
            index .json); for detection ``scenes:COUNTxHEIGHT``, COCO's .json or a folder of it, YOLO's .yaml or a
            folder with data.yaml, a folder of Pascal VOC; for segmentation scenes, or a folder of pictures and masks;
            for keypoints ``figures:COUNTxHEIGHT``, COCO's .json or a folder of it.
        root: where a named data set lies, or the pictures of a COCO file, or the data of a YAML file; that of ``val``
            too if it is such a file.
        val: what gives the validation pictures, if it is not ``name``. Without it, and if ``name`` says nothing of
            validation, a tenth of every class, in other kinds a tenth of the pictures, is held out.
        kind: classification, detection, segmentation or keypoints.
        skip: leave out what is wrong with annotations of objects, and list it as ``problems``.

    Raises:
        UserError: an unknown name, a missing or malformed data set, no training pictures, pictures without labels,
            different classes of the two parts, shards without ``val``.
    """
    train, own = load_parts(name, root, kind=kind, skip=skip)
    if train is None:
        raise UserError(f"{name} has no training pictures")
    if val is not None:
        _check_labels(name, train)
        files = kind in ("detection", "keypoints") and Path(val).is_file()
        other = load_split(val, root if files else None, kind=kind, skip=skip)
        _check_labels(val, other)
        if files and root is not None and val != name:
            _check_apart(name, train, val, other, root)
        if train.classes != other.classes:
            odd = class_order({*train.classes} ^ {*other.classes}) or ["their order"]
            raise UserError(f"{name} and {val} differ in their classes: {some(odd, 8)}")
        return train, other
    return divided(name, train, own)


def divided(name: str, train: Data, own: Data | None) -> tuple[Data, Data]:
    """What ``load_data`` gives without ``val``, of what ``load_parts`` did."""
    _check_labels(name, train)
    if own is not None:
        _check_labels(name, own)
        return train, own
    if isinstance(train, (Marked, Masked)):
        return hold_out_tenth(train, name)
    if isinstance(train, MarkedBodies):
        parts = [MarkedBodies(part) for part in hold_out_tenth(train.marked, name)]
        for what, part in zip(("what is left of", "the tenth that is held out of"), parts):
            _check_some(f"{what} {name}", part)
        return parts[0], parts[1]
    if not isinstance(train, Divisible):
        raise UserError(f"{name} has no validation part; --val-data names one")
    return hold_out(train, f"class folder {Path(name)}/" if Path(name).is_dir() else f"{name}: class ")


def _check_apart(name: str, train: Any, val: str, other: Any, root: Path) -> None:
    """Raise UserError where two files name the same pictures in the root that both have."""
    first, second = (getattr(part, "marked", part) for part in (train, other))
    if isinstance(first, Marked) and isinstance(second, Marked) and (same := {*first.paths} & {*second.paths}):
        where = f"{name} and {val} have {len(same)} pictures in common in {root}, {min(same)} among them"
        raise UserError(f"{where}; --root is for both: lay the pictures of each beside its file and leave --root out")


def load_split(name: str, root: Path | None = None, *, kind: str = "classification", skip: bool = False) -> Data:
    """Pictures to evaluate on: the validation part, or all of them where there is none.

    Those of a folder without class folders are in the order of their names, and have no labels.

    Raises:
        UserError: an unknown name, a missing or malformed data set, no pictures.
    """
    return split_of(name, *load_parts(name, root, kind=kind, skip=skip))


def split_of(name: str, train: Data | None, val: Data | None) -> Data:
    """What ``load_split`` gives, of what ``load_parts`` did."""
    data = val if val is not None else train
    if data is None:
        raise UserError(f"{name} has no pictures")
    _check_some(name, data)
    return data


def load_parts(name: str, root: Path | None = None, *, kind: str = "classification", skip: bool = False) -> Parts:
    """Training and validation part as the source has them; see ``load_data``."""
    if name in DATASETS[kind]:
        return DATASETS[kind][name](root)
    try:
        for known in FORMATS[kind]:
            if known.fits(name):
                return known.read(name, root, skip)
        folder = Path(name).is_dir()
    except OSError as error:  # a folder that may not be read, a name that is too long
        raise UserError(f"cannot read {error.filename or name}: {error.strerror or first_line(error)}") from None
    if folder:
        raise UserError(f"{name} holds no data for {kind}; expected {'; '.join(f.what for f in FORMATS[kind])}")
    if "/" in name:
        raise UserError(f"no such file or folder: {name}")
    raise unknown("data set or folder", name, DATASETS[kind])


def _check_some(name: str, data: Data) -> None:
    if not len(data):
        raise UserError(f"{name} has no {'body with a marked joint' if isinstance(data, Bodies) else 'pictures'}")


def _check_labels(name: str, data: Data) -> None:
    if not data.classes:
        raise UserError(f"{name} has no class folders; expected {name}/CLASS/PICTURE")
    _check_some(name, data)
    if isinstance(data, Labelled) and any(data.label(index) == UNLABELLED for index in range(len(data))):
        raise UserError(f"{name} has pictures without a class")
