"""Convert a net trained with fake quantization to an int8 program, with torchao's PT2E."""

import copy
import functools
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor

from zoo.quantize.graph_ir import Program, serialize
from zoo.quantize.pooling import without_ceil_mode
from zoo.quantize.pt2e import quiet_torchao
from zoo.quantize.qat_int8 import FakeQuantizedNet, only_conv2d_patterns
from zoo.records.steps import MAX_STEPS, Record


class StepRecord(Record, frozen=True, kw_only=True):
    program: Annotated[list[Any], Meta(max_length=MAX_STEPS)]


def converted(net: FakeQuantizedNet) -> tuple[Program, dict[str, Tensor]]:
    """Return the int8 program of a net trained with fake quantization, and its tensors, rounded as in training."""
    net = copy.deepcopy(net).cpu().eval()
    net._enter((False, False, False))
    for module in net.fake_quantizers():  # or convert would change the scales of weights by half a per cent
        module.calculate_qparams = functools.partial(_qparams, module)
    with quiet_torchao(), only_conv2d_patterns():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        return serialize(without_ceil_mode(convert_pt2e(net.graph)))


def _qparams(module: Any) -> tuple[Tensor, Tensor]:
    return module.scale, module.zero_point
