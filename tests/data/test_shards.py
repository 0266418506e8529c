"""WebDataset shards: the same data as folders, from disk and from a server, and what is refused."""

import gzip
import io
import json
import re
import shutil
import subprocess
import tarfile
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from photographs import CLASSES, add, write_folders, write_shards
from PIL import Image

from zoo.checkpoint.data_places import placed
from zoo.checkpoint.stored_config import check_run
from zoo.data import picture_parts
from zoo.data.augment import RandomResizedCrop
from zoo.data.batch_rng import BatchRng
from zoo.data.folders import ImageFolders
from zoo.data.shards import Shards, _without_braces
from zoo.data.shuffle_buffer import ShuffleBuffer
from zoo.data.tar_members import tar_members
from zoo.errors import BadInput

SIDE = 28
COMMON = {"image_size": SIDE, "num_classes": None, "in_channels": 3, "batch_size": 8, "num_workers": 0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    return write_folders(tmp_path_factory.mktemp("photographs"), num_train=8, num_test=2)


@pytest.fixture(scope="module")
def shards(folders, tmp_path_factory) -> Path:
    return write_shards(folders, tmp_path_factory.mktemp("shards"))


def settings_of(place, **changes):
    urls = {"urls": f"{place}/train-{{0..2}}.tar", "test_urls": f"{place}/test-0.tar"}
    crop = {"crop": RandomResizedCrop(size=SIDE)}
    return {**urls, "num_validation": 6, "augment": crop, "cache": "none", **COMMON, **changes}


def batches(data, split="train", epoch=0):
    loader = data.loader(split, "cpu")
    loader.set_epoch(epoch)
    return list(loader)


def check_equal(ours, theirs):
    for split in ("train", "val", "test"):
        found, expected = batches(ours, split, epoch=1), batches(theirs, split, epoch=1)
        assert len(found) == len(expected) > 0
        for (images, labels), (x, y) in zip(found, expected, strict=True):
            assert torch.equal(images, x)
            assert torch.equal(labels, y)


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            add(tar, name, content)
    return path


def a_picture(kind: str = "png") -> bytes:
    content = io.BytesIO()
    Image.effect_noise((40, 40), 50).save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize(
    ("kind", "cache", "workers"),
    [
        ("cls", "none", 0),
        pytest.param("json", "host", 0, marks=pytest.mark.slow),
        pytest.param("txt", "none", 1, marks=pytest.mark.slow),
    ],
)
def test_shards_and_folders_give_the_same_batches(folders, tmp_path, kind, cache, workers):
    place = write_shards(folders, tmp_path / "shards", kind)
    changes = {"cache": cache, "num_workers": workers}
    ours = Shards(**settings_of(place, label=kind, **changes))
    crop = {"crop": RandomResizedCrop(size=SIDE)}
    theirs = ImageFolders(root=str(folders), num_validation=6, augment=crop, **{**COMMON, **changes})
    assert ours.load() == theirs.load()
    check_equal(ours, theirs)


def test_several_labels_are_separated_or_in_a_list(folders, tmp_path):
    members = {}
    for i, labels in enumerate((["sky"], ["sky", "tree"], ["tree"], []) * 5):
        members |= {f"{i:02}.png": a_picture(), f"{i:02}.txt": " | ".join(labels).encode()}
        members[f"{i:02}.json"] = json.dumps({"tags": labels}).encode()
    place = str(tar_of(tmp_path / "a.tar", members))
    several = {"urls": place, "test_urls": None, "num_test": 4, "num_validation": 4, "separator": "|"}
    data = [Shards(**settings_of("", **several, label=kind, label_key="tags")) for kind in ("txt", "json")]
    assert data[0].load() == data[1].load()
    assert data[0].load().classes == ["sky", "tree"]
    assert batches(data[0], "test")[0][1].sum(0).tolist() == [2, 2]


def test_numbers_are_those_of_the_classes_and_may_have_names(folders, tmp_path):
    place = write_shards(folders, tmp_path / "shards", numbers=True)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    by_name = Shards(**settings_of(write_shards(folders, tmp_path / "named"))).source()
    for classes in (str(tmp_path / "classes.txt"), list(CLASSES)):
        by_number = Shards(**settings_of(place, classes=classes)).source()
        assert by_number.classes == by_name.classes
        assert [p.read() for p in by_number.train.images.paths] == [p.read() for p in by_name.train.images.paths]
        assert torch.equal(by_number.train.labels, by_name.train.labels)
    assert Shards(**settings_of(place)).source().classes == ["0", "1", "2"]
    members = {}
    for i in range(11):
        members |= {f"{i}.png": b"", f"{i}.cls": str(i).encode()}
    source = Shards(**settings_of("", urls=str(tar_of(tmp_path / "eleven.tar", members)), test_urls=None)).source()
    assert source.classes == [str(i) for i in range(11)]  # 10 is not between 1 and 2


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_where_the_standard_library_finds_them(tmp_path, form):
    long = "d" * 80 + "/" + "n" * 90 + ".jpg" if form == tarfile.USTAR_FORMAT else "x/" * 80 + "é" * 99 + ".jpg"
    for name in ("a.tar", "b.tar"):
        with tarfile.open(tmp_path / name, "w", format=form) as tar:
            for i, member in enumerate(("a.jpg", long, "empty", "ü.png", "b.jpg")):
                add(tar, member, b"x" * (700 * i))
            for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
                info = tarfile.TarInfo(f"kind{kind!r}")
                info.type, info.linkname = kind, "a.jpg"
                tar.addfile(info)
            add(tar, "last.jpg", b"last")
    joined = tmp_path / "joined.tar"
    joined.write_bytes((tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes())
    with tarfile.open(joined, ignore_zeros=True) as tar:
        expected = [(one.name, one.offset_data, one.size) for one in tar if one.isreg()]
    others = []
    with joined.open("rb") as file:
        assert list(tar_members(file, others)) == expected
    assert len(expected) == 12
    assert len(others) == 4


def test_no_cut_is_taken_for_a_whole_shard(tmp_path):
    whole = tar_of(tmp_path / "a.tar", {"a.jpg": b"a" * 600, "b.jpg": b"b" * 10}).read_bytes()
    end = 2 * 512 + 512 + 2 * 512  # two headers and contents of two blocks and of one
    for length in range(0, end + 1, 64):
        with pytest.raises(ValueError, match=r"cut off|damaged|tar file"):
            list(tar_members(io.BytesIO(whole[:length]), []))
    assert len(list(tar_members(io.BytesIO(whole[: end + 512]), []))) == 2


def refused(tmp_path, members=None, content=None, **changes):
    usual = {f"{i}.{kind}": one for i in "abcdef" for kind, one in (("png", a_picture()), ("cls", b"cat"))}
    path = tar_of(tmp_path / "train.tar", {**usual, **(members or {})})
    if content is not None:
        path.write_bytes(content(path.read_bytes()))
    settings = {"urls": str(path), "test_urls": None, "num_test": 2, "num_validation": 2, "batch_size": 1, **changes}
    with pytest.raises(BadInput) as caught:
        Shards(**settings_of("", **settings)).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


REFUSED = {
    "a picture without a label": ({"x/no.png": b"1"}, {}, "data.urls: .*train.tar .*x/no.png has no label x/no.cls"),
    "a label without a picture": ({"x/no.cls": b"1"}, {}, "data.urls: .*train.tar .*x/no has 0 pictures"),
    "two pictures": ({"a.jpg": b"1"}, {}, "data.urls: .*train.tar .*a has 2 pictures"),
    "a member twice": ({"A.png": b"", "A.PNG": b""}, {}, "data.urls: .*train.tar .*A.PNG is in it twice"),
    "a dot in a key": ({"a.b.png": b"1"}, {}, "data.urls: .*train.tar .*a.b.png has a dot"),
    "an empty label": ({"g.png": b"1", "g.cls": b" "}, {}, "data.urls: .*train.tar .*g.cls is empty"),
    "a label that is no text": ({"a.cls": b"\xff"}, {}, "data.urls: .*train.tar .*a.cls.* cls"),
    "a huge label": ({"a.cls": b"1" * 2**21}, {}, "data.urls: .*train.tar .*a.cls has 2,097,152 bytes"),
    "an unknown class": ({"a.cls": b"cot"}, {"classes": ["cat"]}, "data.classes: .*train.tar/a.png .*'cot'.*mean cat"),
    "an unknown number": ({"a.cls": b"2"}, {"classes": ["cat", "dog"]}, "data.classes: .*train.tar/a.png .*'2'"),
    "no such file of classes": ({}, {"classes": "nowhere.txt"}, "data.classes: nowhere.txt cannot be opened"),
    "equal classes": ({}, {"classes": ["cat", "cat"]}, "data.classes: expected different names"),
    "a wrong separator": ({"a.cls": b"cat;dog"}, {"separator": "|"}, "data.separator='|' .*train.tar/a.png.*';'"),
    "another kind of label": ({}, {"label": "txt"}, "data.urls: .*train.tar .*a.png has no label a.txt"),
    "no JSON": ({"a.json": b"{"}, {"label": "json"}, "data.urls: .*train.tar .*a.json: .* json"),
    "no key in JSON": ({"a.json": b"{}"}, {"label": "json"}, "data.urls: .*a.json: .*'label'.*data.label_key"),
    "a number in JSON": ({"a.json": b'{"label": 1.5}'}, {"label": "json"}, "data.urls: .*a.json: .* 1.5"),
    "a list in JSON": ({"a.json": b'{"label": ["a"]}'}, {"label": "json"}, "data.urls: .*a.json: .*data.separator"),
    "deep JSON": ({"a.json": b"[" * 10**6}, {"label": "json"}, "data.urls: .*a.json: "),
    "no such shard": ({}, {"urls": "nowhere.tar"}, "data.urls: nowhere.tar cannot be opened .*No such file"),
    "a folder": ({}, {"urls": "/tmp"}, "data.urls: /tmp .*folder"),
    "no match": ({}, {"urls": "nowhere-*.tar"}, "data.urls: .*nowhere-\\*.tar, which no file matches"),
    "other braces": ({}, {"urls": "{a,b}.tar"}, "data.urls: .*{a,b} in {a,b}.tar"),
    "too many": ({}, {"urls": "{0..9999}{0..9999}.tar"}, "data.urls: .*100,000 shards, got 100,000,000"),
    "another protocol": ({}, {"urls": "ftp://x/a.tar"}, "data.urls: .*ftp://x/a.tar; download it"),
    "no validation": ({}, {"num_validation": 0}, "data.num_validation=0"),
    "a buffer and a cache": ({}, {"shuffle_buffer": 4, "cache": "host"}, "data.shuffle_buffer .*data.cache=none"),
    "two orders": ({}, {"shuffle_buffer": 4, "sampler": "balanced"}, "data.shuffle_buffer .*data.sampler"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_used_is_refused_with_the_shard_and_the_member(tmp_path, what):
    members, changes, says = REFUSED[what]
    assert re.match(says, refused(tmp_path, members, **changes))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda whole: whole[:1000], "ends within a.png: it is cut off"),
        (lambda whole: b"", "end mark"),
        (lambda whole: b"PK\3\4" * 500, "not a tar file"),
        (lambda whole: gzip.compress(whole), "compressed with gzip; decompress it"),
        (lambda whole: b"\xff" * 512 + whole[512:], "not a tar file"),
        (lambda whole: b"".join((whole[:512], whole[512:].replace(b"b.png", b"b.pmg"))), "damaged after a.cls"),
    ],
)
def test_a_damaged_shard_is_refused(tmp_path, content, says):
    assert re.match(f"data.urls: .*train.tar .*{says}", refused(tmp_path, content=content))


def header(name: bytes, size: bytes, kind: bytes) -> bytes:
    """Return a tar header with a size as it is written, in octal or, with a first byte of 0x80, in binary."""
    block = bytearray(name.ljust(124, b"\0") + size.ljust(12, b"\0") + b"0" * 11 + b"\0" + b" " * 8 + kind)
    block = block.ljust(512, b"\0")
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("block", "says"),
    [
        (header(b"big.png", b"\x80" + (10**10).to_bytes(11, "big"), b"0"), "ends within big.png"),
        (header(b"big.png", b"\xff" * 12, b"0"), "declares a size of b'-1'"),
        (header(b"long", b"%011o" % 2**21, b"L") + bytes(2**21 + 512), "extended header of 2,097,152 bytes"),
        (header(b"x", b"%011o" % 20, b"x") + b"20 size=99999999999".ljust(512, b"\0"), "extended header|ends within"),
        (header(b"x", b"%011o" % 11, b"x") + b"99 path=abc".ljust(512, b"\0"), "damaged extended header"),
    ],
)
def test_a_header_that_lies_takes_no_memory(tmp_path, block, says):
    assert re.search(f"train.tar .*({says})", refused(tmp_path, content=lambda whole: block + whole))


