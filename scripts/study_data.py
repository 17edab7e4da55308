"""Unpack the data of the studies into folders that foveal reads: docs/evidence.md says where each comes from.

    python scripts/study_data.py ARCHIVES DIR

ARCHIVES holds cifar10.npz (JPEG bytes of the pictures of each part, their offsets and classes), camvid.zip (pictures
and masks, in which 11 is void), bccd.zip (Pascal VOC) and openfield.zip (COCO keypoints), or some of them. A folder
that is there already is left alone.
"""

import argparse
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

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


READERS = {"cifar10.npz": cifar10, "camvid.zip": camvid, "bccd.zip": unzip, "openfield.zip": unzip}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    for name, read in READERS.items():
        archive, folder = args.archives / name, args.folder / Path(name).stem
        if not archive.is_file():
            print(f"{archive} is not there")
        elif folder.exists():
            print(f"{folder} is there already")
        else:
            read(archive, folder)
            print(folder)


if __name__ == "__main__":
    main()
