"""The built-in figures: pictures of articulated bodies with COCO's 17 joints on varied backgrounds.

A body is a doll in three dimensions whose joints bend as far as those of people do. It is seen from any side, clothed
in varied colours, drawn limb by limb from the farthest to the nearest, and may stand partly behind others, behind a
board or outside of the picture. A figure is a function of its part, number and size alone, and nothing is stored.
Lengths are in units of the body's height; x points to the right of the picture, y down, z towards the viewer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from ._bodies import Bodies, Crop
from ._objects import Objects, Problem, objects_seen
from ._pictures import Pictures
from ._skeleton import Joints, pairs_of_sides, usual_sigmas
from .scenes import Garments, asked, background, garments_of_parts

COUNT = 1000
BODIES = (1, 2, 1, 3)  # in pictures whose numbers leave 0, 1, 2, 3 when divided by 4
NAMES = (
    "nose",
    *("left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
    *("left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)
SKELETON = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
JOINTS = Joints(NAMES, SKELETON, pairs_of_sides(NAMES), usual_sigmas(NAMES))
SIDES = ("left", "right")
VISIBLE = 0.4  # share of a body's pixels that is seen, at least
INSIDE = 9  # of its joints that are in the picture, at least

SHOULDERS, HIPS, CHEST, NECK, HEAD = 0.115, 0.075, 0.29, 0.05, 0.075  # half widths, lengths, radius
UPPER_ARM, FOREARM, HAND, THIGH, SHIN, FOOT = 0.17, 0.15, 0.035, 0.235, 0.225, 0.07  # lengths
FEATURES = np.array([[0, 0.15, 1.05], [0.38, -0.2, 0.9], [-0.38, -0.2, 0.9], [1, 0, 0], [-1, 0, 0]])  # nose, eyes, ears
FACE = 0.3  # cosine of the angle from the nose at which the hair begins
SKINS = np.array([[255, 219, 190], [236, 188, 145], [198, 139, 94], [141, 88, 56], [87, 54, 38]])
SEEN_ON = {  # parts on whose pixels a joint is seen
    **{f"{side}_shoulder": ("torso", f"{side}_upper_arm") for side in SIDES},
    **{f"{side}_elbow": (f"{side}_upper_arm", f"{side}_forearm") for side in SIDES},
    **{f"{side}_wrist": (f"{side}_forearm", f"{side}_hand") for side in SIDES},
    **{f"{side}_hip": ("torso", "pelvis", f"{side}_thigh") for side in SIDES},
    **{f"{side}_knee": (f"{side}_thigh", f"{side}_shin") for side in SIDES},
    **{f"{side}_ankle": (f"{side}_shin", f"{side}_foot") for side in SIDES},
}


@dataclass
class Stroke:
    """A part of a body: tapered capsules of one colour, or of two in bands across them.

    Attributes:
        name: of the part.
        ends: [n, 2, 3], where the capsules begin and end.
        radii: at the ends.
        colours: RGB [1 or 2, 3].
        bands: of the second colour along a capsule.
        nearer: by how much it is drawn as if it were nearer to the viewer.
    """

    name: str
    ends: np.ndarray
    radii: tuple[float, float]
    colours: np.ndarray
    bands: int = 0
    nearer: float = 0.0

    @property
    def depth(self) -> float:
        return float(self.ends[:, :, 2].mean()) + self.nearer


@dataclass
class Doll:
    """A posed body.

    Attributes:
        joints: [17, 3].
        strokes: its parts but the head, whose middle is ``head``.
        nose: direction of the nose, of length 1.
        skin, hair: RGB.
    """

    joints: np.ndarray
    strokes: list[Stroke]
    head: np.ndarray
    nose: np.ndarray
    skin: np.ndarray
    hair: np.ndarray


def pose(rng: np.random.RandomState) -> Doll:
    """A body of height 1, its hips around the origin, in a random pose seen from a random side."""
    wild = rng.uniform(0.2, 1)  # how far joints are from their rest

    def angle(low: float, high: float) -> float:
        return wild * rng.uniform(low, high)

    yaw = rng.normal(0, 40) if rng.random_sample() < 0.6 else rng.uniform(-180, 180)
    roll = rng.normal(0, 8) if rng.random_sample() < 0.85 else rng.uniform(-180, 180)
    whole = _turn(2, roll) @ _turn(0, rng.normal(0, 8)) @ _turn(1, yaw)
    trunk = whole @ _turn(1, angle(-25, 25)) @ _turn(2, angle(-20, 20)) @ _turn(0, angle(-15, 45))
    skull = trunk @ _turn(1, angle(-60, 60)) @ _turn(0, angle(-30, 20)) @ _turn(2, angle(-15, 15))
    neck = trunk @ [0, -CHEST, 0]
    head = neck + trunk @ [0, -NECK, 0] + skull @ [0, -0.9 * HEAD, 0]
    joints = np.zeros((len(NAMES), 3))
    joints[:5] = head + HEAD * FEATURES @ skull.T
    limbs: dict[str, np.ndarray] = {}
    for place, (side, sign) in enumerate(zip(SIDES, (1, -1))):
        shoulder, hip = trunk @ [sign * SHOULDERS, 0.02 - CHEST, 0], whole @ [sign * HIPS, 0, 0]
        upper = _swung(sign, angle(0, 160), angle(-50, 160))
        lower = _bent(upper, np.array([-0.6 * sign, -0.5, 1]) + rng.normal(0, 0.4, 3), angle(0, 145))
        lift = angle(-30, 110)
        thigh = _swung(sign, angle(-5, 45), lift)
        bend = min(140, max(0, lift) * rng.uniform(0.3, 1.4) + angle(0, 60))
        shin = _bent(thigh, np.array([0, 0, -1]) + rng.normal(0, 0.1, 3), bend)
        foot = _bent(shin, np.array([0.3 * sign, 0, 1]), rng.uniform(60, 100))
        elbow = shoulder + UPPER_ARM * (trunk @ upper)
        wrist = elbow + FOREARM * (trunk @ lower)
        knee = hip + THIGH * (whole @ thigh)
        ankle = knee + SHIN * (whole @ shin)
        joints[5 + place :: 2] = shoulder, elbow, wrist, hip, knee, ankle
        limbs |= {f"{side}_hand": wrist + HAND * (trunk @ lower), f"{side}_foot": ankle + FOOT * (whole @ foot)}
    skin = _between(SKINS, rng)
    return Doll(joints, _clothed(joints, neck, head, limbs, skin, rng), head, skull[:, 2], skin, rng.randint(0, 120, 3))


def _clothed(
    joints: np.ndarray,
    neck: np.ndarray,
    head: np.ndarray,
    limbs: dict[str, np.ndarray],
    skin: np.ndarray,
    rng: np.random.RandomState,
) -> list[Stroke]:
    """The parts of a body in random clothes."""
    at = dict(zip(NAMES, joints))
    shirt, trousers = rng.randint(0, 256, (2, 2, 3))
    shoes = rng.randint(0, 256, (1, 3))
    bare, bands = skin[None], int(rng.randint(2, 9)) * int(rng.randint(2))
    sleeves, legs = (shirt[:1] if rng.randint(2) else bare), (trousers[:1] if rng.randint(3) else bare)
    stout = rng.uniform(0.85, 1.25)

    def part(name: str, start: np.ndarray, end: np.ndarray, radii: tuple[float, float], colours: np.ndarray) -> Stroke:
        thick = (stout * radii[0], stout * radii[1])
        return Stroke(name, np.stack([start, end])[None], thick, colours, nearer=0.02 * ("arm" in name))

    shares = np.linspace(0.08, 0.92, 6)[:, None]
    tops, bottoms = (at[f"left_{name}"] * (1 - shares) + at[f"right_{name}"] * shares for name in ("shoulder", "hip"))
    radii = (stout * 0.045, stout * 0.05)
    found = [
        Stroke("torso", np.stack([tops, bottoms], axis=1), radii, shirt, bands),
        Stroke("pelvis", np.stack([at["left_hip"], at["right_hip"]])[None], radii, trousers[:1], nearer=0.015),
        part("neck", neck, head, (0.033, 0.033), bare),
    ]
    for side in SIDES:
        shoulder, elbow, wrist, hip, knee, ankle = (
            at[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        )
        found += [
            part(f"{side}_upper_arm", shoulder, elbow, (0.038, 0.03), shirt[:1]),
            part(f"{side}_forearm", elbow, wrist, (0.029, 0.021), sleeves),
            part(f"{side}_hand", wrist, limbs[f"{side}_hand"], (0.02, 0.024), bare),
            part(f"{side}_thigh", hip, knee, (0.056, 0.042), trousers[:1]),
            part(f"{side}_shin", knee, ankle, (0.04, 0.026), legs),
            part(f"{side}_foot", ankle, limbs[f"{side}_foot"], (0.028, 0.022), shoes),
        ]
    return found


def _turn(axis: int, degrees: float) -> np.ndarray:
    """Rotation [3, 3] about x, y or z."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    a, b = [(1, 2), (2, 0), (0, 1)][axis]
    turn = np.eye(3)
    turn[a, a], turn[a, b], turn[b, a], turn[b, b] = cos, -sin, sin, cos
    return turn