def test_a_shard_belongs_to_one_split(shards):
    (shards / "link.tar").unlink(missing_ok=True)
    (shards / "link.tar").symlink_to("train-1.tar")
    for test in ("train-1.tar", "link.tar"):
        with pytest.raises(BadInput, match=r"data.test_urls: .* is also in data.urls"):
            Shards(**settings_of(shards, test_urls=f"{shards}/{test}")).load()
    with pytest.raises(BadInput, match=r"there twice"):
        Shards(**settings_of(shards, urls=[f"{shards}/train-1.tar"] * 2)).load()


def test_what_is_no_sample_is_counted_and_a_picture_of_10_gb_skipped_and_named(tmp_path, caplog):
    big = io.BytesIO()
    Image.new("L", (8, 8)).save(big, "bmp")
    content = bytearray(big.getvalue())
    content[18:26] = (100_000).to_bytes(4, "little") * 2
    members = {f"{i}.{kind}": one for i in "abcdef" for kind, one in (("png", a_picture()), ("cls", b"cat"))}
    members |= {"z.bmp": bytes(content), "z.cls": b"cat", "a.txt": b"a cat", "._a.png": b"", "README": b""}
    place = str(tar_of(tmp_path / "a.tar", members))
    settings = {"urls": place, "test_urls": None, "num_test": 2, "num_validation": 2, "batch_size": 1, "cache": "host"}
    data = Shards(**settings_of("", **{**settings, "augment": None}))
    with caplog.at_level("WARNING"):
        assert sum(data.load().num_samples.values()) == 6
    assert "/a.tar/z.bmp, which cannot be read (Image size (10000000000 pixels)" in caplog.text
    assert "skipped 3 members in all: " in caplog.text


