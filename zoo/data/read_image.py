"""Read an image file as (3, height, width), uint8, as a viewer shows it."""

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import torch
from torch import Tensor

from zoo.errors import counted

# Formats that Pillow decodes itself (not EPS, which needs an external program) and recognises by their first bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "PCX", "SGI", "QOI")
MOST_PIXELS = 178_956_970  # above this, Pillow also treats a file as an attack
MOST_TIMES = 100  # maximum aspect ratio, since resizing fixes the shorter side
ORIENTATION = 0x0112  # EXIF's tag
HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")  # brands of ISO 23008-12
TELLING = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")  # with unambiguous first bytes
SAMPLES = {1: "unsigned", 2: "signed", 3: "floats", 4: "of unknown kind", 5: "complex", 6: "complex"}
MEANINGS = {0: "white is 0", 1: "black is 0", 2: "RGB", 3: "a palette", 5: "CMYK", 6: "YCbCr", 8: "CIELAB"}
BITS, COMPRESSION, PHOTOMETRIC, PLANES, COLORMAP, SAMPLE_FORMAT = 258, 259, 262, 284, 320, 339  # TIFF's tags
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

    known = {*_formats(), "MPO"}  # a JPEG followed by more pictures
    return frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in known)


def read_picture(path: str, background: str = "white") -> Tensor:
    """Decode the first picture of a file, upright, opaque and scaled to 8 bits; may raise any exception on failure.

    Transparent pixels get the background colour. Grey of 16 or 12 bits is scaled by its depth; floats must be in 0…1.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    with _opened(path) as (file, picture):
        if picture.format in ("JPEG", "MPO"):
            try:
                return upright(decode_jpeg(_content(file), ImageReadMode.RGB), _orientation(picture))
            except RuntimeError:  # Pillow may support this kind
                pass
        return _by_pillow(picture, background)


def picture_of(given: Any, background: str = "white") -> Tensor:
    """Convert a picture in memory to (3, height, width), uint8, upright and opaque, as `read_picture` reads files.

    `given` is a PIL image, an array (height, width) or (height, width, channels), or a tensor (channels, height,
    width). Raises ValueError unless arrays and tensors are uint8, with 1, 3 or 4 channels.
    """
    import numpy as np
    from PIL import Image

    if isinstance(given, Image.Image):
        return _by_pillow(given.copy(), background)
    if isinstance(given, Tensor) and given.ndim != 3:
        raise ValueError(f"expected a uint8 tensor (channels, height, width), got {tuple(given.shape)}")
    array = given.detach().cpu().movedim(0, -1).numpy() if isinstance(given, Tensor) else given
    if not isinstance(array, np.ndarray):
        raise ValueError(f"expected a path, a PIL image, an array or a tensor, got {type(given).__name__}")
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        order = "(channels, height, width)" if isinstance(given, Tensor) else "(height, width, channels)"
        kind = f"{array.dtype} {tuple(given.shape)}"
        raise ValueError(f"expected uint8 {order} with 1, 3 or 4 channels, got {kind}")
    return _by_pillow(Image.fromarray(array.squeeze(2) if array.ndim == 3 and channels == 1 else array), background)


def read_jpeg(path: str) -> tuple[Tensor, int] | None:
    """Return a JPEG file's bytes (uint8), not decoded, and the orientation for `upright`; None for other formats."""
    with _opened(path) as (file, picture):
        return (_content(file), _orientation(picture)) if picture.format in ("JPEG", "MPO") else None


def sides_of(path: str) -> tuple[int, int]:
    """Return the height and width of an upright picture, from its header; may raise any exception on failure."""
    with _opened(path) as (_, picture):
        turned, _ = TURNS.get(_orientation(picture), (False, []))
        return (picture.width, picture.height) if turned else (picture.height, picture.width)


def upright(image: Tensor, orientation: int) -> Tensor:
    """Rotate and flip (..., height, width) according to the EXIF orientation; values outside 1 to 8 change nothing."""
    transposed, reversed_ = TURNS.get(orientation, (False, []))
    image = image.transpose(-2, -1) if transposed else image
    return image.flip(reversed_) if reversed_ else image


