"""Reading an image: orientation, depth, transparency and size, compared with Pillow's pixels and known numbers.

`pixels` and `refusal` read each file by its path and as an image that Pillow has opened.
"""

import base64
import copy
import io
import math
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.io import ImageReadMode, decode_image

from zoo.data.read_image import _formats, picture_of, read_jpeg, read_picture, suffixes, upright

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def smooth(width=48, height=30) -> Image.Image:
    corners = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return corners.resize((width, height), Image.Resampling.BICUBIC)


def pixels(path) -> np.ndarray:
    found = read_picture(str(path))
    for source in (path, io.BytesIO(path.read_bytes())):
        with Image.open(source) as opened, Image.open(path) as untouched:
            assert torch.equal(picture_of(opened), found)
            assert torch.equal(picture_of(opened), found)
            opened.load()
            untouched.load()
            assert opened == untouched  # in mode, size, info, palette and bytes
    return found.permute(1, 2, 0).numpy()


def refusal(path) -> str:
    with pytest.raises(ValueError, match=r"^it") as of_path:
        read_picture(str(path))
    with Image.open(path) as opened, pytest.raises(ValueError, match=r"^it") as of_opened:
        picture_of(opened)
    assert str(of_opened.value) == str(of_path.value)
    return str(of_path.value)


def with_tags(path, strips: list[bytes], tags: dict[int, list[int]]):
    """Write a TIFF with these strips and tags."""
    begins = [8 + sum(map(len, strips[:i])) for i in range(len(strips))]
    tags = dict(sorted({**tags, 273: begins, 279: [len(strip) for strip in strips]}.items()))
    start = 8 + sum(map(len, strips))
    end = start + 2 + 12 * len(tags) + 4
    entries = lists = b""
    for tag, values in tags.items():
        place = values[0] if len(values) == 1 else end + len(lists)
        lists += struct.pack(f"<{len(values)}I", *values) if len(values) > 1 else b""
        entries += struct.pack("<HHII", tag, 4, len(values), place)
    head = b"II*\0" + struct.pack("<I", start) + b"".join(strips)
    path.write_bytes(head + struct.pack("<H", len(tags)) + entries + b"\0" * 4 + lists)
    return path


def planar(path, bits, strips: list[bytes], width, height, compression):
    """Write red, green and blue as separate planes."""
    tags = {
        256: [width],
        257: [height],
        258: [bits] * 3,
        259: [compression],
        262: [2],
        277: [3],
        278: [height],
        284: [2],
    }
    return with_tags(path, strips, tags)


