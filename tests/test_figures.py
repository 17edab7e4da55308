"""The built-in figures: the same everywhere, marked right, and bodies that could be those of people."""

import hashlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from foveal._errors import UserError
from foveal.data import load_data
from foveal.data.figures import BODIES, INSIDE, JOINTS, SKELETON, VISIBLE, compose, figures, pose

NUMBERS = [0, 1, 3, 17, 99]
DIGEST = "8588d6afc0c8541010f217eb32e4ee43de4ebbb6dd7baf24f425884a3f9e4878"


def digest(part: int, numbers: list[int]) -> dict[int, str]:
    """Hashes of some figures, by their numbers."""
    data, found = figures("figures")[part], {}
    for number in numbers:
        objects = data.objects(number)
        assert objects.keypoints is not None
        assert objects.segmentations is not None
        content = [np.asarray(data.pictures.picture(number)), objects.keypoints, objects.boxes, *objects.segmentations]
        found[number] = hashlib.sha256(b"".join(array.tobytes() for array in content)).hexdigest()
    return found


def test_figures_are_the_same_in_any_order_and_process():
    here = digest(0, NUMBERS)
    assert len(set(here.values())) == len(NUMBERS)
    assert digest(0, NUMBERS[::-1]) == here
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(digest, 0, [17, 0]).result() == {number: here[number] for number in (17, 0)}
    assert digest(1, [3])[3] != here[3]


def test_figures_are_the_same_on_every_machine():
    whole = "".join(digest(part, NUMBERS)[number] for part in (0, 1) for number in NUMBERS)
    assert hashlib.sha256(whole.encode()).hexdigest() == DIGEST


def test_samples_are_bodies():
    train, val = figures("figures:40")
    assert (len(train.numbers), len(val.numbers)) == (40, 4)
    assert len(train) == sum(BODIES) * 10
    assert len(val) == sum(BODIES)
    assert train.classes == list(JOINTS.names)
    assert [train.name(index) for index in (0, 1, 2)] == [
        "figure 0, body 0",
        "figure 1, body 0",
        "figure 1, body 1",
    ]
    target = train.annotation(2)["target"]
    objects = train.objects(1)
    assert np.array_equal(target["box"], objects.boxes[1].astype(np.float32))
    assert np.array_equal(target["keypoints"], objects.keypoints[1].astype(np.float32))
    assert (target["index"], target["score"], target["label"]) == (2, 1.0, 0)
    assert target["truth"]["image_id"] == 1
    assert len(target["truth"]["boxes"]) == 2
    assert train.picture(2).tobytes() == train.picture(1).tobytes() == train.pictures.picture(1).tobytes()
    assert [*target["truth"]] == [*train.truth(1)]


