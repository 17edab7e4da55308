"""Formats of data: decoders, folders, lists, Hugging Face, WebDataset; what they refuse; whence validation comes."""

import importlib
import io
import itertools
import json
import random
import re
import shutil
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from foveal._errors import UserError
from foveal.data import FORMATS, BadImage, Pictures, Stream, _decode, decode_image, decoder, load_data, load_split
from foveal.data._pictures import class_order

shards_format = importlib.import_module("foveal.data.webdataset")  # whose name in foveal.data is the function's


def noise(width=40, height=30, seed=0, mode="RGB"):
    """A smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flat(value):
    """A small PNG of one colour, by which it can be told."""
    return encoded(Image.new("RGB", (2, 2), (value, 0, 0)), "PNG")


def value(picture):
    return picture.getpixel((0, 0))[0]


def values(pictures):
    return [value(pictures.picture(index)) for index in range(len(pictures))]


def labels(pictures):
    return [pictures.label(index) for index in range(len(pictures))]


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        path.write_text(data, encoding="utf-8")
    return path


# decoders

DECODERS = {decoder.name.split()[0]: decoder for decoder in _decode.decoders()}
FAST = ("torchcodec", "simplejpeg")


def decode(data, name):
    return _decode.decode(io.BytesIO(data), "picture", DECODERS[name])


def test_the_best_decoder_is_used_and_named():
    assert list(DECODERS) == ["torchcodec", "simplejpeg", "pillow"]
    assert decoder() == DECODERS["torchcodec"].name
    assert decoder().split()[1][0].isdigit()


@pytest.mark.parametrize("missing", [("torchcodec",), ("torchcodec", "simplejpeg")])
def test_decoders_that_are_missing_are_left_out(monkeypatch, missing):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    assert [found.name.split()[0] for found in _decode.decoders()] == [name for name in DECODERS if name not in missing]


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize("progressive", [False, True])
def test_decoders_agree_on_jpeg(name, mode, subsampling, progressive):
    for size in [(40, 30), (33, 17), (7, 5), (1, 1)]:
        data = encoded(noise(*size, mode=mode), subsampling=subsampling, progressive=progressive)
        image, reference = decode(data, name), decode(data, "pillow")
        assert (image.mode, image.size) == ("RGB", size)
        difference = np.abs(np.asarray(image, int) - np.asarray(reference, int))  # 0 with the same libjpeg-turbo
        assert difference.mean() < 0.5
        assert difference.max() <= 8


@pytest.mark.parametrize("lossless", [False, True])
def test_decoders_agree_on_webp(lossless):
    data = encoded(noise(33, 17), "WEBP", lossless=lossless)
    difference = np.asarray(decode(data, "torchcodec"), int) - np.asarray(decode(data, "pillow"), int)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "CMYK", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {"save_all": True, "append_images": [noise(seed=1)]}),
        ("PNG", "P", {}),
        ("PNG", "RGB", {"transparency": (0, 0, 0)}),
        ("GIF", "P", {}),
        ("TIFF", "RGB", {}),
        ("BMP", "RGB", {}),
    ],
)
def test_what_the_fast_decoders_do_not_take_is_decoded_by_pillow(name, kind, mode, options):
    data = encoded(noise(mode=mode), kind, **options)
    assert decode(data, name).tobytes() == decode(data, "pillow").tobytes()


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_decoder_refuses_cut_pictures(name, kind, progressive):
    data = encoded(noise(), kind, progressive=progressive)
    for kept in (len(data) - 3, len(data) // 2, 40):
        with pytest.raises(BadImage, match=r"cannot read picture picture: ([^/]+|not a picture.*)$"):
            decode(data[:kept], name)


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_refuses_a_jpeg_that_ends_in_zeros(name):
    data = encoded(noise())
    with pytest.raises(BadImage):
        decode(data[: len(data) // 2] + bytes(len(data) // 2), name)


@pytest.mark.parametrize("name", DECODERS)
def test_a_thumbnail_does_not_pass_for_the_end_of_a_picture(name):
    exif = b"Exif\0\0" + encoded(noise(8, 8))
    data = encoded(noise(), exif=exif)
    decode(data, name)
    with pytest.raises(BadImage):
        decode(data[:-40], name)


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_repairs_what_pillow_repairs(name):
    data = encoded(noise(), progressive=True)
    assert decode(data[:-2] + bytes(4) + data[-2:], name).tobytes() == decode(data, name).tobytes()


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("progressive", [False, True])
def test_decoders_agree_on_damaged_scans(name, progressive):
    def outcome(data, name):
        try:
            return decode(data, name).tobytes()
        except BadImage:
            return "bad"

    data = encoded(noise(200, 150), progressive=progressive)
    draw = random.Random(0)
    outcomes = []
    for _ in range(80):
        damaged = bytearray(data)
        damaged[draw.randrange(data.index(b"\xff\xda"), len(data))] = draw.randrange(256)
        outcomes.append(outcome(damaged, "pillow"))
        assert outcome(damaged, name) == outcomes[-1]
    assert "bad" in outcomes
    assert len(set(outcomes)) > 40


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_the_orientation_in_exif_is_ignored(name, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(noise(40, 30), kind, exif=exif), name).size == (40, 30)


@pytest.mark.parametrize("name", DECODERS)
def test_pixels_are_capped_before_they_are_decoded(monkeypatch, name):
    def never(data):
        raise AssertionError("decoded")

    refusing = _decode.Decoder(name, dict.fromkeys(DECODERS[name].formats, never))
    monkeypatch.setattr(_decode, "MAX_PIXELS", 40 * 30 - 1)
    with pytest.raises(BadImage, match="40x30 exceeds"):
        _decode.decode(io.BytesIO(encoded(noise())), "picture", refusing)


def test_bytes_are_decoded_under_a_name():
    assert decode_image(encoded(noise()), "a").size == (40, 30)
    with pytest.raises(BadImage, match=r"cannot read picture 0001 in a.tar: not a picture"):
        decode_image(b"text", "0001 in a.tar")


# folders


def draw(root, classes, count=2):
    for number, name in enumerate(classes):
        for index in range(count):
            write(root / name / f"{index}.png", flat(10 * number + index))


def test_class_folders_of_numbers_are_ordered_as_numbers(tmp_path):
    draw(tmp_path, ["10", "9", "0", "100"])
    found = load_split(str(tmp_path))
    assert found.classes == ["0", "9", "10", "100"]
    assert labels(found) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found.name(2) == str(tmp_path / "9" / "0.png")
    assert class_order(["10", "9", "a"]) == ["10", "9", "a"]
    assert class_order(["1", "01", "1"]) == ["01", "1"]


def test_a_split_is_the_validation_part_or_everything(tmp_path):
    draw(tmp_path / "both" / "train", "ab", 3)
    draw(tmp_path / "both" / "val", "ab", 1)
    draw(tmp_path / "one", "ab", 4)
    assert len(load_split(str(tmp_path / "both"))) == 2
    assert len(load_split(str(tmp_path / "one"))) == 8
    assert [len(part) for part in load_data(str(tmp_path / "both"))] == [6, 2]
    assert [len(part) for part in load_data(str(tmp_path / "one"))] == [6, 2]


def test_a_flat_folder_has_pictures_without_labels(tmp_path):
    for name in ("b", "a", "c"):
        write(tmp_path / "flat" / f"{name}.png", flat(ord(name)))
    found = load_split(str(tmp_path / "flat"))
    assert (found.classes, labels(found), values(found)) == ([], [-1] * 3, [97, 98, 99])
    with pytest.raises(UserError, match=r"flat has no class folders; expected .*flat/CLASS/PICTURE"):
        load_data(str(tmp_path / "flat"))
    draw(tmp_path / "classes", "ab")
    with pytest.raises(UserError, match="flat has no class folders"):
        load_data(str(tmp_path / "classes"), val=str(tmp_path / "flat"))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no pictures"):
        load_split(str(tmp_path))
    with pytest.raises(UserError, match="has no class folders"):
        load_data(str(tmp_path))


# lists


@pytest.fixture
def listed(tmp_path):
    """A folder of a.png ... f.png, whose values are 0 to 5."""
    for number, name in enumerate("abcdef"):
        write(tmp_path / "pictures" / f"{name}.png", flat(number))
    return tmp_path


def as_list(file, rows, keys=("image", "label", "split")):
    rows = [dict(zip(keys, row)) for row in rows]
    if file.suffix == ".jsonl":
        return write(file, "".join(json.dumps(row) + "\n" for row in rows))
    lines = [",".join(rows[0])] + [",".join(str(cell) for cell in row.values()) for row in rows]
    return write(file, "\n".join(lines))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_list_with_splits(listed, suffix):
    rows = [
        (f"pictures/{name}.png", label, split)
        for name, label, split in zip("abcd", [10, 9, 10, 9], ["train", "val"] * 2)
    ]
    file = as_list(listed / f"list{suffix}", rows)
    train, val = load_data(str(file))
    assert train.classes == val.classes == ["9", "10"]
    assert (values(train), labels(train)) == ([0, 2], [1, 1])
    assert (values(val), labels(val)) == ([1, 3], [0, 0])
    assert val.name(0) == str(listed / "pictures" / "b.png")
    assert values(load_split(str(file))) == [1, 3]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("keys", [("path", "class"), ("filename", "label")])
def test_a_list_without_splits_holds_out_a_tenth(listed, suffix, keys):
    file = as_list(listed / f"list{suffix}", [(f"pictures/{name}.png", "xy"[name > "c"]) for name in "abcdef"], keys)
    train, val = load_data(str(file))
    assert (train.classes, labels(train), labels(val)) == (["x", "y"], [0, 0, 1, 1], [0, 1])
    assert sorted(values(train) + values(val)) == [0, 1, 2, 3, 4, 5]
    assert values(load_split(str(file))) == [0, 1, 2, 3, 4, 5]


def test_a_class_of_one_picture_cannot_be_divided(listed):
    file = as_list(listed / "list.csv", [("pictures/a.png", "x"), ("pictures/b.png", "x"), ("pictures/c.png", "y")])
    with pytest.raises(UserError, match=r"list.csv: class y needs two pictures, one to train and one to validate"):
        load_data(str(file))


def test_a_list_of_absolute_paths_and_quotes(listed):
    file = write(listed / "sub" / "list.csv", f'\ufefflabel,extra,image\n"a, b",,"{listed}/pictures/c.png"\n')
    found = load_split(str(file))
    assert (found.classes, values(found)) == (["a, b"], [2])


def test_a_missing_picture_of_a_list_is_found_when_opened(listed):
    found = load_split(str(as_list(listed / "list.csv", [("none.png", "x")])))
    with pytest.raises(BadImage, match=r"none.png: no such file"):
        found.picture(0)
    with pytest.raises(UserError, match="line 1: image has a null character"):
        load_split(str(write(listed / "list.jsonl", '{"image": "a\\u0000", "label": "x"}')))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "", "a.csv line 1: has only nothing; expected one of image, path, filename"),
        ("a.csv", "label,x\n", "a.csv line 1: has only label, x; expected one of image, path, filename"),
        ("a.csv", "image,x\n", "a.csv line 1: has only image, x; expected one of label, class"),
        ("a.csv", "image,path,label\n", "a.csv line 1: has both image and path; expected one of"),
        ("a.csv", "image,label,label\n", "a.csv line 1: a column comes twice"),
        ("a.csv", "image,label\n", "a.csv lists no pictures"),
        ("a.csv", "image,label\na.png,x\nb.png,\n", "a.csv line 3: label is empty"),
        ("a.csv", "image,label\na.png\n", "a.csv line 2: label is empty"),
        ("a.csv", "image,label\n ,x\n", "a.csv line 2: image is empty"),
        ("a.csv", "image,label\na.png,x,y\n", "a.csv line 2: more values than the 2 columns"),
        ("a.csv", "image,label,split\na.png,x,test\n", "a.csv line 2: split 'test'; expected train or val"),
        ("a.csv", 'image,label\n"a.png,x\n', "a.csv line 2: "),
        ("a.csv", b"image,label\n\xff,x\n", "cannot read .*a.csv: 'utf-8' codec"),
        ("a.jsonl", '{"image": "a", "label": "x"}\n\n{"image": \n', "a.jsonl line 3: not JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl line 1: not an object like"),
        ("a.jsonl", '{"image": "a"}\n', "a.jsonl line 1: has only image; expected one of label, class"),
        ("a.jsonl", '{"image": "a", "label": null}\n', "a.jsonl line 1: label is empty or no text"),
        ("a.jsonl", '{"image": "a", "label": true}\n', "a.jsonl line 1: label is empty or no text"),
        ("a.jsonl", '{"image": ["a"], "label": 1}\n', "a.jsonl line 1: image is empty or no text"),
        ("a.jsonl", '{"image": "a", "label": 1, "split": "dev"}\n', "a.jsonl line 1: split 'dev'"),
        ("a.jsonl", '{"image": "\\ud800.png", "label": 1}\n', "a.jsonl line 1: image has half of a character"),
        ("a.jsonl", "", "a.jsonl lists no pictures"),
        ("b.csv", None, "cannot read .*b.csv: No such file"),
    ],
)
def test_a_malformed_list_is_refused(tmp_path, name, text, said):
    if text is not None:
        write(tmp_path / name, text)
    with pytest.raises(UserError, match=said):
        load_split(str(tmp_path / name))


def test_a_list_of_validation_alone_does_not_train(listed):
    file = as_list(listed / "list.csv", [("pictures/a.png", "x", "val")])
    assert len(load_split(str(file))) == 1
    with pytest.raises(UserError, match=r"list.csv has no training pictures"):
        load_data(str(file))


# Hugging Face


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def table(numbers, labels, **more):
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])}
        | {name: feature for name, (feature, _) in more.items()}
    )
    rows = {"picture": [{"bytes": flat(number), "path": None} for number in numbers], "kind": labels}
    return datasets.Dataset.from_dict(rows | {name: column for name, (_, column) in more.items()}, features=features)


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.mark.parametrize("split", ["validation", "val", "test"])
def test_a_saved_data_set_with_splits(tmp_path, split):
    parts = {"train": table([1, 2], [1, 0]), split: table([3], [1])}
    if split == "val":
        parts["test"] = table([9], [-1])
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    train, val = load_data(f"hf:{tmp_path}/saved")
    assert train.classes == ["cat", "dog"]
    assert (values(train), labels(train)) == ([1, 2], [1, 0])
    assert (values(val), labels(val)) == ([3], [1])
    assert val.name(0) == f"row 0 of hf:{tmp_path}/saved ({split})"
    assert values(load_split(f"hf:{tmp_path}/saved")) == [3]


def test_a_saved_data_set_without_splits_holds_out_a_tenth(tmp_path):
    table(range(10), [0, 1] * 5, text=(datasets.Value("string"), list("abcdefghij"))).save_to_disk(tmp_path / "saved")
    train, val = load_data(f"hf:{tmp_path}/saved")
    assert sorted(values(train) + values(val)) == list(range(10))
    assert (len(val), sorted(labels(val))) == (2, [0, 1])
    assert val.name(0) == f"row {value(val.picture(0))} of hf:{tmp_path}/saved (train)"


@pytest.mark.parametrize("as_folder", [False, True])
def test_parquet(tmp_path, as_folder):
    (tmp_path / "data").mkdir()
    table([1, 2], [0, 1]).to_parquet(tmp_path / "data" / "train.parquet")
    name = f"hf:{tmp_path}/data" if as_folder else f"hf:{tmp_path}/data/train.parquet"
    assert (values(load_split(name)), labels(load_split(name))) == ([1, 2], [0, 1])


def test_an_image_folder_of_the_library(tmp_path):
    draw(tmp_path / "data" / "train", ["x", "y"])
    train, val = load_data(f"hf:{tmp_path}/data")
    assert (train.classes, labels(train), labels(val)) == (["x", "y"], [0, 1], [0, 1])
    assert sorted(values(train) + values(val)) == [0, 1, 10, 11]
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(BadImage, match=r"cannot read picture .*/train/x/\d.png: no such file"):
        train.picture(0)


def test_broken_pictures_of_a_table_are_named(tmp_path):
    rows = {
        "picture": [{"bytes": b"text", "path": None}, {"bytes": flat(5), "path": None}, None],
        "kind": [0, None, -1],
    }
    found = datasets.Dataset.from_dict(rows, features=table([1], [0]).features)
    found.save_to_disk(tmp_path / "saved")
    pictures = load_split(f"hf:{tmp_path}/saved")
    for index, said in [(0, "row 0 of .*: not a picture"), (2, "row 2 of .*: no picture")]:
        with pytest.raises(BadImage, match=said):
            pictures.picture(index)
    assert labels(pictures) == [0, -1, -1]
    with pytest.raises(UserError, match="saved has pictures without a class"):
        load_data(f"hf:{tmp_path}/saved")


@pytest.mark.parametrize(
    ("more", "dropped", "said"),
    [
        ({"fine": (datasets.ClassLabel(names=["a"]), [0])}, [], "2 columns of type ClassLabel.*kind.*fine"),
        ({}, ["kind"], r"0 columns of type ClassLabel.*: picture \(Image\)"),
        ({"mask": (datasets.Image(), [None])}, [], "2 columns of type Image"),
        ({}, ["picture"], "0 columns of type Image"),
    ],
)
def test_columns_must_be_plain(tmp_path, more, dropped, said):
    table([1], [0], **more).remove_columns(dropped).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=said):
        load_split(f"hf:{tmp_path}/saved")


def test_other_splits_are_refused(tmp_path):
    datasets.DatasetDict(extra=table([1], [0])).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match="has the splits extra; expected train or validation"):
        load_split(f"hf:{tmp_path}/saved")


def test_what_the_library_does_not_open_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot open hf:.*none: "):
        load_split(f"hf:{tmp_path}/none")


def test_without_the_library_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install foveal\[datasets\]"):
        load_data("hf:cifar10")


# WebDataset


def shard(path, records):
    """Write {member: bytes}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in records.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def records(numbers):
    """Two members a number; label number % 3."""
    found = {}
    for number in numbers:
        found |= {f"k{number:03d}.png": flat(number), f"k{number:03d}.cls": f"{number % 3}\n".encode()}
    return found


