"""Pictures with masks: folders, what is wrong with them, transforms that keep pixels and classes together; mean IoU."""

import json
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from foveal._errors import UserError
from foveal.cli import main
from foveal.data import IGNORED, Batches, MaskAugment, MaskTransform, load_data, load_parts, stack_masked
from foveal.metrics import MeanIoU

CLASSES = ["sky", "road", "car"]
PLAIN = dict(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def write(folder: Path, name: str, mask: np.ndarray, part: str = "", masks: str = "masks") -> Path:
    """A picture of grey 80 times the class, and its mask."""
    grey = (np.minimum(mask, 3) * 80).astype(np.uint8)
    for place in (folder / "images" / part, folder / masks / part):
        place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).convert("RGB").save(folder / "images" / part / f"{name}.jpg", quality=100)
    path = folder / masks / part / f"{name}.png"
    Image.fromarray(mask.astype(np.uint8)).save(path)
    return path


def quarters(size: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 2 :] = 1
    mask[:, size[1] // 2 :] += 1
    return mask


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        write(tmp_path, f"p{i}", quarters())
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return tmp_path


def message_of(folder: Path, **args) -> str:
    """What the loader says of the bad picture of a folder."""
    train, _ = load_parts(str(folder), kind="segmentation")
    assert train is not None
    options = dict(size=32, max_size=64, augment=None, num_classes=3) | args
    with Batches(train, MaskTransform(**PLAIN, **options), 4, stack=stack_masked) as batches:
        (batch,) = batches.epoch()
    (message,) = batch["bad"]
    assert len(batch["name"]) == 3
    return message


def test_folder(folder):
    train, val = load_data(str(folder), kind="segmentation")
    assert train.classes == CLASSES
    assert (len(train), len(val)) == (3, 1)
    assert np.array_equal(val.annotation(0)["mask"], quarters())


def test_parts_and_ade20k(tmp_path):
    for part in ("training", "validation"):
        write(tmp_path, "a", quarters(), part, "annotations")
    rows = ["Idx\tRatio\tTrain\tVal\tName", *(f"{i}\t0.1\t5\t5\tclass {i}, thing" for i in range(1, 151))]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows))
    train, val = load_parts(str(tmp_path), kind="segmentation")
    assert train is not None
    assert val is not None
    assert len(train.classes) == 150
    assert train.classes[149] == "class 150"
    transform = MaskTransform(**PLAIN, size=40, max_size=60, augment=None, num_classes=150, reduce_zero_label=True)
    sample = transform({"image": train.picture(0), "name": "a", **train.annotation(0)}, dict)
    expected = np.where(quarters() == 0, IGNORED, quarters().astype(int) - 1)
    assert np.array_equal(sample["mask"].numpy(), expected)


def test_masks_of_colours_and_palettes(folder):
    (folder / "classes.txt").write_text("sky 70 130 180\nroad 128, 64, 128\ncar 0 0 142\n")
    colours = np.array([[70, 130, 180], [128, 64, 128], [0, 0, 142]], np.uint8)
    Image.fromarray(colours[quarters()]).save(folder / "masks" / "p0.png")
    palette = Image.fromarray(quarters()).convert("P")
    palette.putpalette(colours.flatten().tolist())
    palette.putdata(quarters().flatten().tolist())
    palette.save(folder / "masks" / "p1.png")
    train, val = load_data(str(folder), kind="segmentation")
    assert train.classes == CLASSES
    for data in (train, val):
        for index in range(len(data)):
            assert np.array_equal(data.annotation(index)["mask"], quarters())