@pytest.mark.parametrize("name", ["figures:60", "figures:24x300"])
def test_boxes_joints_and_masks_agree(name):
    data = figures(name)[0]
    seen = np.zeros(3)
    for picture in range(len(data.numbers)):
        objects, (H, W) = data.objects(picture), data.size
        masks = np.stack(objects.segmentations)
        assert data.pictures.picture(picture).size == (W, H)
        assert masks.sum(0).max() == 1, "two bodies share a pixel"
        assert len(masks) == BODIES[data.numbers[picture] % 4]
        for mask, box, area, keypoints in zip(masks, objects.boxes, objects.area, objects.keypoints, strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert area == mask.sum()
            marked = keypoints[:, 2] > 0
            assert marked.sum() >= INSIDE
            assert not keypoints[~marked].any()
            x, y = np.floor(keypoints[marked, :2].T + 0.5).astype(int)
            assert (x >= 0).all()
            assert (y >= 0).all()
            assert (x < W).all()
            assert (y < H).all()
            on = mask[y, x]
            assert on[keypoints[marked, 2] == 2].all(), "a joint that is seen is on its body"
            seen += np.bincount(keypoints[:, 2].astype(int), minlength=3)
    shares = seen / seen.sum()
    assert 0.01 < shares[0] < 0.25  # out of the picture
    assert 0.1 < shares[1] < 0.4  # hidden
    assert shares[2] > 0.5


def test_bodies_are_hidden_in_part():
    """By others and by boards, and never nearly whole."""
    data, hidden = figures("figures:80")[0], 0
    for picture in range(80):
        figure = data.figure(picture)
        alone = compose(data.material, data.size, BODIES[picture % 4], np.random.RandomState([2, picture]))
        assert all(np.array_equal(a, b) for a, b in zip(figure.masks, alone.masks, strict=True))
        for mask, keypoints in zip(figure.masks, figure.keypoints):
            hidden += sum(not mask[int(y + 0.5), int(x + 0.5)] for x, y, v in keypoints if v)
    assert hidden > 40
    assert VISIBLE >= 0.3


def test_poses_are_possible():
    """Limbs have their lengths, left is left, and joints do not bend the wrong way."""
    limbs = {"shoulder": "elbow", "elbow": "wrist", "hip": "knee", "knee": "ankle"}
    lengths: dict[str, set] = {name: set() for name in limbs}
    front, sides = 0, set()
    for seed in range(300):
        doll = pose(np.random.RandomState(seed))
        at = dict(zip(JOINTS.names, doll.joints))
        for side in ("left", "right"):
            for start, end in limbs.items():
                lengths[start].add(round(float(np.linalg.norm(at[f"{side}_{start}"] - at[f"{side}_{end}"])), 6))
        up = (at["left_shoulder"] + at["right_shoulder"]) / 2 - (at["left_hip"] + at["right_hip"]) / 2
        across = at["left_hip"] - at["right_hip"]
        forward = np.cross(across, -up)  # y points down
        forward /= np.linalg.norm(forward)
        for side in ("left", "right"):
            thigh, shin = at[f"{side}_knee"] - at[f"{side}_hip"], at[f"{side}_ankle"] - at[f"{side}_knee"]
            bent = shin - thigh * (shin @ thigh) / (thigh @ thigh)  # from where a straight leg would lead
            back = forward - thigh * (forward @ thigh) / (thigh @ thigh)
            assert bent @ back < 0.05, "a knee bends forward"
        front += forward[2] > 0
        sides.add(int(np.degrees(np.arctan2(forward[0], forward[2])) // 45))
        assert np.linalg.norm(doll.nose) == pytest.approx(1)
        assert doll.nose @ forward > -0.6, "a head looks backwards"
    assert {name: len(values) for name, values in lengths.items()} == dict.fromkeys(limbs, 1)
    assert 150 < front < 290
    assert sides == set(range(-4, 4))


def test_drawings_connect_the_joints():
    assert {place for pair in SKELETON for place in pair} == set(range(17))
    from torchvision.models.detection import keypointrcnn_resnet50_fpn  # noqa: F401 - the same joints in the same order
    from torchvision.models.detection.keypoint_rcnn import KeypointRCNN_ResNet50_FPN_Weights

    names = KeypointRCNN_ResNet50_FPN_Weights.DEFAULT.meta["keypoint_names"]
    assert list(JOINTS.names) == names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("figure", "unknown figures 'figure'; expected figures, figures:COUNT or figures:COUNTxHEIGHT"),
        ("figures:", "expected figures, figures:COUNT"),
        ("figures:10x", "expected figures, figures:COUNT"),
        ("figures:0", "figures:0 has no picture; expected a number above 0"),
        ("figures:10x32", "height of figures must be in 64..2048, got 32"),
    ],
)
def test_what_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        figures(name)


def test_figures_are_data_for_keypoints():
    train, val = load_data("figures:20", kind="keypoints")
    assert (len(train), len(val)) == (35, 3)
    with pytest.raises(UserError, match="--root has no effect on figures"):
        load_data("figures", "somewhere", kind="keypoints")
