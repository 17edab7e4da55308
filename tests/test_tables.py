"""The thesis's tables: the counts that solved the three definitions, to the unit or the printed digit."""

import json

import pytest
import timm
import torch

from foveal.cli import main
from foveal.fidelity import KNOWN, compare, measure
from foveal.fidelity.reported import REPORTED

PARAMETERS = {
    "mat_1": 6_713_664,
    "mat_2": 10_767_496,
    "mat_3": 17_008_164,
    "mat_4": 29_056_584,
    "mat_5": 50_107_944,
    "partialformer_b0": 5_306_068,
    "partialformer_b1": 8_245_752,
    "partialformer_b2": 21_103_664,
    "partialformer_b3": 36_145_448,
    "partialformer_b4": 64_539_464,
}
DENSE = dict(zip(list(PARAMETERS)[5:], (3_778_364, 6_636_240, 19_330_536, 34_208_704, 62_275_488), strict=True))
GMACS = {  # by each chapter's convention
    "emsnet_xxtiny": 0.518,
    "emsnet_xtiny": 0.671,
    "emsnet_tiny": 1.826,
    "mat_1": 0.389260,
    "mat_2": 0.665816,
    "mat_3": 1.042428,
    "mat_4": 1.933274,
    "mat_5": 3.155608,
    "partialformer_b0": 0.4034,
    "partialformer_b1": 0.7012,
    "partialformer_b2": 1.8860,
    "partialformer_b3": 3.3273,
    "partialformer_b4": 6.7624,
}
FOLDED = dict(zip(DENSE, (0.3349, 0.5776, 1.5431, 2.7184, 5.5119), strict=True))


@pytest.fixture(scope="module")
def comparisons():
    return list(compare())


def meta(name: str, **args):
    with torch.device("meta"):
        return timm.create_model(name, **args)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_to_the_unit(name):
    assert measure.parameters(meta(name)) == PARAMETERS[name]
    if name in DENSE:
        assert measure.parameters(meta(name, features_only=True)) == DENSE[name]


@pytest.mark.parametrize("name", GMACS)
def test_multiply_adds(name):
    digits = len(str(GMACS[name])) - 2
    model = meta(name)
    assert round(measure.thesis_macs(model) / 1e9, digits) == pytest.approx(GMACS[name], abs=1e-9)
    if name in FOLDED:
        assert round(measure.count_macs(model).products / 1e9, 4) == pytest.approx(FOLDED[name], abs=1e-9)


def test_partialformer_closed_form():
    """Section 3 of the chapter, block by block, at a size that nothing divides."""
    height, width = 193, 257
    embed_dim, depths, heads, fg_div = 24, (2, 2, 6, 6), (2, 4, 8, 16), (128, 16, 8, 4)
    total, chs, sizes = 0, 12, [(97, 129)]
    for _ in range(4):
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    stem = 27 * chs + 9 * chs * chs
    total += sizes[0][0] * sizes[0][1] * stem + sizes[1][0] * sizes[1][1] * 9 * chs * embed_dim
    for i, (h, w) in enumerate(sizes[1:]):
        n, d = h * w, embed_dim * 2**i
        if i:
            total += n * 9 * (d // 2) * d
        m, r = -(-n // fg_div[i]) + 1, max(8, d // 32)
        block = 9 * n * d + 3 * m * d * d + 2 * n * d * heads[i] + 2 * d * d
        block += 2 * m * m * d + 2 * 4 * heads[i] ** 2 * m * m + m * d * d + 2 * d * r + 8 * n * d * d + 36 * n * d
        total += depths[i] * block
    total += 192 * 1280 + 1280 * 1000
    assert measure.count_macs(meta("partialformer_b0"), (height, width)).products == total


def test_every_table_is_there(comparisons):
    assert {c.table for c in comparisons} == set(KNOWN)
    assert len(comparisons) == 2 * len(REPORTED) + 4


def test_every_difference_is_explained(comparisons):
    """Where neither rounding nor truncation gives the printed figure, the note says why."""
    printed = [text for row in REPORTED for text in (row.parameters, row.gmacs)]
    for c, text in zip(comparisons, printed):  # the section's figures follow
        assert c.reported == float(text)
        assert c.difference == pytest.approx(c.measured - c.reported, abs=2e-6)
        decimals = len(text.partition(".")[2])
        if f"{c.measured:.{decimals}f}" != text:
            assert c.note, c
            truncated = str(c.measured).startswith(text)
            assert truncated == (c.note == "printed truncated"), c


def test_mat_agrees_to_the_last_digit(comparisons):
    rows = [c for c in comparisons if c.table in ("4.2", "4.3", "4.9")]
    assert len(rows) == 30
    assert all(round(c.measured, 3) == c.reported and not c.note for c in rows)


def test_partialformer_readings(comparisons):
    """Rounding or truncation gives 33 of 40 figures with reading="text", and all with reading="tables"."""
    rows = [c for c in comparisons if c.table in ("5.1", "5.4", "5.6", "5.7")]
    tables = [c for c in rows if "reading=tables" in c.row]
    text = [c for c in rows if "reading=tables" not in c.row]
    assert (len(text), len(tables)) == (40, 40)
    assert sum(c.note in ("", "printed truncated") for c in tables) == 40
    assert sum(c.note in ("", "printed truncated") for c in text) == 33


def test_emsnet_parameters_agree_by_truncation(comparisons):
    rows = [c for c in comparisons if c.table in ("3.1", "3.5", "3.7", "3.9") and c.quantity == "parameters"]
    missed = {c.row for c in rows if c.note not in ("", "printed truncated")}
    assert missed == {"EMSNet-XTiny", "w/o fusion", "w/o channel splitting"}


def test_command(capsys):
    assert main(["tables", "4.3", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 10
    assert list(rows[0]) == ["table", "row", "quantity", "unit", "reported", "measured", "difference", "note"]
    assert main(["tables", "4.3", "--markdown"]) == 0
    assert "| MAT-2 | parameters | M | 10.767 | 10.767 |" in capsys.readouterr().out
    assert main(["tables", "5.3.3"]) == 0
    assert "40.134" in capsys.readouterr().out
    assert main(["tables", "4.33"]) == 2
    assert "nearest: 4.3" in capsys.readouterr().err