@pytest.mark.parametrize("text", ["a-{000..012}.tar", "{8..11}", "x{08..10}y{1..3}", "{0..3}", "{1..010}", "plain"])
def test_braces_are_what_a_shell_makes_of_them(text):
    shell = subprocess.run(["bash", "-c", f"echo {text}"], capture_output=True, text=True, check=True).stdout.split()
    assert _without_braces("urls", text) == shell


def test_with_a_buffer_samples_stay_near_their_places_and_shards_together():
    shards = torch.arange(7).repeat_interleave(30)
    for size in (1, 8, 40):
        order = ShuffleBuffer(shards, size).draw(BatchRng(size))
        assert sorted(order.tolist()) == list(range(210))
        firsts = list(dict.fromkeys(shards[order].tolist()))
        if size == 1:
            in_order = torch.cat([torch.arange(30) + 30 * shard for shard in firsts])
            assert torch.equal(order, in_order)
            assert firsts != sorted(firsts)
        if size <= 8:
            in_order = torch.cat([torch.arange(30) + 30 * shard for shard in firsts])
            places = torch.empty(210, dtype=torch.int64).scatter_(0, in_order, torch.arange(210))
            assert (places[order] - torch.arange(210)).abs().max() < size
    epochs = [ShuffleBuffer(shards, 8).draw(BatchRng(seed)).tolist() for seed in (1, 1, 2)]
    assert epochs[0] == epochs[1] != epochs[2]


