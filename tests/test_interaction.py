"""Interaction strength against functions whose interactions are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from conftest import PEERS, TINY
from foveal._errors import UserError
from foveal.analysis import Setting, interaction
from foveal.analysis.interaction import Masked, Sampling, interactions, log_odds, neighbours

SMALL = Sampling(grid=4, orders=15, pairs=6, contexts=7)


def plain(function):
    """A model of two classes whose log odds of the first are a function of the patches shown, [B, 16] of 0 and 1."""

    def model(images):
        shown = images[:, 0, ::2, ::2].abs().flatten(1).double()
        return torch.stack((function(shown), torch.zeros(len(images), dtype=torch.float64)), dim=1)

    return model


def pictures(count=3):
    """Of 8x8 px with one channel of -1 and 1 whose mean is 0: hidden patches are 0."""
    rows = torch.arange(8)
    signs = 1 - 2.0 * ((rows[:, None] // 2 + rows // 2) % 2)
    return signs.expand(count, 1, 8, 8).clone()


def strengths(function, sampling=SMALL, **more):
    labels = torch.zeros(3, dtype=torch.long)
    return interactions(plain(function), pictures(), labels, sampling, **more)


def test_nothing_interacts_in_a_sum():
    found = strengths(lambda shown: shown @ torch.arange(16.0).double())
    assert found.values.shape == (3, 6, 15)
    assert (found.values == 0).all()
    assert (found.strength() == 0).all()
    assert (found.error() == 0).all()


def test_pairs_interact_alike_at_every_order():
    weights = torch.arange(256.0).double().view(16, 16).tril(-1)
    found = strengths(lambda shown: torch.einsum("bi,ij,bj->b", shown, weights, shown))
    for image in range(3):
        for pair in range(6):
            i, j = SMALL.pair(image, pair)
            assert (found.values[image, pair] == weights[max(i, j), min(i, j)].item()).all()
    assert np.allclose(found.strength(), 1)
    assert np.allclose(found.error(), 0)


def test_triples_interact_more_at_higher_orders():
    def triples(shown):
        s = shown.sum(dim=1)
        return s * (s - 1) * (s - 2) / 6

    found = strengths(triples)
    assert (found.orders == np.arange(15)).all()
    assert (found.values == found.orders).all()
    assert np.allclose(found.strength(), np.arange(15) / 7)


def test_a_product_interacts_at_the_highest_order_alone():
    found = strengths(lambda shown: shown.prod(dim=1))
    assert (found.values[..., :-1] == 0).all()
    assert (found.values[..., -1] == 1).all()
    assert np.allclose(found.strength(), [0] * 14 + [15])


def test_error_is_that_of_the_mean_over_pictures():
    """With one picture's interactions told apart by order, as the jackknife of a ratio."""
    values = np.random.default_rng(0).normal(size=(5, 4, 3))
    found = strengths(lambda shown: shown.sum(dim=1))
    found = type(found)(values, found.orders, 0, 0.0, 0.0)
    each = np.abs(values).mean(axis=1)
    kept = [np.delete(each, k, axis=0).mean(axis=0) for k in range(5)]
    ratios = np.array([k / k.mean() for k in kept])
    assert np.allclose(found.error(), np.sqrt(4 * ratios.var(axis=0)))


def test_log_odds():
    logits = torch.randn(5, 7).double()
    labels = torch.arange(5)
    p = logits.softmax(dim=1)[torch.arange(5), labels]
    assert torch.allclose(log_odds(logits, labels), (p / (1 - p)).log())


@pytest.mark.parametrize("m", [0, 1, 7, 13, 14])
def test_sets_are_of_one_size_without_the_pair(m):
    i, j = SMALL.pair(1, 2)
    sets = SMALL.sets(1, 2, m)
    assert sets.shape == (min(7, math.comb(14, m)), 16)
    assert (sets.sum(axis=1) == m).all()
    assert not sets[:, [i, j]].any()
    if m in (0, 14):
        assert len(sets) == 1


