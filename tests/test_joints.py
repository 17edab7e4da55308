"""A joint stays on its pixel, whatever a picture goes through.

Each joint is a round spot in a channel of its own, so its place in an image is the mean place of what that shows.
The left joint is drawn in green and the right one in blue: in a mirrored image they have changed sides, and names.
"""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from foveal._errors import UserError
from foveal.data import JointAugment, Joints, JointTransform, stack_bodies
from foveal.data._skeleton import pairs_of_sides, usual_sigmas
from foveal.data.figures import JOINTS
from foveal.data.joints import PADDING, inverse, look, warped

EARS = Joints(("nose", "left_ear", "right_ear"), ((0, 1), (0, 2)), ((1, 2),), (0.1, 0.1, 0.1))
NONE = JointAugment(hflip=0.0, scale=0.0, rotation=0.0, half_body=0.0)
SPOT = 3.0  # standard deviation in pixels
slow_start = dict(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def spots(size: tuple[int, int], keypoints: np.ndarray) -> Image.Image:
    """Black, with a spot of full brightness at each joint."""
    y, x = np.mgrid[: size[0], : size[1]]
    channels = [255 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * SPOT**2)) for a, b in keypoints[:, :2]]
    return Image.fromarray(np.rint(np.stack(channels, axis=2)).astype(np.uint8))


def sample(size: tuple[int, int], keypoints: np.ndarray, box: list[float]) -> dict:
    target = {"box": torch.tensor(box), "keypoints": torch.from_numpy(keypoints).float()}
    return {"image": spots(size, keypoints), "name": "spots", "target": target}


def transform(size=(64, 48), augment: JointAugment | None = None, joints=EARS, mean=(0, 0, 0)) -> JointTransform:
    return JointTransform(size=size, mean=mean, std=(0.2, 0.4, 0.1), joints=joints, augment=augment)


@st.composite
def situations(draw):
    """A picture, its joints, a box, the size of an image, and an augmentation."""
    size = draw(st.integers(40, 220)), draw(st.integers(40, 220))
    places = [[draw(st.floats(0, side - 1)) for side in size[::-1]] for _ in EARS.names]
    keypoints = np.array([[*place, draw(st.sampled_from([0, 1, 2, 2, 2]))] for place in places])
    x1, y1 = (draw(st.floats(-10, side - 10)) for side in size[::-1])
    box = [x1, y1, x1 + draw(st.floats(12, 260)), y1 + draw(st.floats(12, 260))]
    crop = draw(st.sampled_from([(64, 48), (48, 64), (96, 96), (128, 96)]))
    augment = JointAugment(
        hflip=draw(st.sampled_from([0.0, 1.0])),
        scale=draw(st.floats(0, 0.6)),
        rotation=draw(st.floats(0, 180)),
        half_body=0.0,
    )
    return size, keypoints, box, crop, augment, draw(st.integers(0, 10**6))


@settings(max_examples=300, **slow_start)
@given(situations())
def test_a_joint_stays_on_its_pixel(situation):
    size, keypoints, box, crop, augment, seed = situation
    random.seed(seed)
    found = transform(crop, augment)(sample(size, keypoints, box), dict)
    mirrored = augment.hflip == 1
    step = math.sqrt(abs(float(found["matrix"][:, :2].det())))
    assert found["image"].shape == (3, *crop)
    assert (found["matrix"][:, :2].det() < 0) == mirrored
    places = inverse(found["matrix"].double().numpy(), keypoints[:, :2] + 0.5) - 0.5
    values = found["image"].double().numpy()
    y, x = np.mgrid[: crop[0], : crop[1]]
    for joint in range(3):
        source = EARS.mirrored[joint] if mirrored else joint  # what is called the left ear was the right one
        place = places[source]
        inside = bool((place >= -0.5).all() and (place < np.array(crop[::-1]) - 0.5).all())
        assert found["weights"][joint] == float(inside and keypoints[source, 2] > 0)
        if not found["weights"][joint]:
            assert not found["positions"][joint].any()
            continue
        position = found["positions"][joint].double().numpy()
        assert position == pytest.approx(place, abs=1e-3)
        reach = 4 * SPOT
        whole = (keypoints[source, :2] > reach).all() and (keypoints[source, :2] < np.array(size[::-1]) - reach).all()
        room = max(4, reach / step)
        if not whole or (place < room).any() or (place > np.array(crop[::-1]) - room).any():
            continue
        near = values[source] * ((x - place[0]) ** 2 + (y - place[1]) ** 2 < room**2)
        middle = np.array([(near * x).sum(), (near * y).sum()]) / near.sum()
        assert middle == pytest.approx(position, abs=0.12 + 0.1 / step)