def _swung(sign: int, out: float, forward: float) -> np.ndarray:
    """Direction of a limb that hung down, moved out to its side and then forward by so many degrees."""
    return _turn(0, forward) @ _turn(2, -sign * out) @ [0, 1, 0]


def _bent(direction: np.ndarray, towards: np.ndarray, degrees: float) -> np.ndarray:
    """A direction turned by so many degrees towards another."""
    across = towards - (towards * direction).sum() * direction
    across = across / math.sqrt(max(1e-6, (across**2).sum()))
    return math.cos(math.radians(degrees)) * direction + math.sin(math.radians(degrees)) * across


def _between(colours: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """A colour between two neighbours."""
    place, share = rng.randint(len(colours) - 1), rng.random_sample()
    return (colours[place] * (1 - share) + colours[place + 1] * share).astype(np.int64)


@dataclass
class Figure:
    """A picture of bodies.

    Attributes:
        picture: uint8 [H, W, 3].
        keypoints: of each body [17, 3], as COCO has them.
        masks: of each body what is seen of it, bool [H, W].
    """

    picture: np.ndarray
    keypoints: list[np.ndarray] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)


@dataclass
class Canvas:
    """A picture in the making.

    Attributes:
        picture: uint8 [H, W, 3].
        owner: what is seen at each pixel, [H, W]: places in ``parts``, or -1.
        parts: body and name of what was drawn.
    """

    picture: np.ndarray
    owner: np.ndarray
    parts: list[tuple[int, str]] = field(default_factory=list)

    def paint(self, window: tuple[slice, slice], cover: np.ndarray, colour: np.ndarray, part: tuple[int, str]) -> None:
        """Cover a window with colours [h, w, 3], by a share of each pixel [h, w]."""
        under = self.picture[window]
        self.picture[window] = np.rint(under + cover[..., None] * (colour - under.astype(np.float64))).astype(np.uint8)
        self.owner[window][cover >= 0.5] = len(self.parts)
        self.parts.append(part)

    def window(self, low: np.ndarray, high: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """The part of the picture between two places (x, y), and x [1, w] and y [h, 1] of its pixels' middles."""
        sides = [
            slice(*(int(min(max(edge, 0), side)) for edge in (math.floor(a), math.ceil(b) + 1)))
            for a, b, side in zip(low[::-1], high[::-1], self.owner.shape)
        ]
        rows, columns = (np.arange(side.start, side.stop) + 0.5 for side in sides)
        return (sides[0], sides[1]), columns[None], rows[:, None]


def draw(canvas: Canvas, doll: Doll, place: np.ndarray, height: float, body: int) -> None:
    """Draw a body of so many pixels' height, its hips around a place (x, y)."""
    rim = max(0.6, 0.012 * height)
    depth = [stroke.depth for stroke in doll.strokes] + [float(doll.head[2]) + 0.02]
    for index in np.argsort(depth, kind="stable"):
        if index == len(doll.strokes):
            _draw_head(canvas, doll, place, height, body)
            continue
        stroke = doll.strokes[index]
        ends, (first, last) = projected(stroke.ends, place, height), (height * radius for radius in stroke.radii)
        reach = max(first, last) + 1
        window, x, y = canvas.window(ends.min((0, 1)) - reach, ends.max((0, 1)) + reach)
        if not x.size or not y.size:
            continue
        distance, along = np.full((y.size, x.size), np.inf), np.zeros((y.size, x.size))
        for (x1, y1), (x2, y2) in ends:
            dx, dy = x2 - x1, y2 - y1
            share = np.clip(((x - x1) * dx + (y - y1) * dy) / max(1e-6, dx * dx + dy * dy), 0, 1)
            own = np.sqrt((x - x1 - share * dx) ** 2 + (y - y1 - share * dy) ** 2) - first - share * (last - first)
            along, distance = np.where(own < distance, share, along), np.minimum(own, distance)
        colours = stroke.colours[np.floor(along * stroke.bands * 2).astype(np.int64) % 2 if stroke.bands else 0]
        shade = np.where(distance > -rim, 0.65, 1.0)[..., None]
        canvas.paint(window, np.clip(0.5 - distance, 0, 1), colours * shade, (body, stroke.name))


def _draw_head(canvas: Canvas, doll: Doll, place: np.ndarray, height: float, body: int) -> None:
    """A ball with hair, and a face where the nose points."""
    radius = height * HEAD
    middle = projected(doll.head, place, height)
    window, x, y = canvas.window(middle - 1.3 * radius, middle + 1.3 * radius)
    if not x.size or not y.size:
        return
    left, up = (x - middle[0]) / radius, (y - middle[1]) / radius
    square = left**2 + up**2
    cosine = left * doll.nose[0] + up * doll.nose[1] + np.sqrt(np.clip(1 - square, 0, 1)) * doll.nose[2]
    face = np.clip((cosine - FACE) * radius, 0, 1)[..., None]
    distance = (np.sqrt(square) - 1) * radius
    nose, *others = (projected(joint, place, height) for joint in doll.joints[:5])
    near = doll.joints[:5, 2] - doll.head[2]  # above 0 on the side that is seen
    for ear, depth in zip(others[2:], near[3:]):
        if depth < 0:
            _dot(canvas, ear, 0.25 * radius, doll.skin * 0.9, (body, "ear"))
    canvas.paint(window, np.clip(0.5 - distance, 0, 1), doll.hair * (1 - face) + doll.skin * face, (body, "head"))
    for ear, depth in zip(others[2:], near[3:]):
        if depth >= 0:
            _dot(canvas, ear, 0.25 * radius, doll.skin * 0.9, (body, "ear"))
    for eye, depth in zip(others[:2], near[1:3]):
        if depth > 0:
            _dot(canvas, eye, 0.22 * radius, np.array([250, 250, 250]), (body, "head"))
            _dot(canvas, eye, 0.13 * radius, np.array([20, 20, 30]), (body, "head"))
    if near[0] > 0:
        _dot(canvas, nose, 0.16 * radius, doll.skin * np.array([0.8, 0.6, 0.6]), (body, "head"))


def _dot(canvas: Canvas, middle: np.ndarray, radius: float, colour: np.ndarray, part: tuple[int, str]) -> None:
    window, x, y = canvas.window(middle - radius - 1, middle + radius + 1)
    distance = np.sqrt((x - middle[0]) ** 2 + (y - middle[1]) ** 2) - radius
    canvas.paint(window, np.clip(0.5 - distance, 0, 1), colour, part)


def projected(places: np.ndarray, place: np.ndarray, height: float) -> np.ndarray:
    """[..., 3] in units of the body -> [..., 2] in pixels from the edge, in steps of 1/64.

    The steps are far above what differs between machines in the last bits.
    """
    return np.rint(64 * (place + height * places[..., :2])) / 64


def compose(material: Garments, size: tuple[int, int], num_bodies: int, rng: np.random.RandomState) -> Figure:
    """A figure of ``size`` (height, width), all of it drawn from ``rng``; what shows too little of a body is redone."""
    while True:
        found = _try(material, size, num_bodies, rng)
        if found is not None:
            return found


def _try(material: Garments, size: tuple[int, int], num_bodies: int, rng: np.random.RandomState) -> Figure | None:
    H, W = size
    canvas = Canvas(background(material, size, rng), np.full(size, -1))
    dolls, whole = [], []
    for body in range(num_bodies):
        doll, height = pose(rng), H * rng.uniform(0.5, 1.1) * (1 - 0.12 * (num_bodies - 1))
        low, high = doll.joints[:, :2].min(0), doll.joints[:, :2].max(0)
        share = np.array([0.1 + 0.8 * (body + rng.random_sample()) / num_bodies, rng.uniform(0.3, 0.7)])
        place = share * (W, H) - height * (low + high) / 2
        before = canvas.owner.copy()
        draw(canvas, doll, place, height, body)
        whole.append(np.count_nonzero(canvas.owner != before))
        dolls.append((doll, place, height))
    for _ in range(rng.randint(3)):
        h, w = (max(2, round(H * rng.uniform(0.08, 0.35))) for _ in range(2))
        top, left = rng.randint(0, H - h + 1), rng.randint(0, W - w + 1)
        window = (slice(top, top + h), slice(left, left + w))
        canvas.picture[window], canvas.owner[window] = background(material, (h, w), rng), -1
    figure = Figure(canvas.picture)
    for body, (doll, place, height) in enumerate(dolls):
        owned = np.array([number == body for number, _ in canvas.parts] + [False])  # -1 is the last
        mask = owned[canvas.owner]
        keypoints = _marked(canvas, doll, place, height, body)
        if np.count_nonzero(mask) < VISIBLE * whole[body] or np.count_nonzero(keypoints[:, 2]) < INSIDE:
            return None
        figure.keypoints.append(keypoints)
        figure.masks.append(mask)
    return figure


def _marked(canvas: Canvas, doll: Doll, place: np.ndarray, height: float, body: int) -> np.ndarray:
    """Keypoints [17, 3]; a joint is seen where its own body's part is drawn at its pixel, on this side of it."""
    H, W = canvas.owner.shape
    keypoints = np.zeros((len(NAMES), 3))
    trunk = float(doll.joints[[5, 6, 11, 12], 2].mean())
    for index, (name, joint) in enumerate(zip(NAMES, doll.joints)):
        x, y = projected(joint, place, height)
        if not (0 <= x < W and 0 <= y < H):
            continue
        owner = canvas.owner[int(y), int(x)]
        number, part = canvas.parts[owner] if owner >= 0 else (-1, "")
        if index < 5:
            seen = part in ("head", "ear") and joint[2] >= doll.head[2] - 0.2 * HEAD
        else:
            seen = part in SEEN_ON[name] and not (part in ("torso", "pelvis") and joint[2] < trunk - 0.05)
        keypoints[index] = x - 0.5, y - 0.5, 2 if seen and number == body else 1
    return keypoints


class Figures(Bodies):
    """One to three bodies in each picture; those that come later cover earlier ones, and boards cover all.

    At least 40 % of every body is seen, and its box and area are of what is seen. Joints outside of the picture are not
    marked.

    Args:
        material: what backgrounds are made of.
        size: height and width in pixels.
        part: 0 to train on, 1 to validate on; figures of the same number differ between them.
        numbers: of the figures.
    """

    joints = JOINTS

    def __init__(self, material: Garments, size: tuple[int, int], part: int, numbers: Sequence[int]):
        self.material, self.size, self.part, self.numbers = material, size, part, numbers
        self.classes, self.categories, self.category_ids = list(NAMES), ["person"], [1]
        self.crops = [
            Crop(picture, body)
            for picture, number in enumerate(numbers)
            for body in range(BODIES[number % len(BODIES)])
        ]
        self._last: tuple[int, Figure] | None = None  # a sample asks for the picture and then for its annotation

    @property
    def pictures(self) -> "WholeFigures":
        return WholeFigures(self)

    def objects(self, picture: int) -> Objects:
        figure = self.figure(picture)
        objects = objects_seen(figure.masks, [0] * len(figure.masks), self.numbers[picture], self.size)
        return replace(objects, keypoints=np.stack(figure.keypoints))

    def figure(self, picture: int) -> Figure:
        """The picture with its bodies."""
        number, last = self.numbers[picture], self._last
        if last is None or last[0] != number:
            rng = np.random.RandomState([2 + self.part, number])
            last = number, compose(self.material, self.size, BODIES[number % len(BODIES)], rng)
            self._last = last
        return last[1]


class WholeFigures(Pictures):
    """Figures as data for detection: all bodies of a picture, with boxes and masks.

    Args:
        figures: the pictures.
    """

    has_masks = True
    problems: Sequence[Problem] = ()

    def __init__(self, figures: Figures):
        self.figures, self.classes, self.category_ids = figures, figures.categories, figures.category_ids

    def __len__(self) -> int:
        return len(self.figures.numbers)

    def picture(self, index: int) -> Image.Image:
        return Image.fromarray(self.figures.figure(index).picture)

    def name(self, index: int) -> str:
        return f"figure {self.figures.numbers[index]}"

    def annotation(self, index: int) -> dict[str, Any]:
        """As that of ``Marked``; ``segmentations`` are bool arrays [H, W], ``image_id`` is the figure's number."""
        return {"target": self.figures.objects(index).target()}


def whole_figures(name: str) -> tuple[WholeFigures, WholeFigures]:
    """``figures`` as data for detection; arguments and errors are the same."""
    train, val = figures(name)
    return train.pictures, val.pictures


def figures(name: str) -> tuple[Figures, Figures]:
    """Training and validation figures; the latter are a tenth more.

    Args:
        name: "figures" for 1000 training pictures 128 px high and 160 px wide; "figures:COUNT" for another number of
            them, "figures:COUNTxHEIGHT" also for another height, the width being 5/4 of it.

    Raises:
        UserError: another name, no picture, a height below 64 or above 2048.
    """
    (train, val), (size, *numbers) = garments_of_parts(), asked(name, "figures", COUNT, 64)
    return Figures(train, size, 0, numbers[0]), Figures(val, size, 1, numbers[1])