def tiff(path, bits, values: bytes, width, height, sample_format=1, photometric=1, compression=1, extra=None):
    """Write one strip of grey with `bits` per sample, like a scanner."""
    bits = np.atleast_1d(bits).tolist()
    tags = {256: [width], 257: [height], 258: bits, 259: [compression], 262: [photometric], 277: [len(bits)]}
    tags |= {278: [height], 338: [extra], 339: [sample_format] * len(bits)}
    return with_tags(path, [values], {tag: numbers for tag, numbers in tags.items() if numbers != [None]})


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
def test_a_picture_is_seen_upright_as_pillow_turns_it(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth().save(tmp_path / f"a.{kind}", exif=exif)
    with Image.open(tmp_path / f"a.{kind}") as picture:
        wanted = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    found = pixels(tmp_path / f"a.{kind}")
    assert found.shape == wanted.shape == ((48, 30, 3) if orientation > 4 else (30, 48, 3))
    assert np.abs(found.astype(int) - wanted).mean() < 1  # JPEG decoders differ in the last bit


def test_a_jpeg_that_a_device_is_to_decode_comes_with_its_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth().save(tmp_path / "a.jpg", exif=exif)
    content, orientation = read_jpeg(str(tmp_path / "a.jpg"))
    assert orientation == 6
    image = upright(decode_image(content, ImageReadMode.RGB), orientation)
    assert torch.equal(image, read_picture(str(tmp_path / "a.jpg")))
    smooth().save(tmp_path / "a.png")
    assert read_jpeg(str(tmp_path / "a.png")) is None


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp", "gif"])
def test_ordinary_pictures_have_the_very_bytes_that_torchvision_and_pillow_read(tmp_path, kind):
    smooth().save(tmp_path / f"a.{kind}")
    path = str(tmp_path / f"a.{kind}")
    with Image.open(path) as picture:
        theirs = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(read_picture(path), theirs if kind == "bmp" else decode_image(path, ImageReadMode.RGB))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_what_is_no_exif_leaves_the_picture_as_it_is(tmp_path):
    smooth().save(tmp_path / "plain.jpg", quality=90)
    smooth().save(tmp_path / "odd.jpg", quality=90, exif=b"Exif\0\0II*\0\xff\xff\xff\xffnonsense")
    assert np.array_equal(pixels(tmp_path / "odd.jpg"), pixels(tmp_path / "plain.jpg"))


def test_pillow_prints_no_warnings_of_its_own(tmp_path):
    """They would be two lines with a path in its source, and without the image's name."""
    smooth().save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xffnonsense")
    for is_told, after in ((True, lambda: None), (False, _formats.__wrapped__)):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            after()
            read_picture(str(tmp_path / "a.jpg"))
        assert any("Corrupt EXIF" in str(one.message) for one in told) == is_told


@pytest.mark.parametrize("kind", ["png", "tiff", "pgm", "jp2"])
def test_grey_of_16_bits_is_scaled_and_not_clipped(tmp_path, kind):
    Image.fromarray(RAMP).save(tmp_path / f"a.{kind}")
    found = pixels(tmp_path / f"a.{kind}")
    assert found.mean() == pytest.approx(127.5, abs=0.01)  # of a ramp
    assert np.array_equal(found[..., 0], found[..., 2])
    assert np.abs(found[..., 0] - RAMP / 257).max() <= 0.5 + 1e-9


def test_grey_of_16_bits_may_have_a_transparent_value(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png", transparency=0)
    found = pixels(tmp_path / "a.png")[..., 0]
    assert found[0, 0] == 255
    assert found[0, 1] == 0


def test_grey_of_12_bits_is_scaled_by_the_depth_that_the_file_declares(tmp_path):
    values = np.arange(4096).reshape(64, 64)
    high, low = values.reshape(-1, 2).T
    packed = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], 1).astype(np.uint8).tobytes()
    found = pixels(tiff(tmp_path / "a.tif", 12, packed, 64, 64))
    assert found.mean() == pytest.approx(127.5, abs=0.01)
    assert np.abs(found[..., 0] - values * 255 / 4095).max() <= 0.5 + 1e-9
    (tmp_path / "a.pgm").write_bytes(b"P5 64 64 4095\n" + values.astype(">u2").tobytes())
    assert np.abs(pixels(tmp_path / "a.pgm")[..., 0] - values * 255 / 4095).max() <= 0.51


def test_a_scan_of_16_bits_whose_white_is_0_is_no_negative(tmp_path):
    found = pixels(tiff(tmp_path / "a.tif", 16, RAMP.tobytes(), 256, 256, photometric=0))
    assert np.abs(found[..., 0] - (65535 - RAMP.astype(int)) / 257).max() <= 0.5 + 1e-9


def test_colours_of_16_bits_keep_their_high_byte(tmp_path):
    ramp = np.stack([RAMP, RAMP.T, RAMP[::-1]], -1)[::16]
    (tmp_path / "a.ppm").write_bytes(b"P6 256 16 65535\n" + ramp.astype(">u2").tobytes())
    assert np.abs(pixels(tmp_path / "a.ppm") - ramp / 257).max() <= 1


