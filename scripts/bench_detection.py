"""Our detectors and our loader beside torchvision's own: docs/performance.md.

    python scripts/bench_detection.py [--rounds N] [--backbone NAME] [NAME ...]

A NAME is a detector, "loader" or "loader of masks"; without any, all are measured. torchvision's detector has the same
backbone, as a copy, and the same weights. Both get two float pictures of 320x480 px with eight objects of 80 classes,
so neither resizes nor normalises: a call is what comes behind the loader. Detections are kept above the score that a
thousand pairs of box and class exceed in a picture, as many as the threshold of a trained detector may leave. A
training step is forward pass, losses, backward pass and SGD with momentum; its memory is the most that it holds at once
beyond weights and momentum.

A loader decodes JPEG files of COCO's size, 640x480, flips, resizes to 800 px, normalises and batches them in one
process; torchvision's is that of its references/detection, with GeneralizedRCNNTransform, which there is a part of the
detector, for the last three.

Everything is interleaved in one run: one thread, float32, eager. Times are those of the thread, so that other processes
are left out; ratios are medians over the rounds.
"""

import argparse
import contextlib
import copy
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from foveal.bench import interleave, peak_memory, ratio
from foveal.data import Batches, BoxAugment, BoxTransform, Scenes, load_data, stack_marked
from foveal.detection import build
from foveal.necks import Pyramid

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import test_mask_rcnn
import test_retinanet
import test_ssd

