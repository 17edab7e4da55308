"""What detectors share that predict a set of boxes: one-to-one matching, its losses (Carion et al., 2020, section 3.1).

Every layer predicts boxes of its own and is trained as if it were the last.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torchvision.ops import box_convert, clip_boxes_to_image, generalized_box_iou

from .._errors import UserError
from ..necks import mean_over_processes
from ._dense import float_tree
from ._detector import Detector


class SetDetector(Detector):
    """A detector whose ``forward`` gives ``logits`` [L, B, N, C], ``boxes`` [L, B, N, 4] and ``sizes`` [B, 2].

    L layers predict N boxes each, in shares of a picture's width and height. A subclass sets the attributes and says
    what classes cost.

    Attributes:
        form: of the boxes, cxcywh or xyxy; the L1 distance is taken in it.
        class_weight: of classes in cost and loss; L1 distance counts 5, generalised IoU 2.
    """

    form: ClassVar[str]
    class_weight: ClassVar[float]

    @abstractmethod
    def class_cost(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """[L, N, C], [n] -> what it costs [L, N, n] to give an object to a prediction."""

    @abstractmethod
    def class_loss(self, logits: torch.Tensor, labels: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """The sum over layers, of logits [L, B, N, C], labels [L, B, N] (num_classes for none), number of objects."""

    @abstractmethod
    def best(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits [B, N, C] -> scores from high to low, indices of their boxes, labels [B, N] each."""

    def losses(self, raw: dict[str, Any], targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """``classification``; ``boxes``: L1 distance; ``giou``: generalised IoU; the sums over all layers.

        The last two by the number of objects of the batch.
        """
        raw = float_tree(raw)
        logits, boxes = raw["logits"], raw["boxes"]
        number = mean_over_processes(boxes.new_tensor(sum(len(target["boxes"]) for target in targets)))
        wanted = torch.full(logits.shape[:3], self.num_classes, device=logits.device)
        distance = overlap = boxes.sum() * 0  # pictures without objects still give a gradient
        for i, (target, size) in enumerate(zip(targets, raw["sizes"].tolist())):
            objects = target["boxes"] / boxes.new_tensor([size[1], size[0]] * 2)
            layers, places, matched = self.match(logits[:, i], boxes[:, i], objects, target["labels"])
            wanted[layers, i, places] = target["labels"][matched]
            found, objects = boxes[layers, i, places], objects[matched]
            distance = distance + (found - box_convert(objects, "xyxy", self.form)).abs().sum()
            found = box_convert(found, self.form, "xyxy")
            overlap = overlap + (1 - generalized_box_iou(found, objects).diagonal()).sum()
        return {
            "classification": self.class_weight * self.class_loss(logits, wanted, number),
            "boxes": 5 * distance / number,
            "giou": 2 * overlap / number,
        }

    @torch.no_grad()
    def match(
        self, logits: torch.Tensor, boxes: torch.Tensor, objects: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The one-to-one matching of least cost in every layer (eq. 1), of one picture.

        Args:
            logits: [L, N, C].
            boxes: [L, N, 4] in ``form``.
            objects: [n, 4] as xyxy.
            labels: [n].

        Returns:
            Indices of layers, predictions and objects, of L * min(N, n) pairs.

        Raises:
            UserError: scipy is not installed.
        """
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError:
            raise UserError("matching predictions to objects needs scipy: pip install 'foveal[coco]'") from None
        distance = torch.cdist(boxes, box_convert(objects, "xyxy", self.form).expand(len(boxes), -1, -1), p=1)
        overlap = generalized_box_iou(box_convert(boxes, self.form, "xyxy").flatten(0, 1), objects)
        cost = self.class_weight * self.class_cost(logits, labels) + 5 * distance - 2 * overlap.view_as(distance)
        # What is not finite costs most: the loss then is not finite either, which the training loop reports.
        most = torch.finfo(cost.dtype).max
        cost = cost.nan_to_num(most, most, -most).cpu().numpy()
        pairs = [torch.tensor([*zip(*linear_sum_assignment(one))]).view(-1, 2) for one in cost]
        layers = torch.arange(len(pairs)).repeat_interleave(len(pairs[0]))
        places, matched = torch.cat(pairs).long().unbind(1)
        return layers.to(boxes.device), places.to(boxes.device), matched.to(boxes.device)

    @torch.no_grad()
    def detections(self, raw: dict[str, Any], sizes: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        raw = float_tree(raw)
        found = []
        best = self.best(raw["logits"][-1])
        for scores, places, labels, boxes, (height, width) in zip(*best, raw["boxes"][-1], sizes.tolist()):
            boxes = box_convert(boxes, self.form, "xyxy")[places] * boxes.new_tensor([width, height] * 2)
            found.append({"boxes": clip_boxes_to_image(boxes, (height, width)), "scores": scores, "labels": labels})
        return found
