"""RetinaNet beside torchvision's, with the same backbone and weights."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.transforms.functional import to_tensor

from conftest import randomize
from foveal.data import load_data
from foveal.detection import build

SIZE = (128, 224)
CLASSES = 10


class Maps(nn.Module):
    """Our backbone and pyramid as torchvision takes them."""

    out_channels = 256

    def __init__(self, detector):
        super().__init__()
        self.backbone, self.neck = detector.backbone, detector.neck

    def forward(self, images):
        return OrderedDict(enumerate(self.neck(self.backbone(images))))


@pytest.fixture(scope="module")
def pair():
    """Ours and torchvision's; its pictures are of the right size and neither resized nor normalised."""
    torch.manual_seed(0)
    ours = randomize(build("retinanet", "test_mat", CLASSES)).eval()
    ours.head.regression_head.bbox_reg.weight.data.mul_(0.2)
    ours.head.classification_head.cls_logits.bias.data.fill_(-2)
    same = dict(image_mean=[0.0] * 3, image_std=[1.0] * 3, min_size=SIZE[0], max_size=SIZE[1], detections_per_img=100)
    theirs = RetinaNet(Maps(ours), CLASSES, **same).eval()
    theirs.head.load_state_dict(ours.head.state_dict())
    return ours, theirs


def pictures(kind: str) -> torch.Tensor:
    if kind == "random":
        return torch.randn(2, 3, *SIZE)
    garments, _ = load_data("fashion")
    tiles = [to_tensor(garments.picture(i).resize((32, 32))) for i in range(2 * 4 * 7)]
    rows = [torch.cat(tiles[i : i + 7], dim=2) for i in range(0, len(tiles), 7)]
    return torch.stack([torch.cat(rows[:4], dim=1), torch.cat(rows[4:], dim=1)])


def targets(empty: bool) -> list[dict]:
    boxes = torch.tensor([[3.0, 5, 60, 90], [100, 20.5, 220, 128], [40, 40, 52, 55]])
    second = {"boxes": torch.tensor([[10.0, 10, 90, 70]]), "labels": torch.tensor([9])}
    if empty:
        second = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    return [{"boxes": boxes, "labels": torch.tensor([0, 4, 9])}, second]


@pytest.mark.parametrize("kind", ["random", "real"])
def test_raw_outputs_and_detections(pair, kind):
    ours, theirs = pair
    images, sizes = pictures(kind), torch.tensor([SIZE, SIZE])
    with torch.no_grad():
        raw, expected = ours(images, sizes), theirs.head(list(theirs.backbone(images).values()))
        found, others = ours.detections(raw, sizes), theirs(list(images))
    torch.testing.assert_close(raw["logits"], expected["cls_logits"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(raw["deltas"], expected["bbox_regression"], rtol=1e-4, atol=1e-4)
    for one, other in zip(found, others, strict=True):
        assert len(one["boxes"]) > 20
        assert len({*one["labels"].tolist()}) > 3
        for name in ("boxes", "scores", "labels"):
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("kind", ["random", "real"])
def test_losses(pair, kind, empty):
    ours, theirs = pair
    images, wanted = pictures(kind), targets(empty)
    theirs.training = True  # of the whole alone: it then gives losses, and BatchNorm stays as it is
    others = theirs(list(images), wanted)
    theirs.training = False
    parts = ours.losses(ours(images, torch.tensor([SIZE, SIZE])), wanted)
    assert parts["boxes"] > 0.1
    torch.testing.assert_close(parts["classification"], others["classification"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parts["boxes"], others["bbox_regression"], rtol=1e-4, atol=1e-4)