def test_palettes_and_grays_in_the_colours_of_the_list(folder):
    """Whatever their indices are; where a colour is not in the list they are the classes."""
    (folder / "classes.txt").write_text("sky 0 0 0\nroad 255 255 255\ncar 0 0 142\n")
    colours = np.array([[0, 0, 0], [255, 255, 255], [0, 0, 142]], np.uint8)
    mixed = Image.fromarray((2 - quarters()).astype(np.uint8)).convert("P")
    mixed.putdata((2 - quarters()).flatten().tolist())
    mixed.putpalette(colours[::-1].flatten().tolist())
    mixed.save(folder / "masks" / "p0.png")
    black = np.minimum(quarters(), 1)
    Image.fromarray(black * 255).save(folder / "masks" / "p1.png")
    Image.fromarray(black * 255).convert("1").save(folder / "masks" / "p2.png")
    data, _ = load_parts(str(folder), kind="segmentation")
    found = {path.stem: data.annotation(index)["mask"] for index, path in enumerate(data.paths)}
    assert np.array_equal(found["p0"], quarters())
    assert np.array_equal(found["p1"], black)
    assert np.array_equal(found["p2"], black)
    assert np.array_equal(found["p3"], quarters())  # values


def test_one_class_alone_is_refused(folder):
    (folder / "classes.txt").write_text("object\n")
    with pytest.raises(UserError, match="names 1 classes, expected 2 to 255; the background is one, too"):
        load_parts(str(folder), kind="segmentation")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda p: Image.fromarray(quarters((30, 60))).save(p), "p2.jpg: its mask is 60x30, the picture 60x40"),
        (lambda p: Image.fromarray(quarters() + 5).save(p), "its mask has the value 7, and classes are 0 to 2"),
        (lambda p: Image.fromarray(quarters()).save(p, "JPEG"), "p2.png: JPEG changes values as it saves them"),
        (lambda p: Image.fromarray(quarters()).convert("RGB").save(p), "classes.txt needs red, green and blue"),
        (lambda p: Image.fromarray(quarters().astype(np.float32)).save(p, "TIFF"), "mode F has no classes"),
        (lambda p: p.write_bytes(b"nothing"), "p2.png: not a picture"),
        (lambda p: Image.fromarray(quarters()).convert("RGB").save(p, "EPS"), "p2.png: not a picture"),  # a program
        (lambda p: p.write_bytes(p.read_bytes()[:60]), "p2.png: "),
    ],
)
def test_what_is_wrong_with_a_mask(folder, damage, expected):
    damage(folder / "masks" / "p2.png")
    assert expected in message_of(folder)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gray_masks_of_few_bits(folder, bits):
    """Made by hand: Pillow writes none."""
    values = np.minimum(quarters(), 2**bits - 1)
    rows = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(len(values), -1)
    content = zlib.compress(b"".join(b"\0" + np.packbits(row).tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", 60, 40, bits, 0, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", content), (b"IEND", b"")):
        file += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    (folder / "masks" / "p0.png").write_bytes(file)
    data, _ = load_parts(str(folder), kind="segmentation")
    index = [path.stem for path in data.paths].index("p0")
    assert np.array_equal(data.annotation(index)["mask"], values)


def test_masks_of_0_and_255_are_noticed(folder, capsys):
    for i in range(4):
        write(folder, f"p{i}", np.where(quarters() > 0, 255, 0))
    assert main(["data", "check", str(folder), "--kind", "segmentation"]) == 1
    assert "all pixels that count are of one class; 255 does not count" in " ".join(capsys.readouterr().out.split())
    argv = ["quickstart_segmentation", "--data", str(folder), "--model", "test_mat", "--out", str(folder / "run")]
    assert main(["train", *argv]) == 2
    assert "in training masks all pixels that count are of one class" in capsys.readouterr().err
    for i in range(4):
        write(folder, f"p{i}", np.minimum(quarters(), 1))
    assert main(["data", "check", str(folder), "--kind", "segmentation"]) == 0


def test_a_colour_that_is_not_in_the_list(folder):
    (folder / "classes.txt").write_text("sky 0 0 0\nroad 1 1 1\ncar 2 2 9\n")
    Image.fromarray(quarters()).convert("RGB").save(folder / "masks" / "p2.png")
    assert "p2.png: the colour 2 2 2 is not in classes.txt" in message_of(folder)


