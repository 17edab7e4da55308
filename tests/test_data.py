"""Data: the built-in pictures, what is opened and refused, splits, order, batches; and how weights are saved."""

import gzip
import hashlib
import random
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from foveal._errors import UserError
from foveal.data import BadImage, Batches, OnImage, _decode, load_data, load_parts, open_image
from foveal.data.fashion_mnist import BUILT_IN, fashion_mnist, read_idx
from foveal.engine import create_run_folder
from runs import save_model

# Fashion-MNIST


@pytest.fixture(scope="module")
def built_in():
    return load_data("fashion")


def test_built_in_pictures(built_in):
    for part, count in zip(built_in, (10_000, 2_000), strict=True):
        assert part.pictures.shape == (count, 28, 28)
        assert np.bincount(part.labels).tolist() == [count // 10] * 10
        assert len(part.classes) == 10
        assert len(part) == count
        assert (part.picture(0).mode, part.picture(0).size) == ("RGB", (28, 28))
        assert isinstance(part.label(0), int)


def test_built_in_parts_are_disjoint(built_in):
    train, val = ({picture.tobytes() for picture in part.pictures} for part in built_in)
    assert not train & val


def test_built_in_files_match_their_sums_and_stay_small():
    sums = dict(line.split()[::-1] for line in (BUILT_IN / "SHA256SUMS").read_text().splitlines())
    files = {path.name: path.read_bytes() for path in BUILT_IN.iterdir()}
    assert {name for name in files if name.endswith(".gz")} == sums.keys()
    assert {name: hashlib.sha256(files[name]).hexdigest() for name in sums} == sums
    assert sum(map(len, files.values())) <= 6_000_000
    assert "MIT" in files["LICENSE"].decode()


def idx(array):
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes((0, 0, 8, array.ndim)) + shape + array.tobytes()


PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
ZIPPED = gzip.compress(idx(PIXELS), mtime=0)  # else the names of tests would hold the time


@pytest.mark.parametrize("zipped", [False, True])
def test_read_idx(tmp_path, zipped):
    path = tmp_path / ("file.gz" if zipped else "file")
    path.write_bytes(gzip.compress(idx(PIXELS)) if zipped else idx(PIXELS))
    assert np.array_equal(read_idx(tmp_path / "file", ndim=3), PIXELS)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("file", b"", "not an IDX file"),
        ("file", idx(PIXELS)[:7], "not an IDX file"),
        ("file", idx(PIXELS)[:-1], "not an IDX file"),
        ("file", idx(PIXELS) + b"\0", "not an IDX file"),
        ("file", b"\0\0\x09" + idx(PIXELS)[3:], "not an IDX file"),
        ("file", idx(PIXELS[0]), "not an IDX file of bytes in 3 dimensions"),
        ("file.gz", idx(PIXELS), "cannot read"),
        ("file.gz", ZIPPED[:-9], "cannot read"),
        ("file.gz", ZIPPED[:10] + b"\xff" * 40, "cannot read"),
        ("other", b"", "missing .*file"),
    ],
)
def test_read_idx_errors(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=said):
        read_idx(tmp_path / "file", ndim=3)


def test_fashion_mnist_of_a_folder(tmp_path):
    for part, count in [("train", 2), ("t10k", 1)]:
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(PIXELS[:count]))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.array([3, 1], np.uint8)[:count]))
    train, val = load_data("fashion-mnist", tmp_path)
    assert (len(train), len(val), train.label(0)) == (2, 1, 3)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(UserError, match="2 pictures but 3 labels in train"):
        fashion_mnist(tmp_path)


# pictures


def gradient(width=32, height=24):
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    return Image.fromarray(np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy())


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png", "ppm", "tif", "webp"])
def test_open_image_accepts(tmp_path, suffix):
    gradient().save(tmp_path / f"a.{suffix}")
    image = open_image(tmp_path / f"a.{suffix}")
    assert (image.mode, image.size) == ("RGB", (32, 24))
    assert (to_tensor(image) - to_tensor(gradient())).abs().max() < 0.1


@pytest.mark.parametrize("suffix", ["eps", "ico", "tga", "sgi", "pdf"])
@pytest.mark.parametrize("disguised", [False, True])
def test_open_image_refuses_other_formats(tmp_path, suffix, disguised):
    gradient().save(tmp_path / f"a.{suffix}")
    path = tmp_path / f"a.{suffix}"
    if disguised:
        path = path.rename(tmp_path / "a.png")
    with pytest.raises(BadImage, match=r"cannot read picture .*: not a picture in BMP, GIF"):
        open_image(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_open_image_gives_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        wide = np.asarray(gradient().convert("L")).astype(np.uint16) * 257
        Image.fromarray(wide).save(path)
    else:
        gradient().convert(mode).save(path)
    with Image.open(path) as stored:
        assert stored.mode == mode
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (32, 24))
    pixels = to_tensor(image)
    assert pixels[:, :, -4:].mean() - pixels[:, :, :4].mean() > 0.7
    if mode != "1":
        assert (pixels - to_tensor(gradient())).abs().max() < 0.2