@contextmanager
def _opened(path: str) -> Iterator[tuple[IO[bytes], Any]]:
    """Open a file and read only its header; raise ValueError if the declared size would exhaust the memory."""
    from PIL import Image, UnidentifiedImageError

    with open(path, "rb") as file:
        try:
            picture = Image.open(file, formats=_formats())
        except (UnidentifiedImageError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(_what_it_is(file)) from error
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"{width} x {height} px are more than {MOST_PIXELS:,} px in total")
        if max(width, height) > MOST_TIMES * min(width, height):
            raise ValueError(f"{width} x {height} px: one side is more than {MOST_TIMES} times the other")
        yield file, picture


def _what_it_is(file: IO[bytes]) -> str:
    """Describe a file that Pillow cannot open, judging by its first bytes."""
    from PIL import Image

    file.seek(0)
    start = file.read(32)
    if not start:
        return "it is empty"
    if start[4:8] == b"ftyp" and start[8:12] in HEIC and b"avif" not in start:  # AVIF may also be mif1
        return "it is HEIC, which is not supported; save it as JPEG or PNG"
    accepts = {name: Image.OPEN[name][1] for name in TELLING if name in Image.OPEN}
    kind = next((name for name, accept in accepts.items() if accept and accept(start)), None)
    if kind == "TIFF":
        return _which_tiff(file)
    if kind:
        return f"it starts like {kind}, but is damaged or of an unsupported kind"
    return "it does not start like any supported image format"