# Written by imagecodecs (OpenJPEG): 4 x 4 px, all at the highest level of 16, 12, 12 and 4 bits.
OF_JPEG2000 = {
    "colours of 16 bits": (
        "|4;u>051Rl000040000400000000000000400004000000000000R#J0S^HI4*>!HQUDA90003200aa80smY81VDiQWB?@q0Yh?S"
        "VRU6=AYyqSPjF>!N>D{dAa-SPb7^mGATlmBE;Rp;015yA0000O00IA#&-^eD6aZYWfPnwm"
    ),
    "colours of 12 bits": (
        "0000CYEU2`4GM<}0000KW^{RQYH%_j00000YH%_j0000jYH%`W0000MX=r3}000040000400RpL0000001sntY;pkr000005C8xG"
        "k7{r-WB*V8Q2;Lh000001ONa41ONa400000000001ONa41ONa4000000009E0RamE0Sf^E|55-9000010RRL900IA800cl_|6~9q"
        "00BdCWnpw>WFTUBAWv{*Zc0!^M<8}(a&u{KZXhx)H7+#&kN^q*000007XShOlh5Q36aZYWfPnwm"
    ),
    "grey of 12 bits": (
        "0000CYEU2`4GM<}0000KW^{RQYH%_j00000YH%_j0000jYH%`W0000MX=r3}0000400004009dJ0000001sntY;pkr000005dZ)H"
        "hiY&#WB*V8Q2;3b000001ONa41ONa400000000001ONa41ONa4000000003C0RjI~01N;C009611Oxy9|6BkBKw$r503`qcLvm$d"
        "bY)~9VtF7>aAj^vP(?=|c4cyNX>V>IGA=bPH2;tQ3IG5A000#L0soWF<Pa19T(AGx"
    ),
    "grey of 4 bits": (
        "0000CYEU2`4GM<}0000KW^{RQYH%_j00000YH%_j0000jYH%`W0000MX=r3}0000400004009FB0000001sntY;pkr000005dZ)H"
        "hiY&#WB*V8Q2;3b000001ONa41ONa400000000001ONa41ONa400000000340RjI~01N;C009611Oxy9|6BkBKp_8Q03`qcLvm$d"
        "bY)~9VtF7>aAj^vP(?=|c4cyNX>V>IGA=bPH2;tQ3IG5A000#L0soWFgg_JkT%Z5h"
    ),
}


@pytest.mark.parametrize("kind", OF_JPEG2000)
def test_white_in_jpeg_2000_is_white_or_refused(tmp_path, kind):
    """Pillow reads white of 12 and 16 bits as black in colours, and white of 4 bits as 240."""
    (tmp_path / "x.jp2").write_bytes(base64.b85decode(OF_JPEG2000[kind]))
    if kind == "grey of 12 bits":
        assert set(pixels(tmp_path / "x.jp2").flatten()) == {255}
    else:
        bits = kind.removeprefix("colours of ").removeprefix("grey of ")
        assert f"have {bits}" in refusal(tmp_path / "x.jp2")


def test_jpeg_2000_of_8_bits_is_read_with_and_without_its_container(tmp_path):
    picture = smooth()
    for name in ("x.jp2", "x.j2k"):
        picture.save(tmp_path / name, irreversible=False)
        assert (pixels(tmp_path / name) == np.asarray(picture)).all()