@pytest.fixture
def shards(tmp_path):
    """Samples 0 to 25 in shards of 7, 6, 7 and 6."""
    write(tmp_path / "shards" / "classes.txt", "a\nb\nc\n")
    numbers = iter(range(26))
    for index, count in enumerate([7, 6, 7, 6]):
        shard(tmp_path / "shards" / f"train-{index:04d}.tar", records(itertools.islice(numbers, count)))
    return f"{tmp_path}/shards/train-{{0000..0003}}.tar"


def read(stream, worker=0, workers=1, seed=None, epoch=0, skip=0, count=None):
    found = stream.samples(worker, workers, seed=seed, epoch=epoch, skip=skip)
    return list(itertools.islice(found, count))


def numbers(samples):
    return [int(sample.name[1:4]) for sample in samples]


def test_shards_give_their_samples(shards):
    stream = load_split(shards)
    assert isinstance(stream, Stream)
    assert (len(stream), stream.classes) == (26, ["a", "b", "c"])
    samples = read(stream)
    assert [value(sample.sample()["image"]) for sample in samples] == list(range(26))
    assert [sample.label for sample in samples] == [number % 3 for number in range(26)]
    assert samples[9].name == f"k009 in {shards.replace('{0000..0003}', '0001')}"


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 9])
def test_evaluation_reads_every_sample_once_over_all_workers(shards, workers):
    shares = [numbers(read(load_split(shards), worker, workers)) for worker in range(workers)]
    assert sorted(itertools.chain(*shares)) == list(range(26))
    assert all(share == sorted(share) for share in shares)