def test_one_set_an_order():
    sampling = Sampling(grid=4, orders=15, pairs=1, contexts=1)
    assert [sampling.sets(0, 0, m).sum() for m in sampling.sizes()] == sampling.sizes()


def test_every_patch_is_as_likely_in_a_set():
    sampling = Sampling(grid=4, orders=3, pairs=1, contexts=2000)
    counts = sampling.sets(0, 0, 7).sum(axis=0)
    assert np.abs(np.delete(counts, sampling.pair(0, 0)) / 2000 - 0.5).max() < 0.05


def test_patches_cover_every_pixel_once():
    """Also where the grid does not divide the picture; what is shown is the picture to the bit."""
    image = torch.randn(1, 3, 19, 33)
    masked = Masked(image, 4)
    found = masked(torch.eye(16, dtype=torch.bool))
    shown = (found == image).all(dim=1)
    assert (shown.sum(dim=0) == 1).all()
    assert shown.flatten(1).any(dim=1).all()
    assert (found.where(~shown[:, None], image.mean(dim=(2, 3), keepdim=True)) == masked.mean).all()
    assert (masked(torch.ones(1, 16)) == image).all()


def test_pairs_are_near_and_each_is_there_once():
    near = neighbours(5)
    assert len({frozenset(pair) for pair in near}) == len(near)
    expected = {
        frozenset((a, b))
        for a in range(25)
        for b in range(25)
        if a != b and max(abs(a // 5 - b // 5), abs(a % 5 - b % 5)) <= 2
    }
    assert {frozenset(pair) for pair in near} == expected
    assert len({SMALL.pair(0, k) for k in range(40)}) == 40


def test_draws_do_not_depend_on_how_many_are_drawn():
    more = Sampling(grid=4, orders=8, pairs=20, contexts=7)
    assert more.pair(2, 3) == SMALL.pair(2, 3)
    assert (more.sets(2, 3, 6) == SMALL.sets(2, 3, 6)).all()
    other = Sampling(grid=4, orders=15, pairs=6, contexts=7, seed=1)
    assert [other.pair(0, k) for k in range(6)] != [SMALL.pair(0, k) for k in range(6)]


def wavy(shown):
    return (shown @ torch.arange(16.0).double()).sin()


def test_batches_change_nothing():
    expected = strengths(wavy).values
    for batch in (1, 10, 29, 1000):
        assert np.allclose(strengths(wavy, batch=batch).values, expected, atol=1e-12)


def test_an_interrupted_measurement_goes_on_to_the_same_numbers(tmp_path):
    expected = strengths(wavy, batch=30)
    part = tmp_path / "part.npz"
    calls = []

    def stop(done, total):
        calls.append((done, total))
        if len(calls) == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        strengths(wavy, batch=30, part=part, progress=stop)
    found = strengths(wavy, batch=30, part=part, progress=lambda *now: calls.append(now))
    assert (found.values == expected.values).all()
    assert 0 < found.forwards < expected.forwards
    assert calls[49][0] + found.forwards == calls[49][1] == expected.forwards
    assert calls[-1] == (found.forwards, found.forwards)
    again = strengths(wavy, batch=30, part=part)
    assert again.forwards == 0
    assert (again.values == expected.values).all()


def test_part_files_of_something_else_are_refused(tmp_path):
    part = tmp_path / "part.npz"
    strengths(wavy, part=part)
    with pytest.raises(UserError, match="another measurement"):
        strengths(wavy, part=part, identity="another model")
    part.write_text("no archive")
    with pytest.raises(UserError, match="damaged"):
        strengths(wavy, part=part)


@pytest.mark.parametrize("name", PEERS)
def test_every_model(name):
    found = interaction([name], orders=2, pairs=1, contexts=1, setting=Setting(num_images=2, size=(64,)))
    assert found.measured[name].values.shape == (2, 1, 2)
    assert found.measured[name].forwards == 2 * 2 * 4


def test_models_side_by_side(tmp_path):
    """Written, and the same numbers from what a first call left, in batches of another size too."""
    setting = Setting(num_images=3, size=(64,), batch=16)
    args = dict(grid=4, orders=4, pairs=2, contexts=2, setting=setting, parts=tmp_path / "parts")
    shown = []
    found = interaction(TINY, **args, progress=lambda *now: shown.append(now))
    assert shown[-1][0] == shown[-1][1] == sum(m.forwards for m in found.measured.values())
    assert [file.name for file in found.write(tmp_path)] == ["interaction.npz", "interaction.png", "interaction.svg"]
    again = interaction(TINY, **args)
    other = interaction(TINY, **args | {"parts": None, "setting": replace(setting, batch=5), "double": True})
    for name in TINY:
        assert again.measured[name].forwards == 0
        assert (again.measured[name].values == found.measured[name].values).all()
        assert np.allclose(found.measured[name].values, other.measured[name].values, atol=1e-5)
    with pytest.raises(UserError, match="another measurement"):
        interaction(TINY, **args | {"class_index": 3})


def test_rounding_is_noted():
    """Weights of ones and a bias that leave float32 no place for what interacts."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10), nn.Tanh())
    nn.init.constant_(model[1].weight, 1e-8)
    nn.init.normal_(model[1].bias)
    setting = Setting(num_images=2, size=(64,))
    coarse = interaction([model], orders=2, pairs=1, contexts=1, setting=setting)
    assert [note.split(":")[0] for note in coarse.notes()] == ["Sequential"]
    assert not interaction([model], orders=2, pairs=1, contexts=1, double=True, setting=setting).notes()


def test_classes():
    setting = Setting(num_images=2, size=(64,))
    found = interaction(["test_mat"], orders=2, pairs=1, contexts=1, class_index=5, setting=setting)
    assert found.classes["test_mat"].tolist() == [5, 5]
    with pytest.raises(UserError, match="has the classes 0 to 999, got 1000"):
        interaction(["test_mat"], class_index=1000, setting=setting)


def test_classes_of_folders(tmp_path):
    """By number, and by WordNet's names of ImageNet's classes; predicted where a folder is called otherwise."""
    for folder in ("7", "n01440764"):
        (tmp_path / "named" / folder).mkdir(parents=True)
        Image.new("RGB", (80, 80), (200, 90, len(folder))).save(tmp_path / "named" / folder / "a.png")
    setting = Setting(images=tmp_path / "named", size=(64,))
    args = dict(orders=2, pairs=1, contexts=1)
    found = interaction(["test_mat"], setting=setting, **args)
    assert found.classes["test_mat"].tolist() == [7, 0]
    assert found.metadata()["classes"] == {"test_mat": "true"}
    (tmp_path / "named" / "7").rename(tmp_path / "named" / "some")
    assert interaction(["test_mat"], setting=setting, **args).metadata()["classes"] == {"test_mat": "predicted"}


def test_models_without_classes():
    with pytest.raises(UserError, match="no classifier"):
        interaction([timm.create_model("test_mat", num_classes=0)], setting=Setting(num_images=2, size=(64,)))


def test_too_few_pictures_for_a_band():
    with pytest.raises(UserError, match="at least 2 pictures, got 1"):
        interaction(["test_mat"], setting=Setting(num_images=1, size=(64,)))


def test_pictures_smaller_than_the_grid():
    with pytest.raises(UserError, match="no 9 patches a side"):
        strengths(wavy, Sampling(grid=9, orders=2, pairs=1, contexts=1))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"grid": 1}, "grid"),
        ({"orders": 1}, "orders"),
        ({"pairs": 0}, "pairs"),
        ({"pairs": 10**6}, "pairs"),
        ({"contexts": 0}, "contexts"),
        ({"seed": -1}, "seed"),
    ],
)
def test_samplings_that_make_no_sense(wrong, said):
    with pytest.raises(UserError, match=said):
        Sampling(**wrong)