def test_a_transparent_colour_of_16_bits_is_refused(tmp_path):
    """Pillow compares it with pixels that it has reduced to 8 bits."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = b"".join(b"\0" + struct.pack(">6H", 0x8000, 0x4000, 0x2000, 1, 2, 3) for _ in range(2))
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)),
        (b"tRNS", struct.pack(">3H", 0x8000, 0x4000, 0x2000)),
    )
    body = b"".join(chunk(*part) for part in (*parts, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")))
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert "transparent colour of 16 bits" in refusal(tmp_path / "x.png")


def test_a_gif_whose_first_frame_is_small_has_the_background_around_it(tmp_path):
    frames = [Image.new("P", (8, 8), 1), Image.new("P", (20, 20), 1)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 0, 255])
    frames[0].save(tmp_path / "x.gif")
    content = bytearray((tmp_path / "x.gif").read_bytes())
    content[6:10] = struct.pack("<HH", 20, 20)  # the canvas
    (tmp_path / "x.gif").write_bytes(content)
    expected = np.full((20, 20, 3), 255, dtype=np.uint8)
    expected[:8, :8] = np.array(frames[0].convert("RGB"))
    assert (pixels(tmp_path / "x.gif") == expected).all()


def test_of_an_animated_png_the_first_frame_is_seen_and_not_the_picture_for_old_viewers(tmp_path):
    old, first, second = (Image.new("RGB", (6, 5), colour) for colour in ("red", "lime", "blue"))
    old.save(tmp_path / "x.png", save_all=True, append_images=[first, second], default_image=True)
    assert (pixels(tmp_path / "x.png") == np.array(first)).all()
    first.save(tmp_path / "y.png", save_all=True, append_images=[second])
    assert (pixels(tmp_path / "y.png") == np.array(first)).all()


def test_a_palette_of_8_bits_in_a_tiff_is_refused(tmp_path):
    levels = list(range(256)) * 3
    tags = {256: [2], 257: [1], 258: [8], 259: [1], 262: [3], 277: [1], 278: [1]}
    wide = with_tags(tmp_path / "x.tif", [b"\x10\xff"], tags | {320: [257 * one for one in levels]})
    assert pixels(wide)[0, :, 0].tolist() == [16, 255]
    assert "palette has 8 bits" in refusal(with_tags(tmp_path / "x.tif", [b"\x10\xff"], tags | {320: levels}))


def test_floats_are_of_0_to_1_and_others_are_refused(tmp_path):
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    assert np.abs(pixels(tmp_path / "a.tif")[..., 0] - ramp * 255).max() <= 0.5 + 1e-4
    for values in (ramp * 255, ramp - 0.5, np.where(ramp > 0.5, np.nan, ramp)):
        Image.fromarray(values.astype(np.float32)).save(tmp_path / "b.tif")
        assert "floats range from" in refusal(tmp_path / "b.tif")


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_samples_with_a_sign_are_refused_and_the_same_bytes_without_one_are_read(tmp_path, bits):
    """-1 is 255 when unsigned: the darkest pixels would become white."""
    values = np.arange(-128, 128).astype(f"<i{bits // 8}").reshape(16, 16)
    assert "are signed" in refusal(tiff(tmp_path / "a.tif", bits, values.tobytes(), 16, 16, sample_format=2))
    if bits == 8:
        found = pixels(tiff(tmp_path / "b.tif", bits, values.tobytes(), 16, 16))
        assert np.array_equal(found[..., 0], values.view(np.uint8))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("compression", [1, 8])
def test_colours_in_planes_are_those_that_were_written_or_refused(tmp_path, bits, compression):
    """Pillow reads each 16-bit plane as 8-bit, unless it is compressed (8 is zlib)."""
    colours = np.asarray(smooth()).astype(np.uint16)
    planes = (colours * 257).astype("<u2") if bits == 16 else colours.astype(np.uint8)
    parts = [np.ascontiguousarray(planes[..., i]).tobytes() for i in range(3)]
    strips = [zlib.compress(part) if compression == 8 else part for part in parts]
    path = planar(tmp_path / "a.tif", bits, strips, 48, 30, compression)
    if bits == 16 and compression == 1:
        assert "planes of 16 bits" in refusal(path)
    else:
        assert np.array_equal(pixels(path), colours)


def test_grey_whose_alpha_is_multiplied_in_already_is_mixed_with_the_background(tmp_path):
    """Grey 100, premultiplied, with half coverage over white: 100 + 255 / 2."""
    grey = np.tile(np.array([[100, 128], [0, 0], [255, 255], [50, 255]], np.uint8), (4, 1, 1))
    path = tiff(tmp_path / "a.tif", (8, 8), grey.tobytes(), 4, 4, extra=1)
    found = pixels(path)[0, :, 0].astype(int)
    assert np.abs(found - [100 + 127, 255, 255, 50]).max() <= 2


def test_grey_of_32_bits_is_refused(tmp_path):
    assert "32 bits" in refusal(tiff(tmp_path / "a.tif", 32, RAMP.astype("<u4").tobytes(), 256, 256))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": 16, "sample_format": 3}, "a TIFF of an unsupported kind: 16 bits, floats, black is 0"),
        ({"bits": 64, "sample_format": 3}, "64 bits, floats"),
        ({"bits": 12, "photometric": 0}, "12 bits, unsigned, white is 0"),
        ({"bits": 8, "photometric": 32803}, "photometric 32803"),  # raw camera data
        ({"bits": 8, "sample_format": 4}, "8 bits, of unknown kind"),
        ({"bits": 8, "compression": 50002}, "compression 50002"),
    ],
)
def test_a_tiff_that_pillow_cannot_read_is_named_as_one_with_its_kind(tmp_path, changes, words):
    with pytest.raises(ValueError, match="it is a TIFF of an unsupported kind: ") as caught:
        read_picture(str(tiff(tmp_path / "a.tif", values=bytes(64 * 8), width=8, height=8, **changes)))
    assert words in str(caught.value)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"no picture", "it does not start like any supported image format"),
        (b"%PDF-1.7 and more than that", "it does not start like any supported image format"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC, which is not supported; save it as JPEG or PNG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "it is HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "it starts like AVIF, but is damaged"),
        (b"II*\0\xff\xff\xff\0 and nothing there", "it starts like TIFF, but is damaged"),
        (b"II+\0\x08\0\0\0\xff\xff\xff\0\0\0\0\0", "it starts like TIFF, but is damaged"),
        (b"\x89PNG\r\n\x1a\n and nothing", "it starts like PNG, but is damaged or of an unsupported kind"),
    ],
)
def test_what_cannot_be_opened_is_told_by_its_first_bytes(tmp_path, content, words):
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (read_picture, read_jpeg):
        with pytest.raises(ValueError, match=r"^it ") as caught:
            read(str(tmp_path / "a.jpg"))
        assert words in str(caught.value)


@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "la.png", "p.png", "gif", "trns.png", "ico"])
def test_transparent_pixels_show_the_background(tmp_path, kind):
    alpha = np.zeros((32, 32), dtype=np.uint8)
    alpha[8:24, 8:24] = 255
    black = Image.new("RGBA", (32, 32))  # a black shape on transparent black
    black.putalpha(Image.fromarray(alpha))
    path = tmp_path / f"a.{kind}"
    if kind == "la.png":
        black.convert("LA").save(path)
    elif kind == "p.png":
        palette = Image.fromarray(alpha // 255, "P")
        palette.putpalette([0] * 6)
        palette.save(path, transparency=b"\x00\xff")
    elif kind == "trns.png":
        Image.fromarray(np.stack([alpha // 255] * 3, -1)).save(path, transparency=(0, 0, 0))
    elif kind == "gif":
        picture = Image.fromarray(alpha // 255, "P")
        picture.putpalette([0, 0, 0, 1, 1, 1])
        picture.save(path, transparency=0)
    elif kind == "webp":
        black.save(path, lossless=True, exact=True)
    else:
        black.save(path)
    found = pixels(path)
    assert (found[alpha == 0] == 255).all()
    assert (found[alpha == 255] <= 1).all()
    assert (read_picture(str(path), "#102030").permute(1, 2, 0).numpy()[0, 0] == [16, 32, 48]).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_transparent_grey_of_a_png_is_the_background_whatever_its_depth(tmp_path, bits):
    """Two pixels; the file declares the second grey transparent, with at most one byte per pixel."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0))
    row = bytes([0, 0, 1]) if bits == 8 else bytes([0, 1 << (8 - 2 * bits)])  # greys 0 and 1
    body = chunk(b"tRNS", struct.pack(">H", 1)) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
    assert pixels(tmp_path / "a.png").tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_compressed_floats_in_big_endian_order_and_a_bigtiff_of_that_order_are_refused_by_name(tmp_path):
    values = zlib.compress(np.ones(16, ">f4").tobytes())
    tags = {256: 4, 257: 4, 258: 32, 259: 8, 262: 1, 273: 8, 277: 1, 278: 4, 279: len(values), 339: 3}
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, number) for tag, number in tags.items())
    head = b"MM\0*" + struct.pack(">I", 8 + len(values)) + values
    (tmp_path / "a.tif").write_bytes(head + struct.pack(">H", len(tags)) + entries + b"\0" * 4)
    assert "big-endian" in refusal(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(b"MM\0+\0\x08\0\0" + struct.pack(">Q", 16) + b"\0" * 32)
    with pytest.raises(ValueError, match="BigTIFF in big-endian order"):
        pixels(tmp_path / "b.tif")


def test_half_transparent_pixels_are_mixed_with_the_background(tmp_path):
    Image.new("RGBA", (4, 4), (200, 100, 0, 51)).save(tmp_path / "a.png")  # a fifth
    assert np.abs(pixels(tmp_path / "a.png")[0, 0] - [244, 224, 204]).max() <= 1


@pytest.mark.parametrize("name", ["a.gif", "a.jpg", "a.webp", "a.png", "a.tif"])
def test_of_an_animation_the_first_frame_is_seen_whatever_its_name(tmp_path, name):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    kind = {"gif": "GIF", "jpg": "GIF", "webp": "WEBP", "png": "PNG", "tif": "TIFF"}[name[2:]]
    more = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(tmp_path / name, kind, save_all=True, append_images=frames[1:], **more)
    assert pixels(tmp_path / name).tolist() == [[[255, 0, 0]] * 20] * 10


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 20_000), (500_000, 500_000), (101, 1)])
def test_a_size_that_explodes_is_refused_before_anything_is_decoded(tmp_path, size):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"nothing") + chunk(b"IEND", b""))
    for read in (read_picture, read_jpeg):
        with pytest.raises(Exception, match=r"times the other|are more than|exceeds limit"):
            read(str(tmp_path / "a.png"))