def test_a_label_for_nothing(folder):
    mask = quarters()
    mask[:5] = 7
    Image.fromarray(mask).save(folder / "masks" / "p2.png")
    assert "value 7" in message_of(folder)
    train, _ = load_parts(str(folder), kind="segmentation")
    assert train is not None
    transform = MaskTransform(**PLAIN, size=32, max_size=64, augment=None, num_classes=3, ignore_index=7)
    sample = transform({"image": train.picture(2), "name": "p2", **train.annotation(2)}, dict)
    assert (sample["mask"][:5] == IGNORED).all()
    assert sample["mask"][5:].max() == 2


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / "classes.txt").unlink(), "has no classes.txt"),
        (lambda f: (f / "classes.txt").write_text(""), "names 0 classes"),
        (lambda f: (f / "classes.txt").write_text("a\n\nb\n"), "line 2 is empty"),
        (lambda f: (f / "classes.txt").write_text("a\nb\na\n"), "'a' stands there twice"),
        (lambda f: (f / "classes.txt").write_text("a 1 2 3\nb\n"), "line 2 needs red, green and blue"),
        (lambda f: (f / "classes.txt").write_text("a 1 2 3\nb 1 2 3\n"), "same colour"),
        (lambda f: (f / "masks" / "p1.png").unlink(), "1 of 4 masks are missing: .*p1.png"),
        (lambda f: [p.unlink() for p in (f / "images").iterdir()], "has no pictures"),
        (lambda f: (f / "objectInfo150.txt").write_text("Idx\n1\n"), "is not ADE20K's list"),
    ],
)
def test_what_is_wrong_with_a_folder(folder, damage, expected):
    damage(folder)
    with pytest.raises(UserError, match=expected):
        load_data(str(folder), kind="segmentation")


def test_other_names_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no data for segmentation; expected scenes:COUNT"):
        load_data(str(tmp_path), kind="segmentation")
    with pytest.raises(UserError, match="nearest: scenes"):
        load_data("scene", kind="segmentation")