def _which_tiff(file: IO[bytes]) -> str:
    """Name the kind of a TIFF that Pillow cannot open."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file.seek(0)
    head = file.read(8)
    if head[:4] == b"MM\0+":
        return "it is a BigTIFF in big-endian order, which is not supported; save it as an ordinary TIFF, or as PNG"
    try:
        tags = ImageFileDirectory_v2(head + file.read(8) if 43 in head[2:4] else head)
        file.seek(tags.next)
        tags.load(file)
        bits, formats = tags.get(BITS, (1,)), set(tags.get(SAMPLE_FORMAT, (1,)))
        samples = ", ".join(SAMPLES.get(one, f"sample format {one}") for one in sorted(formats))
        meaning, packed = tags[PHOTOMETRIC], tags.get(COMPRESSION, 1)
    except Exception:  # the reader may raise anything on bytes that are not a directory
        return "it starts like TIFF, but is damaged"
    return (
        f"it is a TIFF of an unsupported kind: {'+'.join(map(str, bits))} bits, {samples}, "
        f"{MEANINGS.get(meaning, f'photometric {meaning}')}, compression {packed}; save it with 8 bits, or as PNG"
    )


def _content(file: IO[bytes]) -> Tensor:
    file.seek(0)
    return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)


def _orientation(picture: Any) -> int:
    try:
        found = picture.getexif().get(ORIENTATION)
    except Exception:  # the reader may raise anything on damaged EXIF; the picture is still usable
        return 1
    return found if isinstance(found, int) else 1


def _by_pillow(picture: Any, background: str) -> Tensor:
    import numpy as np
    from PIL import Image

    _check_tiff(getattr(picture, "tag_v2", {}))
    _check_depth(picture)
    if getattr(picture, "default_image", False):  # of an animated PNG, for viewers that show no animations
        picture.seek(1)
    covered = picture.tile[0][1] if picture.format == "GIF" and picture.tile else None
    _scale_transparency(picture)
    picture.load()
    orientation = _orientation(picture)  # 1 after loading a TIFF, which Pillow rotates
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _in_8_bits(picture)
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        ground = Image.new("RGBA", picture.size, background)
        picture = Image.alpha_composite(ground, picture.convert("RGBA"))
    if covered and covered != (0, 0, *picture.size) and not picture.has_transparency_data:
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


def _check_depth(picture: Any) -> None:
    """Raise ValueError for depths of JPEG 2000 and PNG that Pillow would scale or compare wrongly."""
    if picture.format == "JPEG2000":
        bits = _bits_of_jpeg2000(picture.fp)
        if max(bits) > 8 and len(bits) > 1:  # Pillow rounds white up to 256, and keeps 0 of it
            raise ValueError(f"its colours have {max(bits)} bits; save it with 8 bits, or as PNG")
        if min(bits) < 8:  # Pillow shifts, so that white becomes grey
            raise ValueError(f"its samples have {counted(min(bits), 'bit')}; save it with 8 bits, or as PNG")
    if picture.format == "PNG" and "transparency" in picture.info and str(picture.tile[0][3]).startswith("RGB;16"):
        raise ValueError("it has a transparent colour of 16 bits; save it with 8 bits, or with an alpha channel")


def _bits_of_jpeg2000(file: IO[bytes]) -> list[int]:
    """Return the bits of each component, from the SIZ segment with which a codestream begins (ISO/IEC 15444-1, A.5)."""
    place = file.tell()
    file.seek(0)
    start = file.read(2)
    file.seek(0)
    while start != b"\xff\x4f":  # a box of the JP2 format: length, kind, content
        size, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        head = 8
        if size == 1:
            size, head = int.from_bytes(file.read(8), "big"), 16
        if kind == b"jp2c":
            break
        if size < head:
            raise ValueError("it starts like JPEG2000, but is damaged")
        file.seek(size - head, 1)
    siz = file.read(42 + 3 * 16384)
    file.seek(place)
    num = int.from_bytes(siz[40:42], "big")
    bits = [(one & 0x7F) + 1 for one in siz[42 : 42 + 3 * num : 3]]
    if siz[:4] != b"\xff\x4f\xff\x51" or not bits:
        raise ValueError("it starts like JPEG2000, but is damaged")
    return bits


def _check_tiff(tags: Any) -> None:
    """Raise ValueError for TIFF files, judging by their tags, that Pillow would read wrongly."""
    if getattr(tags, "prefix", b"") == b"MM" and 3 in tags.get(SAMPLE_FORMAT, ()) and tags.get(COMPRESSION, 1) != 1:
        raise ValueError("its floats are compressed and in big-endian order; save it with 8 bits, or as PNG")
    if 0 < max(tags.get(COLORMAP, (0,))) < 256:
        raise ValueError("its palette has 8 bits, as old programs write it; save it as PNG")
    if 2 in tags.get(SAMPLE_FORMAT, ()):
        raise ValueError("its samples are signed; only unsigned samples are supported")
    if tags.get(PLANES, 1) == 2 and tags.get(COMPRESSION, 1) == 1 and max(tags.get(BITS, (1,))) > 8:
        raise ValueError("its colours are in uncompressed planes of 16 bits; save it with 8 bits, or as PNG")


def _in_8_bits(picture: Any) -> Any:
    """Scale grey of more than 8 bits to 8; Pillow would clip at 255."""
    import numpy as np
    from PIL import Image

    tags = getattr(picture, "tag_v2", {})  # of TIFF
    values = np.asarray(picture)
    if picture.mode == "F":
        most = 1.0
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"its floats range from {values.min():g} to {values.max():g}; expected 0 to 1")
    elif tags and picture.mode == "I":
        raise ValueError("its grey has 32 bits; only 8, 12 and 16 bits are supported")
    else:
        most = 2.0 ** tags.get(BITS, (16,))[0] - 1  # Pillow converts all others to 16 bits
    scaled = np.rint(values * (255 / most))
    if tags.get(PHOTOMETRIC) == 0:  # white is 0, which Pillow handles only for 8 bits
        scaled = 255 - scaled
    grey = Image.fromarray(scaled.astype(np.uint8))
    if "transparency" in picture.info:
        grey.putalpha(Image.fromarray(np.where(values == picture.info["transparency"], 0, 255).astype(np.uint8)))
    return grey
