"""What a net with auxiliary heads gives in train mode; in eval mode every net gives one tensor."""

from typing import NamedTuple

from torch import Tensor


class Logits(NamedTuple):
    """Logits of the main head and of each auxiliary one, from the input upwards; all (N, num_classes)."""

    main: Tensor
    aux: tuple[Tensor, ...]