@settings(max_examples=60, **slow_start)
@given(situations())
def test_matrix_leads_back_to_the_picture(situation):
    size, keypoints, box, crop, augment, seed = situation
    random.seed(seed)
    found = transform(crop, augment)(sample(size, keypoints, box), dict)
    matrix = found["matrix"].double().numpy()
    for joint, position in enumerate(found["positions"].double().numpy()):
        if found["weights"][joint]:
            back = matrix[:, :2] @ (position + 0.5) + matrix[:, 2] - 0.5
            source = EARS.mirrored[joint] if augment.hflip == 1 else joint
            assert back == pytest.approx(keypoints[source, :2], abs=2e-3)


@settings(max_examples=100, **slow_start)
@given(situations())
def test_evaluation_sees_the_whole_box_with_room_around_it(situation):
    size, keypoints, (x1, y1, x2, y2), crop, _, _ = situation
    one = sample(size, keypoints, [x1, y1, x2, y2])
    found = transform(crop)(one, dict)
    assert found["target"] is one["target"]
    assert "weights" not in found
    corners = inverse(found["matrix"].double().numpy(), np.array([[x1, y1], [x2, y2]]))
    (left, top), (right, bottom) = corners / crop[::-1]
    assert (left + right) / 2 == pytest.approx(0.5, abs=1e-4)
    assert (top + bottom) / 2 == pytest.approx(0.5, abs=1e-4)
    assert max(right - left, bottom - top) == pytest.approx(1 / PADDING, abs=1e-4)
    assert (right - left) * crop[1] / ((bottom - top) * crop[0]) == pytest.approx((x2 - x1) / (y2 - y1), rel=1e-3)


def test_values_are_normalised_and_outside_is_the_mean():
    picture = Image.new("RGB", (40, 40), (255, 0, 51))
    target = {"box": torch.tensor([0.0, 0.0, 20.0, 20.0])}
    image = transform((40, 40), mean=(0.5, 0.25, 0.75))({"image": picture, "name": "", "target": target}, dict)["image"]
    assert image[:, 30, 30].tolist() == pytest.approx([0.5 / 0.2, -0.25 / 0.4, (0.2 - 0.75) / 0.1], abs=0.02)
    assert image[:, 0, 0].abs().max() < 0.03  # of the box's quarter of room, a half lies outside of the picture
    assert image.dtype == torch.float32


def test_a_large_box_is_averaged():
    """A fine chessboard becomes grey, and no pattern of its own."""
    board = (np.indices((400, 300)).sum(0) % 2 * 255).astype(np.uint8)
    picture = Image.fromarray(np.repeat(board[..., None], 3, axis=2))
    matrix = look([30, 40, 270, 360], (64, 48))
    values = np.asarray(warped(picture, matrix, (64, 48), (0, 0, 0)))[4:-4, 4:-4]
    assert values.min() > 100
    assert values.max() < 155


def test_turning_is_about_the_middle_of_the_box():
    for angle in (0, 30, -90, 170):
        matrix = look([20, 10, 60, 90], (64, 48), angle=angle)
        assert matrix @ [24, 32, 1] == pytest.approx([40, 50])
    matrix = look([20, 10, 60, 90], (64, 48), angle=90)
    above = matrix @ [24, 31, 1] - [40, 50]
    assert above[0] < -1  # what is left of the middle of the picture stands above it: the picture is turned clockwise
    assert above[1] == pytest.approx(0)


# Half of a body


def person(rng: np.random.Generator) -> np.ndarray:
    """Keypoints of a standing body, 60 px wide and 160 px high."""
    keypoints = np.zeros((17, 3))
    for place, name in enumerate(JOINTS.names):
        part = name.split("_")[-1]
        height = dict(nose=20, eye=15, ear=17, shoulder=45, elbow=70, wrist=90, hip=95, knee=135, ankle=175)[part]
        keypoints[place] = 60 + rng.uniform(-30, 30), height + rng.uniform(-4, 4), 2
    return keypoints


