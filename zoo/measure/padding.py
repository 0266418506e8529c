"""Arithmetic of sliding windows (Dumoulin, Visin, 2016) along one axis, in px."""

from typing import Literal


def output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """Return the number of window positions on an image padded by `padding` at both ends.

    In `ceil_mode` (of poolings), a last window may exceed the end if it starts within the image or its left padding.
    """
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    places = room // stride + 1
    if ceil_mode and room % stride and places * stride < size + padding:
        places += 1
    return places


def same_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """Return the padding before and after for an output size of ceil(size / stride), as TensorFlow's SAME.

    If their sum is odd, the end gets one px more; for stride 1 and odd kernels both are dilation · (kernel - 1) / 2.
    """
    places = -(-size // stride)
    total = max((places - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def padding_kind(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> Literal["valid", "same", "padded"]:
    """Classify a padding: `valid` for none, `same` if the output size depends only on the stride, else `padded`."""
    if padding == 0 and kernel > stride and not ceil_mode:
        return "valid"
    same = output_size(size, kernel, stride, padding, dilation, ceil_mode) == -(-size // stride)
    return "same" if same else "padded" if padding else "valid"
