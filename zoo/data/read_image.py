"""Read an image file as (3, height, width), uint8, as a viewer shows it."""

import contextlib
import functools
import warnings
from typing import IO, Any

import torch
from torch import Tensor

from zoo.data.image_kinds import BITS, PHOTOMETRIC, check_depth, check_tiff, what_it_is
from zoo.data.picture_parts import open_picture

# Formats that Pillow decodes itself (not EPS, which needs an external program) and recognises by their first bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "PCX", "SGI", "QOI")
JPEG = ("JPEG", "MPO")  # MPO is a JPEG followed by more pictures
MOST_PIXELS = 178_956_970  # above this, Pillow also treats a file as an attack
MOST_TIMES = 100  # maximum aspect ratio, since resizing fixes the shorter side
ORIENTATION = 0x0112  # EXIF's tag
# EXIF orientations: whether to transpose height and width, and which of (height, width) to flip.
TURNS = {
    2: (False, [-1]),
    3: (False, [-2, -1]),
    4: (False, [-2]),
    5: (True, []),
    6: (True, [-1]),
    7: (True, [-2, -1]),
    8: (True, [-2]),
}


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged EXIF and large sizes, handled here
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the lower-case extensions of supported image files."""
    from PIL import Image

    known = {*_formats(), *JPEG}
    return frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in known)


def read_picture(path: str, background: str = "white") -> Tensor:
    """Decode the first picture of a file, upright, opaque and scaled to 8 bits; may raise any exception on failure.

    Transparent pixels get the background colour. Grey of 16 or 12 bits is scaled by its depth; floats must be in 0…1.
    """
    with open_picture(path) as file:
        return _read(file, background)


def picture_of(given: Any, background: str = "white") -> Tensor:
    """Convert a picture in memory to (3, height, width), uint8, upright and opaque, as `read_picture` reads files.

    `given` is a PIL image, an array (height, width) or (height, width, channels), or a tensor (channels, height,
    width). Raises ValueError unless arrays and tensors are uint8, with 1, 3 or 4 channels, and for the sizes that
    are refused in files. May raise any exception for a PIL image of a damaged file.
    """
    import numpy as np
    from PIL import Image

    if isinstance(given, Image.Image):
        return _of_pillow(given, background)
    if isinstance(given, Tensor):
        order, channels, sides = "(channels, height, width)", tuple(given.shape[:1]), given.shape[1:]
    elif isinstance(given, np.ndarray) and not isinstance(given, np.ma.MaskedArray):
        order, channels, sides = "(height, width) or (height, width, channels)", given.shape[2:], given.shape[:2]
    else:
        several = "predict() also takes a list or a tuple of these"
        got = type(given).__name__
        raise ValueError(f"expected a path, a PIL image, an array or a tensor, got {got}; {several}")
    kind = str(given.dtype).removeprefix("torch.")
    if kind != "uint8" or len(sides) != 2 or channels not in ((), (1,), (3,), (4,)):
        raise ValueError(f"expected uint8 {order} with 1, 3 or 4 channels, got {kind} {tuple(given.shape)}")
    _check_size(sides[1], sides[0])
    array = given.cpu().movedim(0, -1).numpy() if isinstance(given, Tensor) else given
    return _opaque(Image.fromarray(array.squeeze(2) if channels == (1,) else array), background)


def read_jpeg(path: str) -> tuple[Tensor, int] | None:
    """Return a JPEG file's bytes (uint8), not decoded, and the orientation for `upright`; None for other formats."""
    with open_picture(path) as file:
        picture = open_header(file)
        return (_as_tensor(content_of(file)), orientation_of(picture)) if picture.format in JPEG else None


def sides_of(path: str) -> tuple[int, int]:
    """Return the height and width of an upright picture, from its header; may raise any exception on failure."""
    with open_picture(path) as file:
        picture = open_header(file)
        return upright_sides(picture, orientation_of(picture))


def upright_sides(picture: Any, orientation: int) -> tuple[int, int]:
    """Return the height and width of a PIL picture after `upright`."""
    turned, _ = TURNS.get(orientation, (False, []))
    return (picture.width, picture.height) if turned else (picture.height, picture.width)


def upright(image: Tensor, orientation: int) -> Tensor:
    """Rotate and flip (..., height, width) according to the EXIF orientation; values outside 1 to 8 change nothing."""
    transposed, reversed_ = TURNS.get(orientation, (False, []))
    image = image.transpose(-2, -1) if transposed else image
    return image.flip(reversed_) if reversed_ else image