@pytest.mark.parametrize("workers", [1, 2, 4, 5])
def test_training_reads_every_sample_once_a_turn(shards, workers):
    shares = [read(load_split(shards), worker, workers, seed=3, count=6) for worker in range(workers)]
    found = numbers(itertools.chain(*shares))
    assert len(set(found)) >= min(26, 6 * workers) - 4  # shares of 5 or 6 go round again
    turn = numbers(read(load_split(shards), seed=3, count=78))
    assert [sorted(turn[i : i + 26]) for i in (0, 26, 52)] == [list(range(26))] * 3
    assert len({tuple(turn[i : i + 26]) for i in (0, 26, 52)}) == 3


@pytest.mark.parametrize("workers", [1, 2, 6])
def test_the_order_is_a_function_of_seed_epoch_and_worker(shards, workers):
    def order(seed, epoch, worker):
        return tuple(numbers(read(load_split(shards), worker, workers, seed=seed, epoch=epoch, count=20)))

    keys = list(itertools.product((0, 1), (0, 1, 2), range(workers)))
    drawn = {}
    for key in keys:
        random.seed(len(drawn))  # whatever else draws does not matter
        drawn[key] = order(*key)
    assert len(set(drawn.values())) == len(keys)
    assert drawn == {key: order(*key) for key in keys}


