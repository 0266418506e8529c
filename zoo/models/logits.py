"""Output of a net with auxiliary heads in train mode; in eval mode every net returns a tensor."""

from typing import NamedTuple

from torch import Tensor


class Logits(NamedTuple):
    """Logits of the main head and of the auxiliary heads, from the input upwards; all (N, num_classes)."""

    main: Tensor
    aux: tuple[Tensor, ...]
