"""One picture: from its file to (3, height, width), uint8, as a viewer shows it."""

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import torch
from torch import Tensor

# Those that Pillow decodes by itself, which others (EPS) leave to another program, and knows by their first bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "PCX", "SGI", "QOI")
MOST_PIXELS = 178_956_970  # above which Pillow, too, takes a file for an attack
MOST_TIMES = 100  # that one side may be as long as the other: resizing makes the shorter one as long as it has to be
ORIENTATION = 0x0112  # EXIF's tag
HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")  # of ISO 23008-12, as brands
TELLING = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")  # whose first bytes no other file has
SAMPLES = {1: "without a sign", 2: "with a sign", 3: "floats", 4: "of no known kind", 5: "complex", 6: "complex"}
MEANINGS = {0: "white is 0", 1: "black is 0", 2: "RGB", 3: "a palette", 5: "CMYK", 6: "YCbCr", 8: "CIELAB"}
BITS, COMPRESSION, PHOTOMETRIC, PLANES, SAMPLE_FORMAT = 258, 259, 262, 284, 339  # TIFF's tags
# What to do to see a picture upright: whether height and width change places, and which of (height, width) to reverse.
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

    warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged EXIF and large sizes, which are minded here
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the endings, in small letters, of names of files that can be read here."""
    from PIL import Image

    known = {*_formats(), "MPO"}  # which is a JPEG with more pictures behind the first
    return frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in known)


def read_picture(path: str, background: str = "white") -> Tensor:
    """Decode the first picture of a file, upright, without transparency and scaled to 8 bits; raise anything if not.

    Transparent pixels show the background. Grey of 16 or 12 bits is scaled by that depth, and floats are of 0…1.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    with _opened(path) as (file, picture):
        if picture.format in ("JPEG", "MPO"):
            try:
                return upright(decode_jpeg(_content(file), ImageReadMode.RGB), _orientation(picture))
            except RuntimeError:  # Pillow may know this kind
                pass
        return _by_pillow(picture, background)


def read_jpeg(path: str) -> tuple[Tensor, int] | None:
    """Return a JPEG file's bytes (uint8), not decoded, and the orientation for `upright`; None for other formats."""
    with _opened(path) as (file, picture):
        return (_content(file), _orientation(picture)) if picture.format in ("JPEG", "MPO") else None


def upright(image: Tensor, orientation: int) -> Tensor:
    """Turn and mirror (..., height, width) as EXIF's orientation says; numbers outside 1 to 8 change nothing."""
    transposed, reversed_ = TURNS.get(orientation, (False, []))
    image = image.transpose(-2, -1) if transposed else image
    return image.flip(reversed_) if reversed_ else image


@contextmanager
def _opened(path: str) -> Iterator[tuple[IO[bytes], Any]]:
    """Open a file and read its header alone; ValueError where it declares a size that would fill the memory."""
    from PIL import Image, UnidentifiedImageError

    with open(path, "rb") as file:
        try:
            picture = Image.open(file, formats=_formats())
        except (UnidentifiedImageError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(_what_it_is(file)) from error
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"{width} x {height} px are more than {MOST_PIXELS:,} in all")
        if max(width, height) > MOST_TIMES * min(width, height):
            raise ValueError(f"{width} x {height} px: one side is more than {MOST_TIMES} times the other")
        yield file, picture


def _what_it_is(file: IO[bytes]) -> str:
    """Say of a file that Pillow cannot open what it is, as far as its first bytes tell."""
    from PIL import Image

    file.seek(0)
    start = file.read(32)
    if not start:
        return "it is empty"
    if start[4:8] == b"ftyp" and start[8:12] in HEIC and b"avif" not in start:  # which may be mif1, too
        return "it is HEIC, which cannot be read here; save it as JPEG or PNG"
    accepts = {name: Image.OPEN[name][1] for name in TELLING if name in Image.OPEN}
    kind = next((name for name, accept in accepts.items() if accept and accept(start)), None)
    if kind == "TIFF":
        return _which_tiff(file)
    if kind:
        return f"it begins as {kind} does, and is damaged or of a kind that cannot be read here"
    return "it begins as no kind of picture does that can be read here"