@pytest.mark.parametrize(("mode", "transparency"), [("P", bytes([0, 9, 255])), ("P", 1), ("L", 0), ("RGB", (0, 0, 0))])
def test_open_image_drops_transparency(tmp_path, mode, transparency):
    gradient().convert(mode).save(tmp_path / "a.png", transparency=transparency)
    image = open_image(tmp_path / "a.png")
    assert image.mode == "RGB"
    assert (to_tensor(image) - to_tensor(gradient())).abs().max() < 0.2


def test_open_image_caps_pixels(tmp_path, monkeypatch):
    gradient().save(tmp_path / "a.png")
    monkeypatch.setattr(_decode, "MAX_PIXELS", 32 * 24)
    open_image(tmp_path / "a.png")
    monkeypatch.setattr(_decode, "MAX_PIXELS", 32 * 24 - 1)
    with pytest.raises(BadImage, match="32x24 exceeds"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png", "ppm", "tif", "webp"])
def test_open_image_refuses_broken_pictures(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    gradient().save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadImage, match=f"a.{suffix}: ."):
        open_image(path)


# folders


@pytest.fixture
def folder(tmp_path):
    for name, count in [("b", 20), ("a", 8), ("c", 2)]:
        (tmp_path / name).mkdir()
        for i in range(count):
            gradient(4, 4).save(tmp_path / name / f"{i:02d}.PNG")
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    return tmp_path


def test_image_folder_holds_out_a_tenth(folder):
    train, val = load_data(str(folder))
    assert train.classes == val.classes == ["a", "b", "c"]
    assert np.bincount(train.labels).tolist() == [7, 18, 1]
    assert np.bincount(val.labels).tolist() == [1, 2, 1]
    assert not set(train.paths) & set(val.paths)
    assert all(train.classes[label] == path.parent.name for path, label in zip(train.paths, train.labels, strict=True))
    again = load_data(str(folder))
    assert (again[0].paths, again[1].paths) == (train.paths, val.paths)


def test_image_folder_passes_by_what_systems_leave(folder):
    (folder / "__MACOSX" / "a").mkdir(parents=True)
    (folder / "a" / ".ipynb_checkpoints").mkdir()
    for left in ("__MACOSX/a/._00.PNG", "a/._00.PNG", "a/.ipynb_checkpoints/00-checkpoint.PNG"):
        (folder / left).write_bytes(b"")
    train, val = load_data(str(folder))
    assert train.classes == ["a", "b", "c"]
    assert len(train) + len(val) == 30


@pytest.mark.parametrize(
    ("first", "other"), [("train", "test"), ("train", "valid"), ("Train", "Val"), ("training", "testing")]
)
def test_parts_are_no_classes(folder, first, other):
    (folder / "b").rename(folder / first)
    (folder / "a").rename(folder / other)
    shutil.rmtree(folder / "c")
    with pytest.raises(UserError, match=rf"has the parts .*; .* --data {folder}/{first} --val-data"):
        load_data(str(folder))
    shutil.rmtree(folder / other)
    with pytest.raises(UserError, match=rf"and no classes; name it: --data {folder}/{first}$"):
        load_data(str(folder))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_of_no_known_range_are_refused(tmp_path, dtype):
    Image.fromarray(np.full((4, 4), 0.5 if dtype is np.float32 else 40000, dtype)).save(tmp_path / "a.tif")
    with pytest.raises(BadImage, match=r"mode [FI] has no known range of values"):
        open_image(tmp_path / "a.tif")


def test_links_are_followed_once(folder, tmp_path):
    (folder / "a" / "more").mkdir()
    gradient(4, 4).save(folder / "a" / "more" / "x.jfif", "JPEG")
    (folder / "c" / "link").symlink_to(folder / "a" / "more")
    (folder / "a" / "more" / "round").symlink_to(folder / "a")
    train, _ = load_parts(str(folder))
    assert np.bincount(train.labels).tolist() == [9, 20, 11]


# order and batches


def names(batches, epoch=0, start=0):
    return [batch["name"] for batch in batches.epoch(epoch, start)]


def images(batches, epoch=0, start=0):
    return torch.cat([batch["image"] for batch in batches.epoch(epoch, start)])


def noisy(picture):
    """A transform that draws from all three sources of random numbers."""
    return to_tensor(picture).mean() + torch.rand(1) + random.random() + np.random.rand()


def test_batches_are_a_function_of_seed_and_epoch(folder):
    train, _ = load_data(str(folder))
    drawn = {}
    for seed in (0, 1):
        for epoch in (0, 1, 2):
            batches = Batches(train, OnImage(noisy), 4, seed=seed)
            drawn[seed, epoch] = images(batches, epoch)
            torch.rand(3)  # whatever else draws does not matter
            assert torch.equal(images(batches, epoch), drawn[seed, epoch])
    assert len({tuple(values.flatten().tolist()) for values in drawn.values()}) == 6


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_go_on_where_they_stopped(folder, workers):
    train, _ = load_data(str(folder))
    whole = images(Batches(train, OnImage(noisy), 4, seed=3), epoch=1)
    with Batches(train, OnImage(noisy), 4, seed=3, workers=workers) as batches:
        assert torch.equal(images(batches, epoch=1, start=2), whole[8:])
        assert torch.equal(images(batches, epoch=1), whole)


def test_processes_share_the_batches_of_one(folder):
    train, _ = load_data(str(folder))
    one = names(Batches(train, OnImage(noisy), 6, seed=0))
    parts = [names(Batches(train, OnImage(noisy), 3, seed=0, rank=rank, world=2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == one


def test_evaluation_sees_every_picture_once(folder):
    train, _ = load_data(str(folder))
    seen = []
    for rank in range(3):
        batches = Batches(train, OnImage(to_tensor), 4, rank=rank, world=3)
        mine = names(batches)
        assert len(mine) == len(batches)
        seen += [name for batch in mine for name in batch]
    assert sorted(seen) == sorted(str(path) for path in train.paths)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_lists_bad_pictures(folder, workers):
    (folder / "c" / "00.PNG").write_text("text")
    train, val = load_data(str(folder))
    part = train if folder / "c" / "00.PNG" in train.paths else val
    with Batches(part, OnImage(to_tensor), 2, workers=workers) as loader:
        batches = list(loader.epoch())
    (bad,) = [message for batch in batches for message in batch["bad"]]
    assert bad.startswith(f"cannot read picture {folder}/c/00.PNG: not a picture")
    labels = torch.cat([batch["label"] for batch in batches])
    assert labels.tolist() == part.labels[:-1]
    assert sum(len(batch["image"]) for batch in batches) == len(part) - 1


def test_training_replaces_a_bad_picture_by_one_of_its_batch(folder):
    train, _ = load_data(str(folder))
    train.paths[5].write_text("text")
    (batch,) = Batches(train, OnImage(to_tensor), len(train), seed=0).epoch()
    assert len(batch["bad"]) == 1
    assert len(batch["image"]) == len(train)
    assert len(set(batch["name"])) == len(train) - 1


def test_evaluation_gives_an_empty_batch_of_bad_pictures_only(folder):
    for path in (folder / "c").iterdir():
        path.write_text("text")
    _, val = load_data(str(folder))
    last = list(Batches(val, OnImage(to_tensor), 1).epoch())[-1]
    assert (last["name"], len(last["bad"])) == ([], 1)


@pytest.mark.parametrize(("batch_size", "shuffled", "batches"), [(8, 3, 4), (26, 1, 1)])
def test_last_partial_batch(folder, batch_size, shuffled, batches):
    train, _ = load_data(str(folder))
    assert len(train) == 26
    assert len(Batches(train, OnImage(to_tensor), batch_size, seed=0)) == shuffled
    assert len(Batches(train, OnImage(to_tensor), batch_size)) == batches


def test_a_batch_larger_than_the_data_says_what_fits(folder):
    train, _ = load_data(str(folder))
    with pytest.raises(UserError, match="larger than the 26 training pictures; --batch-size can be 13 at most"):
        Batches(train, OnImage(to_tensor), 14, seed=0, world=2)


# what is saved


def test_save_model_replaces_the_folder(tmp_path):
    best = tmp_path / "best"
    (tmp_path / "best.writing").mkdir()
    (tmp_path / "best.writing" / "cut").write_text("left by a run that was killed")
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = timm.create_model("test_mat", num_classes=3).eval()
        save_model(model, {"label_names": ["a", "b", "c"]}, best)
        assert [path.name for path in tmp_path.iterdir()] == ["best"]
        loaded = timm.create_model(f"local-dir:{best}", pretrained=True).eval()
        image = torch.rand(1, 3, 32, 32)
        assert torch.equal(loaded(image), model(image))
        (best / "old").write_text("gone with the next")
    save_model(model, {}, best)
    assert not (best / "old").exists()


def test_save_model_keeps_the_old_folder_if_writing_fails(tmp_path, monkeypatch):
    model = timm.create_model("test_mat", num_classes=3)
    save_model(model, {}, tmp_path / "best")
    before = {path.name: path.read_bytes() for path in (tmp_path / "best").iterdir()}

    def full(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("runs.save_file", full)
    with pytest.raises(UserError, match="the one before it is whole: disk full"):
        save_model(model, {}, tmp_path / "best")
    assert {path.name: path.read_bytes() for path in (tmp_path / "best").iterdir()} == before


def test_run_folder_is_never_shared(tmp_path):
    create_run_folder(tmp_path / "a" / "b")
    create_run_folder(tmp_path / "a" / "b")  # as a run leaves it that was killed at once
    (tmp_path / "a" / "b" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="exists; nothing was overwritten"):
        create_run_folder(tmp_path / "a" / "b")