SIZE, BATCH, CLASSES, OBJECTS, PAIRS = (320, 480), 2, 80, 8, 1000
DETECTORS = ["retinanet", "fcos", "faster_rcnn", "mask_rcnn", "ssd", "ssdlite"]
LOADERS = ["loader", "loader of masks"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PICTURES = 64
WHAT = ("inference ms", "training step ms", "memory of a step MiB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--backbone", default="resnet18")
    args = parser.parse_args()
    names = args.names or [*DETECTORS, *LOADERS]
    if unknown := {*names} - {*DETECTORS, *LOADERS}:
        parser.error(f"unknown names {', '.join(unknown)}; expected {', '.join([*DETECTORS, *LOADERS])}")
    torch.set_num_threads(1)
    detectors = [name for name in DETECTORS if name in names]
    if detectors:
        columns = [f"{what}, {whose}" for what in WHAT for whose in ("ours", "torchvision's", "ratio")]
        print(f"| detector | {' | '.join(columns)} |\n|---" + "|---" * len(columns) + "|")
    for name in detectors:
        detector(name, args.backbone, args.rounds)
    loaders = [name for name in LOADERS if name in names]
    if loaders:
        print("\n| loader | ours images/s | torchvision's images/s | ratio of times |\n|---|---|---|---|")
        with tempfile.TemporaryDirectory() as folder:
            write_data(Path(folder))
            for name in loaders:
                loader(name, Path(folder), args.rounds)


def row(name: str, *cells: float) -> None:
    written = [f"{cell:.2f}" if cell < 10 else f"{cell:.0f}" for cell in cells]
    print(f"| {name} | {' | '.join(written)} |", flush=True)


def detector(name: str, backbone: str, rounds: int) -> None:
    """A row of the table of detectors."""
    torch.manual_seed(0)
    ours: Any = build(name, backbone, CLASSES).eval()
    pictures, sizes = torch.randn(BATCH, 3, *SIZE), torch.tensor([SIZE] * BATCH)
    images = pictures.contiguous(memory_format=torch.channels_last)  # as our loader gives them
    with torch.inference_mode():
        threshold = scores(name, ours, ours(images, sizes)).flatten().topk(BATCH * PAIRS).values[-1].item()
    theirs: Any = reference(name, ours).eval()
    for model in (ours, theirs, getattr(theirs, "roi_heads", theirs)):
        for attribute in ("score_thresh", "box_score_thresh"):
            if hasattr(model, attribute):
                setattr(model, attribute, threshold)

    @torch.inference_mode()
    def infer() -> list[dict]:
        return ours.detections(ours(images, sizes), sizes)

    @torch.inference_mode()
    def infer_theirs() -> list[dict]:
        return theirs(list(pictures))

    for one, other in zip(infer(), infer_theirs(), strict=True):
        assert len(one["boxes"]) == len(other["boxes"])
    seconds = interleave({"ours": infer, "theirs": infer_theirs}, rounds, warmup=1, clock=time.thread_time)
    cells = [*summary(seconds)]
    wanted, moved = targets(), 1 if hasattr(theirs, "roi_heads") or name.startswith("ssd") else 0
    shifted = [target | {"labels": target["labels"] + moved} for target in wanted]
    step = training_step(ours, lambda: ours.losses(ours(images, sizes), wanted))
    step_theirs = training_step(theirs, lambda: theirs(list(pictures), shifted))
    step(), step_theirs()  # momentum is there from the first step on
    memory = [peak_memory(call, torch.device("cpu")) / 2**20 for call in (step, step_theirs)]
    cells += summary(interleave({"ours": step, "theirs": step_theirs}, rounds, warmup=1, clock=time.thread_time))
    row(name, *cells, *memory, memory[0] / memory[1])


def summary(seconds: dict[str, list[float]]) -> list[float]:
    """Median milliseconds of both, and their ratio."""
    return [*(1e3 * statistics.median(times) for times in seconds.values()), ratio(*seconds.values())]


def scores(name: str, model: Any, raw: dict) -> torch.Tensor:
    """Of all pairs of box and class."""
    if name == "retinanet":
        return raw["logits"].sigmoid()
    if name == "fcos":
        return (raw["logits"].sigmoid() * raw["centerness"].sigmoid()[..., None]).sqrt()
    if name.endswith("rcnn"):
        logits, _ = model.box_outputs(raw["maps"], model.proposals(raw, raw["sizes"], *model.top_n_test))
        return logits.softmax(1)[:, 1:]
    return raw["logits"].softmax(2)[..., 1:]


def reference(name: str, ours: Any) -> Any:
    """torchvision's detector with a copy of our weights; it takes pictures as they come, and gives boxes in them."""
    ours = copy.deepcopy(ours)
    if name.endswith("rcnn"):
        model = test_mask_rcnn.reference(ours)
    elif name.startswith("ssd"):
        model = test_ssd.reference(name, ours, SIZE)
    else:
        model = {"retinanet": RetinaNet, "fcos": FCOS}[name](
            test_retinanet.Maps(ours), CLASSES, detections_per_img=ours.detections_per_img
        )
        model.head.load_state_dict(ours.head.state_dict())
    for pyramid in [module for module in model.modules() if isinstance(module, Pyramid)]:
        pyramid.forward = pyramid.body.__call__  # as torchvision's users have it, in contiguous memory
    model.transform.normalize = lambda image: image
    model.transform.resize = lambda image, target=None: (image, target)
    model.transform.postprocess = lambda result, sizes, originals: result
    return model


def targets() -> list[dict]:
    found = []
    for _ in range(BATCH):
        sides = torch.tensor([SIZE[1], SIZE[0]])
        start = torch.rand(OBJECTS, 2) * sides * 0.8
        boxes = torch.cat([start, torch.minimum(start + 16 + torch.rand(OBJECTS, 2) * 200, sides)], dim=1).round()
        masks = torch.zeros(OBJECTS, *SIZE, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
            mask[top:bottom, left:right] = 1
        found.append({"boxes": boxes, "labels": torch.randint(CLASSES, (OBJECTS,)), "masks": masks})
    return found


def training_step(model: Any, losses: Callable[[], dict[str, torch.Tensor]]) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)

    def step() -> None:
        torch.stack(list(losses().values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def write_data(folder: Path) -> None:
    """Scenes as JPEG files with a COCO file of polygons."""
    small, _ = load_data("scenes:1", kind="detection")
    scenes = Scenes(small.garments, (480, 640), 0, range(PICTURES))
    images, annotations = [], []
    for index in range(PICTURES):
        scenes.picture(index).save(folder / f"{index}.jpg", quality=95)
        images.append({"id": index + 1, "file_name": f"{index}.jpg", "height": 480, "width": 640})
        target = scenes.annotation(index)["target"]
        for box, label, mask in zip(target["boxes"].tolist(), target["labels"].tolist(), target["segmentations"]):
            left, top, right, bottom = box
            entry: dict[str, Any] = dict(id=len(annotations) + 1, image_id=index + 1, category_id=label + 1, iscrowd=0)
            entry |= dict(bbox=[left, top, right - left, bottom - top], area=int(mask.sum()))
            annotations.append(entry | {"segmentation": [outline(mask)]})
    categories = [{"id": i, "name": name} for i, name in enumerate(scenes.classes, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "data.json").write_text(json.dumps(content))


def outline(mask: np.ndarray) -> list[int]:
    """A polygon down the left ends of every fourth row and up the right ones."""
    rows = np.flatnonzero(mask.any(1))
    rows = [*rows[::4].tolist(), int(rows[-1]) + 1]
    inside = [min(row, rows[-1] - 1) for row in rows]
    left = [int(mask[row].argmax()) for row in inside]
    right = [mask.shape[1] - int(mask[row, ::-1].argmax()) for row in inside]
    points = [*zip(left, rows), *zip(right[::-1], rows[::-1])]
    return [value for point in points for value in point]


def loader(name: str, folder: Path, rounds: int) -> None:
    """A row of the table of loaders."""
    masks = name.endswith("masks")
    train, _ = load_data(str(folder / "data.json"), kind="detection", val=str(folder / "data.json"))
    size: dict[str, Any] = dict(size=800, max_size=1333, square=False, mean=MEAN, std=STD)
    transform = BoxTransform(**size, augment=BoxAugment(), masks=masks)
    ours = Batches(train, transform, BATCH, seed=0, stack=stack_marked)
    steps = [v2.ToImage(), v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float32, scale=True)]
    checks = [v2.ConvertBoundingBoxFormat("XYXY"), v2.SanitizeBoundingBoxes(), v2.ToPureTensor()]
    with contextlib.redirect_stdout(None):  # pycocotools prints
        data = CocoDetection(folder, folder / "data.json", transforms=v2.Compose([*steps, *checks]))
    keys = ["boxes", "labels", "image_id", *(["masks"] if masks else [])]
    wrapped = wrap_dataset_for_transforms_v2(data, target_keys=keys)
    theirs = DataLoader(wrapped, BATCH, shuffle=True, collate_fn=lambda samples: tuple(zip(*samples)))
    last = GeneralizedRCNNTransform(800, 1333, list(MEAN), list(STD)).train()

    def endless(epoch: Callable[[int], Iterator]) -> Iterator:
        return itertools.chain.from_iterable(epoch(number) for number in itertools.count())

    batches, others = endless(ours.epoch), endless(lambda _: iter(theirs))
    calls = {"ours": lambda: next(batches), "theirs": lambda: last(*next(others))}
    one, (other, _) = (call() for call in calls.values())
    assert one["image"].shape == other.tensors.shape
    seconds = interleave(calls, 8 * rounds, clock=time.thread_time)
    speeds = [BATCH / statistics.median(times) for times in seconds.values()]
    row(name, *speeds, ratio(*seconds.values()))


if __name__ == "__main__":
    main()