@pytest.mark.parametrize("workers", [1, 3, 6])
@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("buffer", [4, 1000])
def test_skipped_samples_are_those_that_came_first(shards, monkeypatch, workers, seed, buffer):
    monkeypatch.setattr(shards_format, "BUFFER", buffer)
    stream = load_split(shards)
    for worker in range(workers):
        whole = read(stream, worker, workers, seed, epoch=2, count=60)
        for skip in (1, 3, 27):
            assert read(stream, worker, workers, seed, epoch=2, skip=skip, count=60 - skip) == whole[skip:]


def test_skipped_samples_are_not_decoded(shards, monkeypatch):
    monkeypatch.setattr(_decode, "decode", lambda *_: pytest.fail("decoded"))
    assert len(read(load_split(shards), seed=1, skip=30, count=5)) == 5


def test_the_shuffle_buffer_bounds_memory(shards, monkeypatch):
    monkeypatch.setattr(shards_format, "BUFFER", 3)
    taken = itertools.count()
    source = (next(taken) for _ in range(100))
    shuffled = shards_format._shuffled(source, random.Random(0))
    for given in range(1, 90):
        next(shuffled)
        assert next(taken) - given <= 5 + given  # next(taken) itself counts


@pytest.fixture
def index(shards, tmp_path):
    entries = [{"url": f"shards/train-{i:04d}.tar", "nsamples": count} for i, count in enumerate([7, 6, 7, 6])]
    return write(tmp_path / "index.json", json.dumps({"wids_version": 1, "shardlist": entries}))