def test_a_run_with_a_buffer_resumes_exactly_and_is_in_the_order_of_shards(shards):
    def data():
        return Shards(**settings_of(shards, shuffle_buffer=4, mean=[120.0] * 3, std=[60.0] * 3))

    whole = batches(data(), epoch=2)
    again = data().loader("train", "cpu")
    again.load_state_dict({"epoch": 2, "position": 1})
    rest = list(again)
    assert len(rest) == len(whole) - 1 > 0
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(whole[1:], rest, strict=True))
    part = data()
    part.load()
    assert [one.file for one in part.files["train"].paths] == sorted(one.file for one in part.files["train"].paths)


class Ranges(BaseHTTPRequestHandler):
    """Serves files; with `ranges`, also parts of them."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args, folder, ranges, **settings):
        self.folder, self.ranges = folder, ranges
        super().__init__(*args, **settings)

    def do_GET(self):
        file = self.folder / Path(self.path).name
        content = file.read_bytes() if file.exists() else None
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if content is None:
            self.send_error(404)
            return
        if match and self.ranges:
            first, last = int(match[1]), min(int(match[2]), len(content) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            content = content[first : last + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def served(folder, ranges=True):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, folder=folder, ranges=ranges))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_shards_of_a_server_are_those_of_the_disk(shards, workers):
    with served(shards) as url:
        remote, local = (Shards(**settings_of(place, num_workers=workers)) for place in (url, shards))
        assert remote.load() == local.load()
        check_equal(remote, local)


def test_a_server_that_fails_or_cannot_send_parts_ends_the_run_in_one_sentence(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(picture_parts, "SECONDS_BETWEEN_TRIES", (0, 0))
    folder = shutil.copytree(shards, tmp_path / "shards")
    with served(folder) as url:
        with pytest.raises(BadInput, match=r"data.urls: http.*/nowhere.tar cannot be "):
            Shards(**settings_of(url, urls=f"{url}/nowhere.tar")).load()
        data = Shards(**settings_of(url))
        data.load()
        shutil.rmtree(folder)
        with pytest.raises(BadInput, match=r"^data.urls: http.*/train-\d.tar/.* cannot be read \(.*\)$"):
            batches(data)
    with served(shards, ranges=False) as url, pytest.raises(BadInput, match=r"^data.(test_)?urls: .*ranges"):
        Shards(**settings_of(url)).load()


def test_what_a_file_of_another_says_is_looked_up_under_data_root_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"urls": ["/etc/a-{0..1}.tar", "https://host/b.tar", "../c.tar"], "test_urls": "x/d-*.tar"}
    found = placed(settings, "data", OmegaConf.create({"data_root": "mine"}))
    assert found == {"urls": ["mine/a-{0..1}.tar", "mine/b.tar", "mine/c.tar"], "test_urls": ["mine/d-*.tar"]}
    cfg = OmegaConf.create({"data_root": "https://my.host/set"})
    assert placed({"urls": "data/x/a.tar"}, "data", cfg) == {"urls": ["https://my.host/set/a.tar"]}
    for urls in ("https://host/b.tar", "/etc/a.tar", "../a.tar"):
        config = {"data": {"_target_": "zoo.data.shards.Shards", "urls": urls}}
        with pytest.raises(BadInput, match=r"data.urls: the run reads .*trusted="):
            check_run(config, [])
        check_run(config, [urls])


def test_braces_that_the_shell_expanded_are_refused_since_only_the_last_shard_would_be_read(command):
    outcome = command("train", "data=shards", "data.urls=a-0.tar", "data.urls=a-1.tar")
    assert outcome.code == 2
    assert "data.urls is set 2 times" in outcome.sentence