def _which_tiff(file: IO[bytes]) -> str:
    """Name the kind of a TIFF that Pillow cannot open."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file.seek(0)
    head = file.read(8)
    if head[:4] == b"MM\0+":
        return "it is a BigTIFF in big-endian order, which cannot be read here; save it as an ordinary TIFF, or as PNG"
    try:
        tags = ImageFileDirectory_v2(head + file.read(8) if 43 in head[2:4] else head)
        file.seek(tags.next)
        tags.load(file)
        bits, formats = tags.get(BITS, (1,)), set(tags.get(SAMPLE_FORMAT, (1,)))
        samples = ", ".join(SAMPLES.get(one, f"sample format {one}") for one in sorted(formats))
        meaning, packed = tags[PHOTOMETRIC], tags.get(COMPRESSION, 1)
    except Exception:  # bytes that are no directory lead its reader anywhere
        return "it begins as TIFF does, and is damaged"
    return (
        f"it is a TIFF of a kind that cannot be read here: {'+'.join(map(str, bits))} bits, {samples}, "
        f"{MEANINGS.get(meaning, f'photometric {meaning}')}, compression {packed}; save it with 8 bits, or as PNG"
    )


def _content(file: IO[bytes]) -> Tensor:
    file.seek(0)
    return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)


def _orientation(picture: Any) -> int:
    try:
        found = picture.getexif().get(ORIENTATION)
    except Exception:  # what is no EXIF leads its reader anywhere, and is no reason to leave the picture out
        return 1
    return found if isinstance(found, int) else 1


def _by_pillow(picture: Any, background: str) -> Tensor:
    import numpy as np
    from PIL import Image

    _check_tiff(getattr(picture, "tag_v2", {}))
    _scale_transparency(picture)
    picture.load()
    orientation = _orientation(picture)  # 1 after loading for TIFF, which Pillow turns
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _in_8_bits(picture)
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        ground = Image.new("RGBA", picture.size, background)
        picture = Image.alpha_composite(ground, picture.convert("RGBA"))
    image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    return upright(image, orientation)


def _scale_transparency(picture: Any) -> None:
    """Scale the transparent grey of a PNG of 2 or 4 bits to 8, as Pillow does with its pixels alone."""
    raw = str(picture.tile[0][3]) if picture.format == "PNG" and picture.tile else ""
    if raw in ("L;2", "L;4") and isinstance(picture.info.get("transparency"), int):
        picture.info["transparency"] *= 255 // (2 ** int(raw[-1]) - 1)


def _check_tiff(tags: Any) -> None:
    """Refuse what Pillow reads as something else than it is, from a TIFF's tags."""
    if getattr(tags, "prefix", b"") == b"MM" and 3 in tags.get(SAMPLE_FORMAT, ()) and tags.get(COMPRESSION, 1) != 1:
        raise ValueError("its floats are compressed and in big-endian order; save it with 8 bits, or as PNG")
    if 2 in tags.get(SAMPLE_FORMAT, ()):
        raise ValueError("its samples have a sign; those without one can be read")
    if tags.get(PLANES, 1) == 2 and tags.get(COMPRESSION, 1) == 1 and max(tags.get(BITS, (1,))) > 8:
        raise ValueError("its colours lie in planes of 16 bits, without compression; save it with 8 bits, or as PNG")


def _in_8_bits(picture: Any) -> Any:
    """Scale grey of more than 8 bits, which Pillow would clip at 255."""
    import numpy as np
    from PIL import Image

    tags = getattr(picture, "tag_v2", {})  # of TIFF
    values = np.asarray(picture)
    if picture.mode == "F":
        most = 1.0
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"its floats run from {values.min():g} to {values.max():g}; 0 to 1 can be read")
    elif tags and picture.mode == "I":
        raise ValueError("its grey has 32 bits; 8, 12 and 16 bits can be read")
    else:
        most = 2.0 ** tags.get(BITS, (16,))[0] - 1  # of all others Pillow makes 16 bits
    scaled = np.rint(values * (255 / most))
    if tags.get(PHOTOMETRIC) == 0:  # white is 0, which Pillow minds in 8 bits alone
        scaled = 255 - scaled
    grey = Image.fromarray(scaled.astype(np.uint8))
    if "transparency" in picture.info:
        grey.putalpha(Image.fromarray(np.where(values == picture.info["transparency"], 0, 255).astype(np.uint8)))
    return grey