def test_an_index_names_shards_beside_it(index):
    assert numbers(read(load_split(str(index)))) == list(range(26))
    write(index.parent / "classes.json", '["x", "y", "z"]')
    assert (load_split(str(index)).classes, len(load_split(str(index)))) == (["x", "y", "z"], 26)


ENTRY = {"url": "shards/train-0000.tar", "nsamples": 7}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "index.json is not JSON"),
        ("[]", 'is no index of shards; expected {"wids_version": 1'),
        ({"wids_version": 2, "shardlist": [ENTRY]}, "is no index of shards"),
        ({"wids_version": 1, "shardlist": []}, "is no index of shards"),
        ({"wids_version": 1, "shardlist": [ENTRY, {"url": "a.tar"}]}, "shard 2 has no url or no nsamples"),
        ({"wids_version": 1, "shardlist": [ENTRY | {"nsamples": True}]}, "shard 1 has no url or no nsamples"),
        ({"wids_version": 1, "shardlist": [ENTRY | {"nsamples": -1}]}, "shard 1 has no url or no nsamples"),
        ({"wids_version": 1, "shardlist": ["a.tar"]}, "shard 1 has no url or no nsamples"),
        ({"wids_version": 1, "shardlist": [ENTRY | {"url": "none.tar"}]}, "no such shard: .*none.tar"),
        ({"wids_version": 1, "shardlist": [ENTRY | {"url": "pipe:touch x"}]}, "expected a file, http:// or https://"),
    ],
)
def test_a_malformed_index_is_refused(index, content, said):
    write(index, content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=said):
        load_split(str(index))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none/train-{0..1}.tar", "cannot read shard .*none/train-0.tar: No such file"),
        ("train-{0..1.tar", "a pattern is like shards/train-{0000..0009}.tar"),
        ("none.json", "no such file: .*none.json"),
    ],
)
def test_missing_shards_are_refused(tmp_path, name, said):
    with pytest.raises(UserError, match=said):
        load_split(f"{tmp_path}/{name}")