def test_half_of_a_body_is_the_upper_or_the_lower_one():
    rng, seen = np.random.default_rng(0), []
    lower = np.zeros(17, bool)
    lower[JOINTS.lower] = True
    assert {JOINTS.names[place].split("_")[1] for place in JOINTS.lower} == {"hip", "knee", "ankle"}
    augment = JointAugment(hflip=0.0, scale=0.0, rotation=0.0, half_body=1.0)
    for seed in range(60):
        random.seed(seed)
        keypoints = person(rng)
        target = {"box": torch.tensor([30.0, 10.0, 90.0, 180.0]), "keypoints": torch.from_numpy(keypoints).float()}
        picture = Image.new("RGB", (120, 200))
        one = transform((64, 48), augment, JOINTS)({"image": picture, "name": "", "target": target}, dict)
        inside = one["weights"].numpy() > 0
        assert inside[lower].all() or inside[~lower].all()
        seen.append("both" if inside.all() else "lower" if inside[lower].all() else "upper")
    assert {"lower", "upper"} <= {*seen}
    assert min(seen.count("lower"), seen.count("upper")) > 10


def test_a_body_with_few_joints_is_shown_whole():
    keypoints = person(np.random.default_rng(0))
    keypoints[8:, 2] = 0
    target = {"box": torch.tensor([30.0, 10.0, 90.0, 180.0]), "keypoints": torch.from_numpy(keypoints).float()}
    whole = look(target["box"].tolist(), (64, 48))
    augment = JointAugment(hflip=0.0, scale=0.0, rotation=0.0, half_body=1.0)
    sample = {"image": Image.new("RGB", (120, 200)), "name": "", "target": target}
    assert torch.equal(transform((64, 48), augment, JOINTS)(sample, dict)["matrix"], torch.from_numpy(whole).float())


# What is drawn


def test_scales_and_angles_are_drawn_as_the_paper_says():
    augment = JointAugment(hflip=0.5, scale=0.3, rotation=40.0, half_body=0.0)
    target = {"box": torch.tensor([0.0, 0.0, 48.0, 64.0]), "keypoints": torch.ones(3, 3)}
    seen = transform((64, 48), augment)
    random.seed(0)
    drawn = [seen._drawn(augment, target) for _ in range(4000)]
    matrices, mirrored = np.array([matrix for matrix, _ in drawn]), np.array([flip for _, flip in drawn])
    steps = np.sqrt(np.abs(np.linalg.det(matrices[:, :, :2]))) / PADDING
    assert 0.7 - 1e-9 <= steps.min() < 0.701
    assert 1.299 < steps.max() <= 1.3 + 1e-9
    angles = np.degrees(np.arctan2(matrices[:, 0, 1], matrices[:, 1, 1]))
    assert np.abs(angles).max() == pytest.approx(80, abs=1e-6)
    assert (angles == 0).mean() == pytest.approx(0.4, abs=0.03)
    assert mirrored.mean() == pytest.approx(0.5, abs=0.03)


def test_stacked():
    one = transform(augment=NONE)(sample((60, 80), np.array([[20, 20, 2]] * 3), [10, 10, 50, 50]), dict)
    batch = stack_bodies([one, one])
    assert {name: tuple(value.shape) for name, value in batch.items() if torch.is_tensor(value)} == {
        "image": (2, 3, 64, 48),
        "matrix": (2, 2, 3),
        "positions": (2, 3, 2),
        "weights": (2, 3),
    }
    assert batch["name"] == ["spots", "spots"]
    seen = transform()(sample((60, 80), np.array([[20, 20, 2]] * 3), [10, 10, 50, 50]), dict)
    assert {*stack_bodies([seen])} == {"image", "matrix", "name", "target"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (dict(hflip=1.5), r"hflip must be in \[0, 1\], got 1.5"),
        (dict(half_body=-1), r"half-body must be in \[0, 1\]"),
        (dict(scale=1), r"scale must be in \[0, 1\), got 1"),
        (dict(rotation=200), r"rotation must be in \[0, 180\] degrees, got 200"),
    ],
)
def test_what_is_refused(args, message):
    with pytest.raises(UserError, match=message):
        JointAugment(**args)


# Joints


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["nose", "left_eye", "right_eye"], ((1, 2),)),
        (["RightKnee", "tail", "LeftKnee"], ((0, 2),)),
        (["leftear", "rightear"], ((0, 1),)),
        (["l_paw", "r_paw", "paw_l", "paw_r", "ball"], ((0, 1), (2, 3))),
        (["upright", "leftover", "left"], ()),
        (["left", "right"], ((0, 1),)),
    ],
)
def test_pairs_of_sides(names, pairs):
    assert pairs_of_sides(names) == pairs


def test_sigmas():
    from pycocotools.cocoeval import Params

    assert JOINTS.sigmas == pytest.approx(Params("keypoints").kpt_oks_sigmas.tolist())
    assert usual_sigmas(["Left_Knee", "tail"]) == (0.087, 0.079)


def test_joints_go_to_json_and_back():
    assert Joints.from_dict(JOINTS.to_dict()) == JOINTS
    assert JOINTS.mirrored == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
