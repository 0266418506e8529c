"""Upper rows of JPEG files that are decoded alone are those of the whole file; other files are read as before."""

import io
from importlib.resources import files as resources

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from zoo.data import jpeg_rows
from zoo.data.jpeg_rows import decode_upper_rows
from zoo.data.reading import Reading
from zoo.data.reduced_jpeg import open_jpeg
from zoo.data.whole_pictures import PictureCrop

pytest.importorskip("simplejpeg")
PHOTOGRAPH = Image.open(str(resources("sklearn.datasets") / "images" / "flower.jpg")).crop((200, 100, 360, 220))
KINDS = {
    "4:2:0": {"subsampling": "4:2:0"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:4:4": {"subsampling": "4:4:4"},
    "grey": {},
    "restarts": {"subsampling": "4:2:0", "restart_marker_blocks": 3},
    "RGB": {"keep_rgb": True},
    "optimized": {"optimize": True, "quality": 30},
}


def written(width=83, height=61, mode="RGB", **settings) -> bytes:
    """A photograph as a JPEG file."""
    file = io.BytesIO()
    PHOTOGRAPH.resize((width, height)).convert(mode).save(file, "JPEG", **{"quality": 90, **settings})
    return file.getvalue()


def of_kind(kind, **size) -> bytes:
    return written(mode="L" if kind == "grey" else "RGB", **size, **KINDS[kind])


def whole(content) -> torch.Tensor:
    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)


@pytest.mark.parametrize("kind", KINDS)
def test_upper_rows_are_those_of_the_whole_file_to_the_last_bit(kind, capfd):
    for width, height in ((83, 61), (48, 64), (16, 17), (1, 40)):
        content = of_kind(kind, width=width, height=height)
        expected = whole(content)
        for num_rows in {1, 7, 8, 9, 15, 16, 17, 31, 32, height - 1, height}:
            found = decode_upper_rows(bytearray(content), num_rows, (height, width))
            assert torch.equal(found[:, :num_rows], expected[:, :num_rows])
    assert capfd.readouterr() == ("", "")


def test_rows_of_sampling_in_the_height_alone_are_those_of_the_whole_file():
    """4:4:0, which Pillow does not write: 4:2:2 of a turned square, whose blocks are turned by exchanged factors."""
    content = bytearray(of_kind("4:2:2", width=64, height=64))
    factors = content.index(b"\xff\xc0") + 11
    assert content[factors] == 0x21
    content[factors] = 0x12  # its blocks are now below each other: another picture, but a valid one
    expected = whole(content)
    for num_rows in range(1, 65):
        assert torch.equal(decode_upper_rows(content[:], num_rows, (64, 64))[:, :num_rows], expected[:, :num_rows])


