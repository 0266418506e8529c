"""Recognise image files that Pillow cannot open, or would read wrongly."""

from typing import IO, Any

from zoo.errors import counted

HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")  # brands of ISO 23008-12
TELLING = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")  # with unambiguous first bytes
SAMPLES = {1: "unsigned", 2: "signed", 3: "floats", 4: "of unknown kind", 5: "complex", 6: "complex"}
MEANINGS = {0: "white is 0", 1: "black is 0", 2: "RGB", 3: "a palette", 5: "CMYK", 6: "YCbCr", 8: "CIELAB"}
BITS, COMPRESSION, PHOTOMETRIC, PLANES, COLORMAP, SAMPLE_FORMAT = 258, 259, 262, 284, 320, 339  # TIFF's tags


def what_it_is(file: IO[bytes]) -> str:
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


def check_depth(picture: Any) -> None:
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


def check_tiff(tags: Any) -> None:
    """Raise ValueError for TIFF files, judging by their tags, that Pillow would read wrongly."""
    if getattr(tags, "prefix", b"") == b"MM" and 3 in tags.get(SAMPLE_FORMAT, ()) and tags.get(COMPRESSION, 1) != 1:
        raise ValueError("its floats are compressed and in big-endian order; save it with 8 bits, or as PNG")
    if 0 < max(tags.get(COLORMAP, (0,))) < 256:
        raise ValueError("its palette has 8 bits, as old programs write it; save it as PNG")
    if 2 in tags.get(SAMPLE_FORMAT, ()):
        raise ValueError("its samples are signed; only unsigned samples are supported")
    if tags.get(PLANES, 1) == 2 and tags.get(COMPRESSION, 1) == 1 and max(tags.get(BITS, (1,))) > 8:
        raise ValueError("its colours are in uncompressed planes of 16 bits; save it with 8 bits, or as PNG")