augments = st.builds(
    MaskAugment,
    scale=st.sampled_from([(1.0, 1.0), (0.5, 2.0), (0.3, 0.6), (2.0, 3.0)]),
    max_class_share=st.sampled_from([0.5, 1.0]),
    hflip=st.sampled_from([0.0, 1.0]),
    photometric=st.just(False),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    augment=augments,
    size=st.integers(16, 64),
    height=st.integers(20, 90),
    width=st.integers(20, 90),
    seed=st.integers(0, 10**6),
)
def test_pixels_keep_their_classes(augment, size, height, width, seed):
    """A picture whose grey is its class, scaled, cropped, mirrored: far from borders, grey still is the class."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    mask = np.repeat(np.repeat(np.random.randint(3, size=(3, 3)), 30, 0), 30, 1)[:height, :width].astype(np.uint8)
    picture = Image.fromarray(mask * 80).convert("RGB")
    transform = MaskTransform(**PLAIN, size=size, max_size=4 * size, augment=augment, num_classes=3)
    sample = transform({"image": picture, "name": "", "mask": mask}, dict)
    found = sample["mask"]
    assert sample["image"].shape == (3, size, size)
    assert found.shape == (size, size)
    assert {*found.unique().tolist()} <= {0, 1, 2, IGNORED}
    grey = (sample["image"][0] * 0.25 + 0.5) * 255 / 80
    reach = int(size * augment.scale[1] / min(height, width)) + 2  # of the interpolation at the border of two classes
    largest = F.max_pool2d(found[None].float(), 2 * reach + 1, 1, reach)[0]
    smallest = -F.max_pool2d(-found[None].float(), 2 * reach + 1, 1, reach)[0]
    inner = (largest == smallest) & (found != IGNORED)
    inner[:reach], inner[-reach:], inner[:, :reach], inner[:, -reach:] = False, False, False, False  # a crop was cut
    assert not inner.any() or (grey[inner] - found[inner]).abs().max() < 0.1
    outside = found == IGNORED
    assert grey[outside].numel() == 0 or (grey[outside] - 0.5 * 255 / 80).abs().max() < 0.02


def test_crops_avoid_one_class():
    """A strip of another class at one end: crops of the rest alone are avoided."""
    mask = np.zeros((64, 256), np.uint8)
    mask[:, :40] = 1
    picture = Image.fromarray(mask * 80).convert("RGB")
    seen = []
    for share in (0.75, 1.0):
        augment = MaskAugment(scale=(1, 1), max_class_share=share, hflip=0, photometric=False)
        transform = MaskTransform(**PLAIN, size=64, max_size=512, augment=augment, num_classes=2)
        seen.append(sum(transform({"image": picture, "name": "", "mask": mask}, dict)["mask"].any() for _ in range(50)))
    assert seen[0] > 1.3 * seen[1]


def test_evaluation_keeps_the_mask():
    transform = MaskTransform(**PLAIN, size=32, max_size=100, augment=None, num_classes=3)
    picture = Image.fromarray(quarters() * 80).convert("RGB")
    samples = [transform({"image": picture, "name": "a", "mask": quarters()}, dict) for _ in range(2)]
    batch = stack_masked(samples)
    assert batch["image"].shape == (2, 3, 32, 64)
    assert batch["size"].tolist() == [[32, 48]] * 2
    assert batch["original"].tolist() == [[40, 60]] * 2
    assert (batch["image"][:, :, :, 48:] == 0).all()
    assert batch["mask"][0].shape == (40, 60)
    assert "mask" not in stack_masked([transform({"image": picture, "name": "a"}, dict)])


def test_mean_iou_is_torchmetrics():
    ours = MeanIoU(6)
    iou = MulticlassJaccardIndex(6, ignore_index=IGNORED, average="none")
    accuracy = MulticlassAccuracy(6, ignore_index=IGNORED, average="micro")
    first, second = MeanIoU(6), MeanIoU(6)
    for i, size in enumerate([(20, 30), (7, 50), (33, 21)]):
        wanted = torch.randint(5, size)  # the last class is never there
        found = torch.where(torch.rand(size) < 0.6, wanted, torch.randint(6 if i else 5, size))
        wanted[:3] = IGNORED
        for metric in (ours, (first, second)[i % 2]):
            metric.update([found], {"mask": [wanted]})
        iou.update(found[None], wanted[None])
        accuracy.update(found[None], wanted[None])
    figures = ours.compute()
    torch.testing.assert_close(torch.from_numpy(ours.class_ious()).float(), 100 * iou.compute())
    assert figures["mIoU"] == pytest.approx(100 * float(iou.compute().mean()), abs=1e-4)
    assert figures["aAcc"] == pytest.approx(100 * float(accuracy.compute()), abs=1e-4)
    assert figures["pictures"] == 3
    first.merge(second.state())
    assert first.compute() == figures
    ours.reset()
    assert ours.confusion.sum() == 0


def test_classes_that_are_nowhere_do_not_count():
    metric = MeanIoU(4)
    metric.update([torch.tensor([[0, 1]])], {"mask": [torch.tensor([[0, 0]])]})
    figures = metric.compute()
    assert figures["mIoU"] == pytest.approx(25)  # 1/2 and 0 of the two that are there or predicted
    assert figures["mAcc"] == pytest.approx(50)


def test_data_check(folder, capsys):
    write(folder, "p9", quarters() + 5)
    Image.fromarray(quarters((30, 60))).save(folder / "masks" / "p1.png")
    assert main(["data", "check", str(folder), "--kind", "segmentation", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [Path(problem["where"]).name for problem in answer["problems"]] == ["p1.jpg", "p9.jpg"]
    assert "value 7" in answer["problems"][1]["reason"]
    pixels = np.bincount(quarters().ravel(), minlength=3)
    assert answer["parts"]["train"]["classes"] == dict(zip(CLASSES, (3 * pixels).tolist()))
    assert main(["data", "check", str(folder), "--kind", "segmentation", "--reduce-zero-label"]) == 1
    shown = capsys.readouterr().out
    assert "pixels that do not count" in shown
    assert main(["data", "check", "scenes:4", "--kind", "segmentation"]) == 0
    assert "class background" in capsys.readouterr().out
    for flags in (["--clean", "a.json"], []):
        kind = "segmentation" if flags else "detection"
        argv = ["data", "check", "scenes:4", "--kind", kind, *flags, *([] if flags else ["--reduce-zero-label"])]
        assert main(argv) == 2
        assert "no effect" in capsys.readouterr().err