def test_all_kinds_that_pillow_writes_and_that_are_listed_can_be_read(tmp_path):
    assert {".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".gif", ".webp", ".bmp", ".tif", ".jp2"} <= suffixes()
    assert not suffixes() & {".eps", ".ps", ".wmf", ".pdf", ".mpg", ".txt"}
    for suffix in sorted(suffixes() - {".ico"}):
        smooth().save(tmp_path / f"a{suffix}")
        assert pixels(tmp_path / f"a{suffix}").shape == (30, 48, 3), suffix


@pytest.mark.parametrize(
    "kind", ["png", "gif", "tiff", "webp", "bmp", "qoi", "avif", "p.png", "16.png", "16.tiff", "pgm"]
)
def test_a_decoded_picture_is_what_its_file_is(tmp_path, kind):
    picture = Image.fromarray(RAMP) if kind in ("16.png", "16.tiff", "pgm") else smooth()
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"exif": exif} if kind in ("png", "tiff", "webp", "avif") else {"transparency": 3} if kind == "p.png" else {}
    (picture.convert("P") if kind == "p.png" else picture).save(tmp_path / f"a.{kind}", **more)
    with Image.open(tmp_path / f"a.{kind}") as decoded:
        decoded.load()
    assert torch.equal(picture_of(decoded), read_picture(str(tmp_path / f"a.{kind}")))