def test_remote_shards_need_an_index():
    with pytest.raises(UserError, match="does not say how many samples it has; give an index"):
        load_split("https://example.org/train-{0..3}.tar")
    with pytest.raises(UserError, match="does not say how many samples it has; give an index"):
        load_split("http://[x.tar")
    with pytest.raises(UserError, match="expected a file, http:// or https://"):
        load_split("pipe:cat train-{0..3}.tar")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("classes.json", "{}", "is no list of class names"),
        ("classes.json", "[1]", "is no list of class names"),
        ("classes.json", "[", "is not JSON"),
        ("classes.json", "[" * 100_000, "is not JSON: maximum recursion depth"),
        ("classes.txt", "a\n\nb", "is no list of class names"),
        ("classes.txt", "a\nb\na\n", "has the same class twice: a"),
        ("other", "", "needs the names of its classes: classes.json or classes.txt in .*shards"),
    ],
)
def test_malformed_class_names_are_refused(shards, name, content, said):
    folder = Path(shards).parent
    (folder / "classes.txt").unlink()
    write(folder / name, content)
    with pytest.raises(UserError, match=said):
        load_split(shards)


def bad(samples):
    """Messages of the broken ones."""
    found = []
    for sample in samples:
        try:
            sample.sample()
        except BadImage as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize(
    ("member", "data", "said"),
    [
        ("k001.cls", None, r"k001 in .*0000.tar: no class \(.cls\)"),
        ("k001.cls", b"3", "k001 in .*0000.tar: class '3', expected 0 to 2"),
        ("k001.cls", b"-1", "class '-1', expected 0 to 2"),
        ("k001.cls", b"\xff", "expected 0 to 2"),
        ("k001.png", None, "k001 in .*0000.tar: 0 pictures"),
        ("k001.jpg", b"", "k001 in .*0000.tar: 2 pictures"),
        ("k001.png", b"text", "k001 in .*0000.tar: not a picture"),
    ],
)
def test_a_broken_record_is_named_and_passed_over(shards, member, data, said):
    changed = records(range(7)) | {member: data}
    names = sorted(changed)
    shard(
        Path(shards.replace("{0000..0003}", "0000")),
        {name: changed[name] for name in names if changed[name] is not None},
    )
    stream = load_split(shards)
    samples = read(stream)
    (message,) = bad(samples)
    assert message.startswith("cannot read picture ")
    assert re.search(said, message)
    assert (numbers(samples), len(stream)) == (list(range(26)), 26)


