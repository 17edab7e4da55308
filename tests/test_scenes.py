"""The built-in scenes: the same everywhere, marked right, and validated on garments that were not trained on."""

import hashlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchvision.ops import masks_to_boxes

from foveal._errors import UserError
from foveal.data.fashion_mnist import BUILT_IN, fashion_mnist
from foveal.data.scenes import CUT, Garments, compose, scene_masks, scenes

NUMBERS = [0, 1, 17, 199]
DIGEST = "e384eb522dc54609da6e5e8a9305adbbb6e9508d94fcc6af6950477eb8874bb2"


def digest(part: int, numbers: list[int]) -> dict[int, str]:
    """Hashes of some scenes, by their numbers."""
    data, found = scenes("scenes")[part], {}
    for number in numbers:
        target = data.annotation(number)["target"]
        content = [np.asarray(data.picture(number)), target["labels"], *target["segmentations"]]
        found[number] = hashlib.sha256(b"".join(array.tobytes() for array in content)).hexdigest()
    return found


def test_scenes_are_the_same_in_any_order_and_process():
    here = digest(0, NUMBERS)
    assert len(set(here.values())) == len(NUMBERS)
    assert digest(0, NUMBERS[::-1]) == here
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(digest, 0, [17, 0]).result() == {number: here[number] for number in (17, 0)}


def test_scenes_are_the_same_on_every_machine():
    whole = "".join(digest(part, NUMBERS)[number] for part in (0, 1) for number in NUMBERS)
    assert hashlib.sha256(whole.encode()).hexdigest() == DIGEST


def test_number_and_subset_do_not_change_a_scene():
    few, many = scenes("scenes:20")[0], scenes("scenes:300")[0]
    some = many.subset([250, 17])
    assert (len(few), len(many), len(some)) == (20, 300, 2)
    assert few.picture(17).tobytes() == some.picture(1).tobytes() == many.picture(17).tobytes()
    assert some.subset([1]).name(0) == "scene 17"
    assert some.annotation(0)["target"]["image_id"] == 250


def test_parts_show_other_garments():
    for data, part in zip(scenes("scenes"), fashion_mnist(BUILT_IN), strict=True):
        assert np.array_equal(data.garments.pictures, part.pictures)
        assert np.array_equal(data.garments.labels, part.labels)
    train, val = ({picture.tobytes() for picture in data.garments.pictures} for data in scenes("scenes"))
    assert len(train & val) == 0
    assert digest(0, [3]) != digest(1, [3])


@pytest.mark.parametrize("name", ["scenes:100", "scenes:100x200"])
def test_boxes_and_masks_agree(name):
    data, semantics = scenes(name)[0], scene_masks(name)[0]
    assert semantics.classes == ["background", *data.classes]
    counts, labels = set(), set()
    for index in range(60):
        target = data.annotation(index)["target"]
        masks = torch.from_numpy(np.stack(target["segmentations"]))
        assert masks.dtype == torch.bool
        assert masks.shape[1:] == data.size == data.picture(index).size[::-1]
        assert masks.sum(0).max() == 1, "two objects share a pixel"
        assert torch.equal(torch.from_numpy(target["boxes"]), masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1]))
        assert torch.equal(torch.from_numpy(target["area"]), masks.flatten(1).sum(1).float())
        assert target["labels"].dtype == np.int64
        assert not target["crowd"].any()
        semantic = semantics.annotation(index)["mask"]
        assert semantic.dtype == np.uint8
        assert np.array_equal(semantic, (masks * torch.from_numpy(target["labels"] + 1)[:, None, None]).sum(0).numpy())
        counts.add(len(masks))
        labels |= set(target["labels"].tolist())
    assert counts == {1, 2, 3, 4, 5}
    assert labels == set(range(10))


def test_masks_are_where_the_objects_are():
    """Garments that are white squares have one colour each, and half of each square is seen."""
    white = np.full((1, 28, 28), 255, np.uint8)
    garments, covered = Garments(white, white > 0, np.array([4])), 0
    for seed in range(60):
        scene = compose(garments, (64, 80), np.random.RandomState(seed))
        for mask in scene.masks:
            inside: Any = ndimage.binary_erosion(mask)
            assert len(np.unique(scene.picture[inside], axis=0)) == 1
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
            covered += mask.sum() < side * side
            assert mask.sum() >= 0.5 * side * side
    assert covered > 10, "nothing covers anything"


def test_garments_are_cut_out_without_holes():
    garments = scenes("scenes")[1].garments
    for picture, mask in zip(garments.pictures[::20], garments.masks[::20], strict=True):
        filled: Any = ndimage.binary_fill_holes(picture > CUT)
        assert np.array_equal(mask, filled)


def test_sizes():
    train, val = scenes("scenes")
    assert (len(train), len(val), train.size) == (2000, 200, (128, 160))
    assert train.classes == val.classes
    assert train.category_ids == list(range(1, 11))
    assert (train.has_masks, train.problems) == (True, [])
    train, val = scenes("scenes:4x64")
    assert (len(train), len(val), val.size) == (4, 1, (64, 80))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scene", "expected scenes, scenes:COUNT or scenes:COUNTxHEIGHT"),
        ("scenes:", "expected scenes, scenes:COUNT"),
        ("scenes:-3", "expected scenes, scenes:COUNT"),
        ("scenes:10x", "expected scenes, scenes:COUNT"),
        ("scenes:10x64x64", "expected scenes, scenes:COUNT"),
        ("scenes:0", "scenes:0 has no picture; expected a number above 0"),
        ("scenes:10x8", "height of scenes must be in 32..2048, got 8"),
        ("scenes:10x4096", "height of scenes must be in 32..2048, got 4096"),
    ],
)
def test_malformed_names_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        scenes(name)