def test_a_decoded_scan_of_12_bits_and_one_whose_white_is_0_are_scaled_as_their_files_say(tmp_path):
    with Image.open(tiff(tmp_path / "a.tif", 16, RAMP.tobytes(), 256, 256, photometric=0)) as decoded:
        decoded.load()
    assert np.abs(picture_of(decoded)[0].numpy() - (65535 - RAMP.astype(int)) / 257).max() <= 0.5 + 1e-9
    with Image.open(tiff(tmp_path / "b.tif", 12, b"\xff\xf0\x00" * 32, 8, 8)) as decoded:
        decoded.load()
    assert picture_of(decoded)[0, 0].tolist() == [255, 0] * 4


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "jpg"])
def test_a_deep_copy_or_a_picture_from_another_process_has_its_pixels(tmp_path, kind):
    smooth().save(tmp_path / f"a.{kind}")
    with Image.open(tmp_path / f"a.{kind}") as opened:
        sent = copy.deepcopy(opened)
        assert np.array_equal(picture_of(sent).permute(1, 2, 0), opened.convert("RGB"))


def test_a_deep_copy_of_a_tiff_is_refused_since_it_lost_its_depth(tmp_path):
    with Image.open(tiff(tmp_path / "a.tif", 12, b"\xff\xf0\x00" * 32, 8, 8)) as opened:
        sent = copy.deepcopy(opened)
    with pytest.raises(ValueError, match=r"decoded TIFF, .* pass its path"):
        picture_of(sent)


