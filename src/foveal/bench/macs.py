"""One counter of multiply-adds.

Products (convolutions, linear layers, matrix products, attention) are counted by ``torch.utils.flop_counter``, which
reports two operations per multiply-add; we report one. fvcore, whose count the thesis prints as "GFLOPs", adds a few
elementwise terms, which are counted here by the same rules: LayerNorm 5 per element, BatchNorm in evaluation 2 per
element, bilinear sampling 4 per output element, global average pooling 1 per input element; softmax, activations,
additions and copies nothing. fvcore's 1 per output element of nearest upsampling is left out: the counter sees parts of
that operator only.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

aten = torch.ops.aten


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one forward pass.

    Attributes:
        products: convolutions, linear layers and matrix products, one per multiply-add.
        elementwise: what fvcore adds for norms, sampling and pooling.
    """

    products: int
    elementwise: int

    @property
    def fvcore(self) -> int:
        """The count that fvcore's ``FlopCountAnalysis`` gives."""
        return self.products + self.elementwise


class _Counter(FlopCounterMode):
    """``FlopCounterMode`` that also counts the elementwise terms of fvcore."""

    def __init__(self):
        sdpa_on_cpu = aten._scaled_dot_product_flash_attention_for_cpu  # the one that the registry lacks
        super().__init__(display=False, custom_mapping={sdpa_on_cpu: _sdpa_flop})
        self.elementwise = 0

    def _count_flops(self, func_packet, out, args, kwargs):
        first = out[0] if isinstance(out, tuple) else out
        if func_packet is aten.native_layer_norm:
            self.elementwise += 5 * first.numel()
        elif func_packet in _BATCH_NORMS:
            self.elementwise += 2 * first.numel()
        elif func_packet is aten.grid_sampler_2d:
            self.elementwise += 4 * first.numel()
        elif func_packet in (aten.mean, aten._adaptive_avg_pool2d) and first.shape[-2:] in _POOLED:
            self.elementwise += prod(args[0].shape)
        return super()._count_flops(func_packet, out, args, kwargs)


def _sdpa_flop(query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


_BATCH_NORMS = {aten.native_batch_norm, aten._native_batch_norm_legit_no_training, aten.cudnn_batch_norm}
_POOLED = {(1, 1)}


def count_macs(model: nn.Module, size: tuple[int, int] = (224, 224), in_chans: int = 3) -> Macs:
    """Count one forward pass of one image in evaluation mode.

    Args:
        model: any module that takes [1, in_chans, H, W]; left as it was.
        size: (H, W) in pixels.
        in_chans: channels of the image.

    Returns:
        The multiply-adds as executed; on a GPU EMSNet executes others than those of its definition.
    """
    training = model.training
    parameter = next(model.parameters())
    image = torch.zeros(1, in_chans, *size, device=parameter.device, dtype=parameter.dtype)
    counter = _Counter()
    # Autograd stays on: the fast paths of inference would move norms into kernels, where nothing can count them.
    with torch.enable_grad(), counter:
        model.eval()(image)
    model.train(training)
    return Macs(counter.get_total_flops() // 2, counter.elementwise)