def cut(data, at):
    return data[:at]


def damaged_header(data, at):
    return data[:at] + b"\xff" * 512 + data[at + 512 :]


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(
    ("damage", "at"),
    [(cut, 0)]
    + [(cut, 3 * 2048 + more) for more in (0, 100, 600, 1024, 1100, 1600)]
    + [(damaged_header, 0), (damaged_header, 3 * 2048), (damaged_header, 3 * 2048 + 1024)],
)
def test_reading_goes_on_behind_a_broken_shard(shards, index, indexed, damage, at):
    """A sample takes 2048 bytes: header and picture, header and class, of 512 bytes each."""
    file = Path(shards.replace("{0000..0003}", "0001"))
    whole = file.read_bytes()
    file.write_bytes(damage(whole, at))
    stream = load_split(str(index) if indexed else shards)
    samples = read(stream)
    broken = bad(samples)
    assert 1 <= len(broken) <= 2  # a record may lack its class
    assert all("train-0001.tar: " in message for message in broken)
    good = [sample for sample in samples if not sample.broken]
    assert numbers(good) == [n for n in range(26) if n < 7 + at // 2048 or n >= 13]
    if not indexed:
        assert len(stream) >= len(good) + 1
    assert len(bad(read(stream, seed=0, count=3 * len(samples)))) == 3 * len(broken)


def test_fewer_samples_than_workers_are_refused(tmp_path):
    write(tmp_path / "classes.txt", "a\nb\nc\n")
    shard(tmp_path / "a.tar", records(range(2)))
    stream = load_split(str(tmp_path / "a.tar"))
    assert read(stream, 2, 3) == []
    with pytest.raises(UserError, match="2 samples in shards are too few for 3 workers"):
        read(stream, 2, 3, seed=0)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads remote shards by curl")
def test_remote_shards(index, server):
    content = json.loads(index.read_text())
    for entry in content["shardlist"]:
        entry["url"] = f"{server}/{entry['url']}"
    content["shardlist"][1]["url"] = f"{server}/none.tar"
    write(index, json.dumps(content))
    with pytest.raises(UserError, match=r"classes.json or classes.txt in \S+$"):
        load_split(str(index))
    write(index.parent / "classes.txt", "a\nb\nc")
    samples = read(load_split(str(index)))
    assert numbers(sample for sample in samples if not sample.broken) == [*range(7), *range(13, 26)]
    (message,) = bad(samples)
    assert message == f"cannot read picture {server}/none.tar: curl failed with status 22"
    assert len(read(load_split(str(index)), seed=0, count=2)) == 2  # and stops the download


def test_remote_shards_need_curl(index, monkeypatch):
    write(index, json.dumps({"wids_version": 1, "shardlist": [{"url": "https://example.org/a.tar", "nsamples": 1}]}))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="needs the program curl"):
        load_split(str(index))