def open_header(file: IO[bytes], frame: int = 0) -> Any:
    """Read only the header of a file, or of one of its frames; raise ValueError for a size that is not accepted."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(file, formats=_formats())
    except (UnidentifiedImageError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(what_it_is(file)) from error
    if frame:
        picture.seek(frame)
    _check_size(*picture.size)
    return picture


def _check_size(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise ValueError(f"{width} x {height} px: expected at least 1 px per side")
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} x {height} px are more than {MOST_PIXELS:,} px in total")
    if max(width, height) > MOST_TIMES * min(width, height):
        raise ValueError(f"{width} x {height} px: one side is more than {MOST_TIMES} times the other")


def content_of(file: IO[bytes]) -> bytearray:
    """Return all bytes of an open file."""
    file.seek(0)
    return bytearray(file.read())


def _as_tensor(content: bytearray) -> Tensor:
    return torch.frombuffer(content, dtype=torch.uint8)


def decode_jpeg(file: IO[bytes], orientation: int) -> Tensor:
    """Decode an open JPEG file, upright; raise RuntimeError if it is damaged, or of a kind that only Pillow reads."""
    from torchvision import io

    return upright(io.decode_jpeg(_as_tensor(content_of(file)), io.ImageReadMode.RGB), orientation)


def orientation_of(picture: Any) -> int:
    """Return the EXIF orientation of a PIL picture, 1 if it has none."""
    try:
        found = picture.getexif().get(ORIENTATION)
    except Exception:  # the reader may raise anything on damaged EXIF; the picture is still usable
        return 1
    return found if isinstance(found, int) else 1


def _read(file: IO[bytes], background: str, frame: int = 0) -> Tensor:
    """Decode a frame of an open file; see `read_picture`."""
    picture = open_header(file, frame)
    if picture.format in JPEG and not frame:
        with contextlib.suppress(RuntimeError):
            return decode_jpeg(file, orientation_of(picture))
    check_tiff(getattr(picture, "tag_v2", {}))
    check_depth(picture)
    if _is_for_old_viewers(picture):
        picture.seek(1)
    _scale_transparency(picture)
    return _opaque(picture, background)


def _of_pillow(given: Any, background: str) -> Tensor:
    """Read a PIL image, which stays as it is, from its file, or from its pixels once they were decoded."""
    to_decode = getattr(given, "tile", None)  # of a picture that was opened from a file
    if to_decode and (given.fp is None or given.fp.closed):
        raise ValueError("its file was closed before it was decoded; open it again, or pass its path")
    if to_decode and given.format in (*_formats(), *JPEG):
        place = given.fp.tell()
        try:
            return _read(given.fp, background, given.tell())
        finally:
            given.fp.seek(place)
    _check_size(*given.size)
    check_tiff(getattr(given, "tag_v2", {}))
    if _is_ambiguous(given):
        raise ValueError(
            f"it is a decoded {given.format}, of which Pillow keeps too little to read it as its file; pass its path, "
            "open it again, or pass picture.copy() to use its pixels as they are"
        )
    return _opaque(given, background)


def _is_for_old_viewers(picture: Any) -> bool:
    """Return whether this is the picture in an animated PNG for viewers that show no animations."""
    return getattr(picture, "default_image", False) and picture.tell() == 0


def _is_ambiguous(picture: Any) -> bool:
    """Return whether the meaning of a decoded picture depends on what only its file says, such as the bit depth."""
    has_level = picture.mode in ("L", "RGB") and "transparency" in picture.info
    return (
        picture.format == "JPEG2000"
        or (picture.format == "PNG" and (has_level or _is_for_old_viewers(picture)))
        or (picture.format == "TIFF" and not hasattr(picture, "tag_v2"))  # lost by pickle and deepcopy
    )


def _opaque(picture: Any, background: str) -> Tensor:
    """Return the pixels of a PIL image, upright, on a background and in 8 bits."""
    import numpy as np
    from PIL import Image

    picture.load()
    orientation = orientation_of(picture)  # 1 after loading a TIFF, which Pillow rotates
    covered = getattr(picture, "dispose_extent", None) if picture.format == "GIF" else None  # deepcopy loses it
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _in_8_bits(picture)
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        ground = Image.new("RGBA", picture.size, background)
        picture = Image.alpha_composite(ground, picture.convert("RGBA"))
    elif covered and covered != (0, 0, *picture.size) and picture.tell() == 0:
        ground = Image.new("RGB", picture.size, background)  # around a first frame smaller than its canvas
        ground.paste(picture.convert("RGB").crop(covered), covered[:2])
        picture = ground
    image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    return upright(image, orientation)


def _scale_transparency(picture: Any) -> None:
    """Scale the transparent grey level of a 2- or 4-bit PNG to 8 bits, as Pillow does only for pixels."""
    raw = str(picture.tile[0][3]) if picture.format == "PNG" and picture.tile else ""
    if raw in ("L;2", "L;4") and isinstance(picture.info.get("transparency"), int):
        picture.info["transparency"] *= 255 // (2 ** int(raw[-1]) - 1)


def _in_8_bits(picture: Any) -> Any:
    """Scale grey of more than 8 bits to 8; Pillow would clip at 255."""
    import numpy as np
    from PIL import Image

    tags = getattr(picture, "tag_v2", {})  # of TIFF
    values = np.asarray(picture)
    if picture.mode == "I" and picture.format not in ("PNG", "PPM"):
        raise ValueError("its grey has 32 bits; only 8, 12 and 16 bits are supported")
    if picture.mode == "F":
        kind, most = "floats", 1.0
    else:
        kind, most = "levels", 2.0 ** tags.get(BITS, (16,))[0] - 1  # Pillow converts all others to 16 bits
    if not (values.min() >= 0 and values.max() <= most):
        raise ValueError(f"its {kind} range from {values.min():g} to {values.max():g}; expected 0 to {most:g}")
    scaled = np.rint(values * (255 / most))
    if tags.get(PHOTOMETRIC) == 0:  # white is 0, which Pillow handles only for 8 bits
        scaled = 255 - scaled
    grey = Image.fromarray(scaled.astype(np.uint8))
    if "transparency" in picture.info:
        grey.putalpha(Image.fromarray(np.where(values == picture.info["transparency"], 0, 255).astype(np.uint8)))
    return grey
