"""Decode only the upper rows of a JPEG file, which is enough for a crop above its bottom."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# Markers of a JPEG file (ITU-T T.81, table B.1)
SEQUENTIAL = (0xC0, 0xC1)  # frames whose pixels come row by row if there is one scan
FRAMES = range(0xC0, 0xD0)  # also of other kinds
TABLE = 0xC4  # a marker within this range that starts no frame
RESTART = 0xD0  # to 0xD7: within the pixels
END, SCAN = 0xD9, 0xDA
BLOCK = 8  # px per side

decoder: Callable[..., Any] | None = None  # imported here once, and not in each worker process
with contextlib.suppress(ImportError):
    import simplejpeg

    decoder = simplejpeg.decode_jpeg


class Frame(NamedTuple):
    """The frame of a file: its size in px, the index of the byte where its height is, and that of its first pixels."""

    height: int
    width: int
    place: int
    scan: int
    step: int  # rows that are decoded together


def decode_upper_rows(content: bytearray, num_rows: int, size: tuple[int, int]) -> Tensor | None:
    """Return at least the first `num_rows` rows of a picture (3, rows, width), uint8, RGB, not upright.

    These rows are equal to those of the whole picture. None if the file has to be decoded whole: if it is not of the
    usual kind (sequential, in one scan, grey or three colours), has another `size` (height, width), or is cut off or
    damaged; or if simplejpeg is not installed. Raises ValueError if the file is damaged. The height in `content` is
    overwritten.
    """
    frame = _frame(content)
    if decoder is None or frame is None or frame[:2] != size or not _is_complete(content, frame):
        return None
    # Colours of lower resolution are interpolated with those of the next row, also across blocks.
    num_rows = min(frame.step * -(-(num_rows + 1) // frame.step), frame.height)
    content[frame.place : frame.place + 2] = num_rows.to_bytes(2)  # the decoder stops there
    rows = torch.from_numpy(decoder(content, strict=False))  # strict would refuse what follows these rows
    assert rows.shape == (num_rows, frame.width, 3)
    return rows.permute(2, 0, 1)


def _is_complete(content: bytearray, frame: Frame) -> bool:
    """Return whether no marker precedes that of the end, so that the decoder does not refuse what follows the rows."""
    pixels = np.frombuffer(content, np.uint8, offset=frame.scan)
    byte, after = pixels[:-1], pixels[1:]
    is_marker = (byte == 0xFF) & (after != 0)
    place = is_marker.argmax()
    if after[place] & 0xF8 == RESTART:
        place = (is_marker & (after & 0xF8 != RESTART)).argmax()
    return bool(is_marker[place] and after[place] == END)


def _frame(content: bytearray) -> Frame | None:
    """Return the frame if it is sequential, of 8 bits, and has one scan of one or three components, else None."""
    frame, place = None, 2  # after the marker of the start
    with contextlib.suppress(IndexError, ValueError):  # it is cut off, or damaged
        while content[place] == 0xFF:
            marker, end = content[place + 1], place + 2 + int.from_bytes(content[place + 2 : place + 4])
            if marker == SCAN:
                is_only = frame is not None and content[place + 4] == content[frame.place + 4]  # of all components
                return frame._replace(scan=end) if frame is not None and is_only else None
            if marker in FRAMES and marker != TABLE:
                factors = [factor & 15 for factor in content[place + 11 : end : 3]]  # vertical ones
                depth, num_components = content[place + 4], content[place + 9]
                if frame or marker not in SEQUENTIAL or depth != 8 or num_components not in (1, 3) or 0 in factors:
                    return None
                height, width = (int.from_bytes(content[i : i + 2]) for i in (place + 5, place + 7))
                frame = Frame(height, width, place + 5, end, BLOCK * max(factors))
            place = end
    return None