@pytest.mark.parametrize("kind", ["apng", "trns", "trns of colour", "jp2"])
def test_a_decoded_picture_that_may_not_be_what_its_file_is_is_refused_and_its_copy_is_taken(tmp_path, kind):
    path, black, white = tmp_path / "a.png", Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), "white")
    if kind == "apng":
        black.save(path, save_all=True, append_images=[white], default_image=True)
    elif kind == "jp2":
        black.save(path, "JPEG2000")
    else:
        (black if "colour" in kind else black.convert("L")).save(
            path, transparency=(0, 0, 0) if "colour" in kind else 0
        )
    assert pixels(path).min() == (0 if kind == "jp2" else 255)
    with Image.open(path) as decoded:
        decoded.load()
    with pytest.raises(ValueError, match=r"decoded (PNG|JPEG2000), .* pass its path"):
        picture_of(decoded)
    assert picture_of(decoded.copy()).max() == (255 if "trns" in kind else 0)


@pytest.mark.parametrize("kind", ["gif", "png", "tif", "webp", "mpo"])
def test_a_picture_is_read_at_the_frame_it_is_at(tmp_path, kind):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / f"a.{kind}") as opened:
        for frame in (0, 2, 1):
            opened.seek(frame)
            found = picture_of(opened)
            assert found.sum((1, 2)).argmax() == frame
            assert np.array_equal(found.permute(1, 2, 0), opened.convert("RGB"))


def test_a_picture_that_was_changed_in_memory_is_not_read_from_its_file(tmp_path):
    smooth().save(tmp_path / "a.png")
    for change in (lambda one: one.thumbnail((12, 12)), lambda one: one.paste("red", (0, 0, 9, 9))):
        with Image.open(tmp_path / "a.png") as opened:
            change(opened)
            assert np.array_equal(picture_of(opened).permute(1, 2, 0), opened)
            assert opened.getpixel((0, 0)) != smooth().getpixel((0, 0))


def test_a_picture_whose_file_was_closed_before_it_was_decoded_is_refused(tmp_path):
    for name in ("a.png", "a.tga"):
        smooth().save(tmp_path / name)
        opened = Image.open(tmp_path / name)
        opened.close()
        verified = Image.open(tmp_path / name)
        verified.verify()
        for one in (opened, verified):
            with pytest.raises(ValueError, match=r"closed"):
                picture_of(one)


def test_a_picture_that_pillow_alone_can_open_is_what_it_says(tmp_path):
    smooth().save(tmp_path / "a.tga")
    with Image.open(tmp_path / "a.tga") as opened:
        assert np.array_equal(picture_of(opened).permute(1, 2, 0), smooth())


