"""Faster R-CNN (Ren et al., 2015) and Mask R-CNN (He et al., 2017) over a feature pyramid (Lin et al., 2017).

Layers, losses and detections are torchvision's, whose state fits: ``neck.layers`` is its ``backbone.fpn``, ``rpn`` its
``rpn.head``, and the box and mask layers are those of its ``roi_heads``.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.models.detection.rpn import RPNHead, concat_box_prediction_layers
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from ..necks import FPN, Pyramid, mean_over_processes, pad_to_32
from ._dense import grid_anchors, match, suppressed
from ._detector import Detector, as_sizes, register
from ._roi_align import roi_align

BETA = 1 / 9  # where the smooth L1 distance turns from square to linear


class Regions(NamedTuple):
    """Boxes of a picture on which the heads are trained.

    Attributes:
        boxes: [n, 4].
        labels: [n], 0 for background, else 1 more than the object's.
        objects: [n], the object of each box; negative for background.
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    objects: torch.Tensor


class RCNN(Detector):
    """Proposals at strides 4 to 64 of three anchors a position, and a head that classifies and refines them.

    Args:
        backbone: maps of strides 4, 8, 16, 32.
        num_classes: number of classes, without background.
        anchor_size: side in pixels of the square anchor of the finest level; each level doubles it.
        rpn_pre_nms_top_n_train, rpn_pre_nms_top_n_test: most proposals of a level before suppression.
        rpn_post_nms_top_n_train, rpn_post_nms_top_n_test: most proposals of a picture.
        rpn_nms_thresh: overlap above which the lower one of two proposals of a level is left out.
        rpn_batch_size_per_image: anchors on which the proposals of a picture are trained.
        box_batch_size_per_image: proposals on which the heads are trained.
        box_score_thresh: detections below this score are left out.
        box_nms_thresh: overlap above which the lower one of two boxes of a class is left out.
        box_detections_per_img: most detections of a picture.
    """

    def __init__(
        self,
        backbone: Pyramid,
        num_classes: int,
        *,
        anchor_size: int = 32,
        rpn_pre_nms_top_n_train: int = 2000,
        rpn_pre_nms_top_n_test: int = 1000,
        rpn_post_nms_top_n_train: int = 2000,
        rpn_post_nms_top_n_test: int = 1000,
        rpn_nms_thresh: float = 0.7,
        rpn_batch_size_per_image: int = 256,
        box_batch_size_per_image: int = 512,
        box_score_thresh: float = 0.05,
        box_nms_thresh: float = 0.5,
        box_detections_per_img: int = 100,
    ):
        super().__init__(backbone, num_classes)
        self.top_n_train = rpn_pre_nms_top_n_train, rpn_post_nms_top_n_train
        self.top_n_test = rpn_pre_nms_top_n_test, rpn_post_nms_top_n_test
        self.rpn_nms_thresh = rpn_nms_thresh
        self.box_score_thresh, self.box_nms_thresh = box_score_thresh, box_nms_thresh
        self.box_detections_per_img = box_detections_per_img
        self.neck = FPN(backbone.channels, extra="pool")
        self.anchors = AnchorGenerator(tuple((anchor_size * 2**level,) for level in range(5)), ((0.5, 1.0, 2.0),) * 5)
        self.rpn = RPNHead(256, 3)
        self.rpn_matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
        self.rpn_sampler = BalancedPositiveNegativeSampler(rpn_batch_size_per_image, 0.5)
        self.rpn_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.box_head = TwoMLPHead(256 * 7 * 7, 1024)
        self.box_predictor = FastRCNNPredictor(1024, num_classes + 1)
        self.box_matcher = Matcher(0.5, 0.5)
        self.box_sampler = BalancedPositiveNegativeSampler(box_batch_size_per_image, 0.25)
        self.box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0))

    def forward(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> dict[str, Any]:
        """The fully convolutional part, from which ``losses`` and ``detections`` go on with boxes of their choice.

        Returns:
            ``maps``: four [B, 256, H_i, W_i]; ``objectness`` [B, N], ``deltas`` [B, N, 4], ``anchors`` [N, 4],
            ``levels`` [5]; ``sizes`` [B, 2].
        """
        B = images.shape[0]
        sizes = as_sizes(sizes, images)
        images = pad_to_32(images)
        maps = self.neck(self.backbone(images))
        objectness, deltas = concat_box_prediction_layers(*self.rpn(maps))
        anchors = grid_anchors(self.anchors, images.shape[2:], maps)
        outputs = {"objectness": objectness.view(B, -1), "deltas": deltas.view(B, -1, 4), **anchors}
        return {"maps": maps[:4], **outputs, "sizes": sizes}

    def losses(self, raw: dict[str, Any], targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Those of ``rpn_losses`` and ``head_losses``."""
        parts = self.rpn_losses(raw, targets)
        proposals = self.proposals(raw, raw["sizes"], *self.top_n_train)
        return parts | self.head_losses(raw, self.regions(proposals, targets), targets)

    def rpn_losses(self, raw: dict[str, Any], targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """``objectness``: cross entropy; ``proposals``: smooth L1 distance; both by the number of sampled anchors."""
        anchors, objectness, boxes, number = raw["anchors"], [], [], 0
        for logits, deltas, target in zip(raw["objectness"].float(), raw["deltas"].float(), targets):
            matches = match(self.rpn_matcher, target["boxes"], anchors)
            labels = matches.clamp(max=0) + 1  # 1 for objects, 0 for background, -1 for neither
            (positive,), (negative,) = self.rpn_sampler([labels])
            positive, negative = positive.nonzero()[:, 0], negative.nonzero()[:, 0]
            chosen = torch.cat([positive, negative])
            entropy = F.binary_cross_entropy_with_logits(logits[chosen], labels[chosen].float(), reduction="sum")
            offsets = self.rpn_coder.encode_single(target["boxes"][matches[positive]], anchors[positive])
            objectness.append(entropy)
            boxes.append(F.smooth_l1_loss(deltas[positive], offsets, beta=BETA, reduction="sum"))
            number += len(chosen)
        mean = mean_over_processes(anchors.new_tensor(number))
        return {"objectness": torch.stack(objectness).sum() / mean, "proposals": torch.stack(boxes).sum() / mean}

    def head_losses(
        self, raw: dict[str, Any], regions: list[Regions], targets: list[dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """``classification``: cross entropy; ``boxes``: smooth L1 distance; both by the number of regions."""
        logits, deltas = self.box_outputs(raw["maps"], [region.boxes for region in regions])
        labels = torch.cat([region.labels for region in regions])
        entropy = F.cross_entropy(logits, labels, reduction="sum")
        inside = [_objects(region) for region in regions]
        positive = labels.nonzero()[:, 0]
        wanted = torch.cat([target["boxes"][region.objects] for target, region in zip(targets, inside)])
        offsets = self.box_coder.encode_single(wanted, torch.cat([region.boxes for region in inside]))
        distance = F.smooth_l1_loss(deltas[positive, labels[positive]], offsets, beta=BETA, reduction="sum")
        mean = mean_over_processes(entropy.new_tensor(len(labels)))
        return {"classification": entropy / mean, "boxes": distance / mean}

    @torch.no_grad()
    def proposals(
        self, raw: dict[str, Any], sizes: torch.Tensor, pre_nms_top_n: int, post_nms_top_n: int
    ) -> list[torch.Tensor]:
        """The best boxes [n, 4] of each picture, from high to low, inside it."""
        objectness, deltas, levels = raw["objectness"].float(), raw["deltas"].float(), raw["levels"].tolist()
        best, first = [], 0
        for logits in objectness.split(levels, dim=1):
            best.append(first + logits.topk(min(pre_nms_top_n, logits.shape[1])).indices)
            first += logits.shape[1]
        groups = torch.cat([torch.full_like(places[0], level) for level, places in enumerate(best)])
        found = []
        for logits, offsets, places, size in zip(objectness, deltas, torch.cat(best, dim=1), sizes.tolist()):
            boxes = self.rpn_coder.decode_single(offsets[places], raw["anchors"][places])
            boxes = clip_boxes_to_image(boxes, (size[0], size[1]))
            kept = remove_small_boxes(boxes, 1e-3)
            boxes, scores = boxes[kept], logits[places[kept]].sigmoid()
            found.append(boxes[batched_nms(boxes, scores, groups[kept], self.rpn_nms_thresh)[:post_nms_top_n]])
        return found

    @torch.no_grad()
    def regions(self, proposals: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]) -> list[Regions]:
        """A random choice of proposals and objects' boxes, at most a quarter of them on objects."""
        chosen = []
        for boxes, target in zip(proposals, targets):
            boxes = torch.cat([boxes, target["boxes"]])
            objects = match(self.box_matcher, target["boxes"], boxes)
            labels = torch.zeros_like(objects)
            labels[objects >= 0] = target["labels"][objects[objects >= 0]] + 1
            (positive,), (negative,) = self.box_sampler([labels])
            kept = (positive | negative).nonzero()[:, 0]
            chosen.append(Regions(boxes[kept], labels[kept], objects[kept]))
        return chosen

    def box_outputs(self, maps: list[torch.Tensor], boxes: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Classes and boxes within boxes [n, 4] of each picture.

        Returns:
            Logits [M, 1 + num_classes], the background first, and deltas [M, 1 + num_classes, 4].
        """
        logits, deltas = self.box_predictor(self.box_head(roi_align(maps, boxes, 7)))
        return logits.float(), deltas.float().view(*logits.shape, 4)

    @torch.no_grad()
    def detections(self, raw: dict[str, Any], sizes: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        proposals = self.proposals(raw, sizes, *self.top_n_test)
        logits, deltas = self.box_outputs(raw["maps"], proposals)
        counts = [len(boxes) for boxes in proposals]
        found = []
        parts = zip(logits.softmax(1)[:, 1:].split(counts), deltas[:, 1:].split(counts), proposals, sizes)
        for scores, offsets, boxes, size in parts:
            places, labels = (scores > self.box_score_thresh).nonzero(as_tuple=True)
            boxes = self.box_coder.decode_single(offsets[places, labels], boxes[places])
            height, width = size.tolist()
            kept = remove_small_boxes(clip_boxes_to_image(boxes, (height, width)), 1e-2)
            boxes, scores, labels = boxes[kept], scores[places, labels][kept], labels[kept]
            found.append(suppressed(boxes, scores, labels, size, self.box_nms_thresh, self.box_detections_per_img))
        return found


@register("faster_rcnn")
class FasterRCNN(RCNN):
    """Faster R-CNN; arguments are those of ``RCNN``."""


@register("mask_rcnn")
class MaskRCNN(RCNN):
    """Mask R-CNN: a mask of 28x28 for every box.

    Args:
        args: those of ``RCNN``.
    """

    masks = True

    def __init__(self, backbone: Pyramid, num_classes: int, **args: Any):
        super().__init__(backbone, num_classes, **args)
        self.mask_head = MaskRCNNHeads(256, (256, 256, 256, 256), 1)
        self.mask_predictor = MaskRCNNPredictor(256, 256, num_classes + 1)

    def head_losses(
        self, raw: dict[str, Any], regions: list[Regions], targets: list[dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """Also ``masks``: mean cross entropy of the object's class in the regions that show one."""
        inside = [_objects(region) for region in regions]
        logits = self.mask_outputs(raw["maps"], [region.boxes for region in inside])
        logits = _of_class(logits, torch.cat([region.labels for region in inside]))
        side = logits.shape[2]
        wanted = []
        for target, region, (height, width) in zip(targets, inside, raw["sizes"].tolist()):
            masks = target["masks"][:, :height, :width]  # or an object at the edge would fade into the padding
            wanted.append(project_masks_on_boxes(masks, region.boxes, region.objects, side))
        entropy = F.binary_cross_entropy_with_logits(logits, torch.cat(wanted), reduction="sum")
        mean = mean_over_processes(entropy.new_tensor(len(logits))) * side**2
        return super().head_losses(raw, regions, targets) | {"masks": entropy / mean}

    def mask_outputs(self, maps: list[torch.Tensor], boxes: list[torch.Tensor]) -> torch.Tensor:
        """Masks within boxes [n, 4] of each picture: logits [M, 1 + num_classes, 28, 28], the background first."""
        return self.mask_predictor(self.mask_head(roi_align(maps, boxes, 14))).float()

    @torch.no_grad()
    def detections(self, raw: dict[str, Any], sizes: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        found = super().detections(raw, sizes)
        logits = self.mask_outputs(raw["maps"], [one["boxes"] for one in found])
        masks = _of_class(logits, torch.cat([one["labels"] for one in found]) + 1).sigmoid()
        for one, inside in zip(found, masks.split([len(one["boxes"]) for one in found])):
            one["masks"] = inside
        return found


def _objects(region: Regions) -> Regions:
    """The part of a picture's regions that shows an object."""
    kept = region.labels.nonzero()[:, 0]
    return Regions(region.boxes[kept], region.labels[kept], region.objects[kept])


def _of_class(masks: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """[M, K, m, m], [M] -> [M, m, m]."""
    return masks[torch.arange(len(masks), device=masks.device), labels]