def test_without_the_package_its_extra_is_named(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    monkeypatch.setitem(sys.modules, "webdataset.tariterators", None)
    with pytest.raises(UserError, match=r"pip install foveal\[webdataset\]"):
        load_split(shards)


# where validation comes from


def test_shards_need_a_source_of_validation(shards, tmp_path):
    with pytest.raises(UserError, match="has no validation part; --val-data names one"):
        load_data(shards)
    draw(tmp_path / "folder", "abc", 1)
    train, val = load_data(shards, val=str(tmp_path / "folder"))
    assert isinstance(train, Stream)
    assert isinstance(val, Pictures)
    train, val = load_data(shards, val=shards)
    assert len(val) == 26


def test_a_source_of_validation_replaces_what_the_data_has(tmp_path):
    draw(tmp_path / "data" / "train", "ab", 3)
    draw(tmp_path / "data" / "val", "ab", 1)
    draw(tmp_path / "other", "ab", 5)
    train, val = load_data(str(tmp_path / "data"), val=str(tmp_path / "other"))
    assert (len(train), len(val)) == (6, 10)
    train, val = load_data(str(tmp_path / "other"), val=str(tmp_path / "data"))
    assert (len(train), len(val)) == (10, 2)  # nothing is held out


def test_classes_of_both_sources_must_be_the_same(tmp_path):
    draw(tmp_path / "a", ["x", "y", "z"])
    draw(tmp_path / "b", ["x", "y", "w"])
    with pytest.raises(UserError, match=r"a and .*b differ in their classes: w, z$"):
        load_data(str(tmp_path / "a"), val=str(tmp_path / "b"))
    draw(tmp_path / "c", [f"{number:02d}" for number in range(12)])
    with pytest.raises(UserError, match=r"00, 01, 02, 03, 04, 05, 06, 07 and 7 more$"):
        load_data(str(tmp_path / "a"), val=str(tmp_path / "c"))


def test_a_named_set_is_its_test_part_in_evaluation():
    assert len(load_split("fashion")) == 2000
    assert load_split("fashion").name(3) == "picture 3 of 2000 of Fashion-MNIST"


@pytest.mark.parametrize("name", ["fasion", "hf", "a.txt", "train"])
def test_unknown_names_are_refused(name):
    with pytest.raises(UserError, match=f"unknown data set or folder '{name}'; nearest: "):
        load_split(name)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_name_that_is_too_long_is_refused(kind):
    with pytest.raises(UserError, match=r"^cannot read a{300}(/images)?: File name too long$"):
        load_split("a" * 300, kind=kind)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "hf:a", "a.tar", "a.json", "a/b"])
def test_root_is_for_named_sets(tmp_path, name):
    with pytest.raises(UserError, match=f"--root has no effect on {name}; it is for fashion, fashion-mnist"):
        load_split(name, tmp_path)
