"""Write the class-balanced part of Fashion-MNIST that comes with the package.

    python scripts/make_fashion_mnist.py ROOT

ROOT holds the four IDX files of the whole set (Debian's package dataset-fashion-mnist installs them in
/usr/share/datasets/fashion-mnist). The first 1,000 training and 200 test pictures of every class are kept, in their
original order; the output is the same byte for byte on every run.
"""

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np

from foveal.data.fashion_mnist import BUILT_IN, CLASSES, read_idx

PER_CLASS = {"train": 1000, "t10k": 200}


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), 9, mtime=0))


def main(root: Path) -> None:
    for part, count in PER_CLASS.items():
        pictures = read_idx(root / f"{part}-images-idx3-ubyte", 3)
        labels = read_idx(root / f"{part}-labels-idx1-ubyte", 1)
        keep = np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(len(CLASSES))]))
        write_idx(BUILT_IN / f"{part}-images-idx3-ubyte.gz", pictures[keep])
        write_idx(BUILT_IN / f"{part}-labels-idx1-ubyte.gz", labels[keep])
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(BUILT_IN.glob("*.gz"))]
    (BUILT_IN / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
