"""The arithmetic of windows that slide over an image (Dumoulin, Visin, 2016), along one axis, in px."""

from typing import Literal


def output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """Count the places of a window on an image padded by `padding` at both ends.

    In `ceil_mode` (of poolings) a last window may hang over the end, if it begins within the image or its left padding.
    """
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    places = room // stride + 1
    if ceil_mode and room % stride and places * stride < size + padding:
        places += 1
    return places


def same_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """Return the padding before and after with which the output has ceil(size / stride) places, as TensorFlow's SAME.

    An odd px goes to the end; for stride 1 and odd kernels both are dilation · (kernel - 1) / 2.
    """
    places = -(-size // stride)
    total = max((places - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def padding_kind(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> Literal["valid", "same", "padded"]:
    """Name a padding: `valid` for none, `same` where stride alone decides the output's size, else `padded`."""
    if padding == 0 and kernel > stride and not ceil_mode:
        return "valid"
    same = output_size(size, kernel, stride, padding, dilation, ceil_mode) == -(-size // stride)
    return "same" if same else "padded" if padding else "valid"