def test_grey_of_more_than_8_bits_in_memory_is_scaled_if_its_range_is_known_and_else_refused():
    for mode, kind in (("I;16", "<u2"), ("I;16B", ">u2")):
        found = picture_of(Image.frombytes(mode, (256, 256), RAMP.astype(kind).tobytes()))[0].numpy()
        assert np.abs(found - RAMP / 257).max() <= 0.5 + 1e-9
    unit = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert np.abs(picture_of(Image.fromarray(unit))[0].numpy() - unit * 255).max() <= 0.5 + 1e-4
    wide = RAMP.astype(np.int32)
    for values in (wide, wide * 300, wide // 257, -wide, unit * 255, -unit):
        with pytest.raises(ValueError, match=r"32 bits|range from"):
            picture_of(Image.fromarray(values))


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("1", (4, 4), 1),
        Image.new("LA", (4, 4), (0, 0)),
        Image.new("LA", (4, 4), (0, 0)).convert("La"),
        Image.new("RGBA", (4, 4), (0, 0, 0, 0)),
        Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert("RGBa"),
        Image.new("RGBX", (4, 4), (255, 255, 255, 0)),
        Image.new("PA", (4, 4), (0, 0)),
        Image.new("CMYK", (4, 4), (0, 0, 0, 0)),
        Image.new("HSV", (4, 4), (0, 0, 255)),
        Image.new("LAB", (4, 4), (255, 128, 128)),
        Image.new("YCbCr", (4, 4), (255, 128, 128)),
        Image.new("I;16", (4, 4), 65535),
        Image.new("F", (4, 4), 1),
    ],
    ids=lambda picture: picture.mode,
)
def test_what_is_white_or_transparent_in_memory_is_white(picture):
    assert (picture_of(picture) >= (254 if picture.mode == "LAB" else 255)).all()  # Pillow's white in CIELAB


def test_a_palette_in_memory_may_have_transparent_colours():
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 51], "RGBA")
    assert (picture_of(picture) == 204).all()  # black that covers a fifth of white


ODD_SIZES = {
    (0, 5): "at least 1 px",
    (0, 0): "at least 1 px",
    (2, 201): "times the other",
    (20_000, 20_000): "in total",
}


@pytest.mark.parametrize("size", ODD_SIZES)
def test_sizes_that_are_refused_in_files_are_refused_in_memory(size):
    pixel = torch.zeros(3, 1, 1, dtype=torch.uint8)
    in_memory = [pixel.expand(3, *size), pixel.expand(3, *size).movedim(0, -1).numpy(), pixel[0].expand(size).numpy()]
    if math.prod(size) < 10**6:
        in_memory.append(Image.new("RGB", size[::-1]))
    for picture in in_memory:
        with pytest.raises(ValueError, match=ODD_SIZES[size]):
            picture_of(picture)
    assert picture_of(np.zeros((2, 200), np.uint8)).shape == (3, 2, 200)


def test_arrays_and_tensors_are_read_however_they_lie_in_memory():
    array = np.asarray(smooth())
    wide = np.repeat(array, 2, axis=1)
    tensor = torch.tensor(array).permute(2, 0, 1)
    frozen = array.copy()
    frozen.flags.writeable = False
    same = [np.asfortranarray(array), wide[:, ::2], array[::-1].copy()[::-1], frozen, array.astype(">u1")]
    same += [tensor, tensor.contiguous(), torch.tensor(wide).permute(2, 0, 1)[..., ::2]]
    assert all(np.array_equal(picture_of(one).permute(1, 2, 0), array) for one in same)
    grey = array[..., :1]
    same = [grey, grey[..., 0], np.broadcast_to(grey, array.shape), tensor[:1], tensor[:1].expand(3, -1, -1)]
    assert all(np.array_equal(one, grey[..., 0]) for given in same for one in picture_of(given))


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((4, 4), ">u2"),
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4), bool),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 0), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((), np.uint8),
        np.ma.masked_array(np.zeros((4, 4), np.uint8), True),
        torch.zeros(4, 4, dtype=torch.uint8),
        torch.zeros(3, 4, 4, requires_grad=True),
        torch.zeros(3, 4, 4, dtype=torch.uint8, device="meta"),
        torch.zeros(3, 4, 4, dtype=torch.uint8).to_sparse(),
        torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
    ],
)
def test_other_arrays_and_tensors_are_refused(given):
    with pytest.raises((ValueError, TypeError, NotImplementedError), match=r"expected|meta tensor|Sparse"):
        picture_of(given)
