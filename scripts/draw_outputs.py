"""Draw what the quick starts find: python scripts/draw_outputs.py [RUNS] [FILE] (runs, docs/pictures/quickstarts.png).

RUNS is the folder of the runs quickstart_detection, quickstart_segmentation and quickstart_keypoints. They see pictures
that they were not trained on: the first of the validation parts, at twice the size.
"""

import sys
from pathlib import Path

from PIL import Image

from foveal import load_detector, load_keypoints, load_segmenter
from foveal._draw import draw_bodies, draw_classes, draw_objects
from foveal.data import load_split

ROOT = Path(__file__).parents[1]
PICTURES = 3  # of each run
SIZE = 256, 320


def main(runs: Path, out: Path) -> None:
    detector, segmenter = (
        load(str(runs / f"quickstart_{name}"))
        for load, name in ((load_detector, "detection"), (load_segmenter, "segmentation"))
    )
    estimator = load_keypoints(str(runs / "quickstart_keypoints"))
    scenes = load_split(f"scenes:{20 * PICTURES}x{SIZE[0]}", kind="detection")
    figures = load_split(f"figures:{20 * PICTURES}x{SIZE[0]}", kind="detection")
    columns = []
    for i in range(PICTURES):
        scene, other, figure = scenes.picture(i), scenes.picture(PICTURES + i), figures.picture(i)
        (found,) = detector.detect([scene], 0.5)
        (classes,) = segmenter.segment([other])
        bodies = estimator.estimate(figure, figures.annotation(i)["target"]["boxes"])
        columns.append([draw_objects(scene, found, detector.classes), draw_classes(other, classes)])
        columns[-1].append(draw_bodies(figure, bodies, estimator.joints.skeleton))
    gap, (height, width) = 6, SIZE
    whole = Image.new("RGB", (PICTURES * (width + gap) - gap, 3 * (height + gap) - gap), "white")
    for x, column in enumerate(columns):
        for y, picture in enumerate(column):
            whole.paste(picture, (x * (width + gap), y * (height + gap)))
    out.parent.mkdir(parents=True, exist_ok=True)
    whole.quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    arguments = [Path(word) for word in sys.argv[1:]]
    main(*arguments, *[ROOT / "runs", ROOT / "docs" / "pictures" / "quickstarts.png"][len(arguments) :])