def test_no_more_rows_are_decoded_than_the_blocks_of_a_crop_and_of_the_colours_below_it():
    cases = (("4:2:0", 15), ("4:2:0", 16), ("4:4:4", 15), ("grey", 7), ("4:2:0", 60), ("4:2:0", 61))
    found = [decode_upper_rows(bytearray(of_kind(kind)), num_rows, (61, 83)) for kind, num_rows in cases]
    assert [one.shape[1] for one in found] == [16, 32, 16, 8, 61, 61]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_crops_of_a_turned_file_are_those_of_the_whole_one(tmp_path, orientation, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a.jpg").write_bytes(written(exif=exif))
    num_decoded = []
    real = jpeg_rows.decode_upper_rows

    def crops() -> list[torch.Tensor]:
        found = []
        with open(tmp_path / "a.jpg", "rb") as file:
            jpeg = open_jpeg(file)
            height, width = jpeg.sides
            for top, left in ((0, 0), (0, width - 20), (height - 20, 0), (height - 20, width - 20), (18, 25)):
                rectangle = [float(top), float(left), 20.0, 20.0]
                found.append(PictureCrop(None, 12).of_jpeg(jpeg, rectangle, Reading(12, scaled=False)))
        return found

    def counted(content, num_rows, size):
        num_decoded.append(num_rows)
        return real(content, num_rows, size)

    monkeypatch.setattr("zoo.data.reduced_jpeg.decode_upper_rows", counted)
    partly = crops()
    monkeypatch.setattr(jpeg_rows, "decoder", None)
    for one, other in zip(partly, crops(), strict=True):
        assert torch.equal(one, other)
    assert sorted(num_decoded[:4]) == ([20, 20, 61, 61] if orientation in (1, 2, 5, 8) else [61] * 4)  # of the corners


def damaged(content, draw) -> bytes:
    """Change, insert or remove some bytes of the scan, at times to a marker."""
    start = content.index(b"\xff\xda") + 14
    place = int(draw.integers(start, len(content) - 40))
    some = bytes(draw.integers(0, 256, int(draw.integers(1, 4)), dtype=np.uint8))
    change = draw.integers(4)
    if change == 0:
        return content[:place] + b"\xff" + content[place + 1 :]
    return content[:place] + (b"" if change == 1 else some) + content[place + (0 if change == 2 else 20) :]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_gets_the_rows_of_the_whole_file_and_is_not_read_where_that_is_refused(kind):
    draw, outcomes, undamaged = np.random.default_rng(0), set(), of_kind(kind)
    for _ in range(60):
        content = damaged(undamaged, draw)
        found = decode_upper_rows(bytearray(content), 40, (61, 83))
        try:
            expected = whole(content)
        except RuntimeError:
            assert found is None
            outcomes.add("refused")
            continue
        if found is not None:
            assert torch.equal(found[:, :40], expected[:, :40])
            outcomes.add("read")
    assert outcomes == {"refused", "read"}


NO_SIMPLE_ONES = {
    "progressive": written(progressive=True),
    "CMYK": written(mode="CMYK"),
    "cut off": written()[:-2],
    "cut off below the rows": written()[:-400],
    "cut off in the header": written()[:300],
    "of another size": written(height=60),
    "12 bits": written().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
    "lossless": written().replace(b"\xff\xc0", b"\xff\xc3"),
    "no frame": written().replace(b"\xff\xc0", b"\xff\xe5"),
    "two frames": written().replace(b"\xff\xc0", b"\xff\xc0\0\x0b\x08\0\x3d\0\x53\x01\x01\x11\0\xff\xc0"),
    "some components": written().replace(b"\xff\xda\0\x0c\x03", b"\xff\xda\0\x0c\x01"),
    "no factors": written().replace(b"\x01\x22\0\x02", b"\x01\x20\0\x02"),
    "no marker": written().replace(b"\xff\xda", b"\0\xda"),
    "filled": written().replace(b"\xff\xda", b"\xff\xff\xda"),
}


@pytest.mark.parametrize("kind", NO_SIMPLE_ONES)
def test_other_files_are_left_to_decoders_of_whole_files(kind):
    assert decode_upper_rows(bytearray(written()), 8, (61, 83)) is not None
    assert decode_upper_rows(bytearray(NO_SIMPLE_ONES[kind]), 8, (61, 83)) is None


def test_more_pictures_and_rubbish_after_the_end_do_not_matter():
    content = written()
    for more in (content, content[:300], b"\0\xff\x01"):
        found = decode_upper_rows(bytearray(content + more), 20, (61, 83))
        assert torch.equal(found[:, :20], whole(content)[:, :20])


def test_a_file_that_is_cut_off_is_unreadable_also_where_its_crop_is_not(tmp_path):
    (tmp_path / "a.jpg").write_bytes(written(width=160, height=120)[:-1000])
    with open(tmp_path / "a.jpg", "rb") as file, pytest.raises(RuntimeError, match="truncated"):
        PictureCrop(None, 12).of_jpeg(open_jpeg(file), [0.0, 0.0, 16.0, 16.0], Reading(12, scaled=False))
