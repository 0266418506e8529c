"""Image folders: what is read and by which decoder, what is refused, and what is skipped."""

import errno
import json
import logging
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, sentence_of
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from zoo import distributed, memory
from zoo.cli.messages import report_error
from zoo.data import image_files, image_workers
from zoo.data.augment import RandomResizedCrop
from zoo.data.folders import ImageFolders, image_folders
from zoo.data.image_files import ImageFiles
from zoo.data.read_image import read_picture
from zoo.data.reading import Reading
from zoo.errors import BadInput, counted
from zoo.inference import predict
from zoo.run import preflight_checks

SIDE = 28
STORED = 32  # 256/224 of it


def smooth(draw, height, width) -> Image.Image:
    """An image that resizing changes little: four random colours, blended."""
    corners = Image.fromarray(draw.integers(0, 256, (2, 2, 3), dtype=np.uint8))
    return corners.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """40 training and 14 test images of two classes, in several shapes, formats and modes."""
    draw = np.random.default_rng(0)
    for split, num in (("train", 20), ("val", 7)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(num):
                picture = smooth(draw, 40 + 3 * i, 90 - 2 * i)
                if i == 1:
                    picture.convert("L").save(folder / f"{i:02}.png")
                elif i == 2:
                    picture.convert("RGBA").save(folder / f"{i:02}.png")
                elif i == 3:
                    picture.save(folder / f"{i:02}.bmp")
                else:
                    picture.save(folder / f"{i:02}.jpg", quality=95)
    return tmp_path / "pictures"


def folders(root, **changes) -> ImageFolders:
    settings = {"image_size": SIDE, "num_classes": 2, "in_channels": 3, "num_validation": 8, "batch_size": 8}
    return ImageFolders(root=str(root), **{**settings, **changes})


def whole(data, split):
    parts = list(data.loader(split, "cpu"))
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


@pytest.mark.parametrize("cache", ["host", "none"])
def test_test_images_are_torchvisions_resized_and_cut_to_the_middle(pictures, cache):
    theirs = ImageFolder(str(pictures / "val"), v2.Compose([v2.PILToTensor(), v2.Resize(STORED), v2.CenterCrop(SIDE)]))
    data = folders(pictures, cache=cache, num_workers=0, mean=[0.0] * 3, std=[2.0] * 3)
    images, labels = whole(data, "test")
    wanted = torch.stack([image for image, _ in theirs]).float()
    assert (2 * images - wanted).abs().mean() < 1.0  # of 0…255; JPEG decoders differ in the last bit
    assert labels.tolist() == theirs.targets


def test_worker_processes_and_a_cache_give_the_same_batches_and_facts(pictures):
    data = [folders(pictures, cache="host"), folders(pictures, cache="none", num_workers=2)]
    assert replace(data[0].load(), content_hash=None) == data[1].load()  # only decoded files are hashed
    for split in ("train", "val", "test"):
        (x, y), (u, v) = (whole(one, split) for one in data)
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_batches_come_through_pipes_where_shared_memory_is_full(pictures, monkeypatch, caplog):
    """Containers have 64 MB of it; a batch that did not fit was lost, and the loader waited forever."""
    loaders = [folders(pictures, cache="none", num_workers=num).loader("train", "cpu") for num in (0, 2)]

    def no_room(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)  # also in the workers, which are forks of this process
    with caplog.at_level("WARNING", "zoo"):
        wanted, found = (list(loader) for loader in loaders)
    assert len(found) == 4
    for (images, labels), (x, y) in zip(found, wanted, strict=True):
        assert torch.equal(images, x)
        assert torch.equal(labels, y)
    assert caplog.text.count("/dev/shm has no room") == 1


MOUNTED = """
import sys, torch
from pathlib import Path
from zoo.data.image_files import ImageFiles
from zoo.data.reading import Reading

files = ImageFiles(sorted(map(str, Path(sys.argv[1]).glob("*/*/*"))), Reading(300), num_workers=2)
parts = [slice(i, i + 9) for i in range(0, 54, 9)]  # of 2.4 MB each
print(sum(int(images.long().sum()) for images, _ in files.batches(parts, torch.device("cpu"))))
"""


@pytest.mark.slow
def test_a_real_dev_shm_that_is_too_small_ends_no_run(pictures):
    mounted = 'mount -t tmpfs -o size=4m tmpfs /dev/shm && exec "$@"'
    if subprocess.run(["unshare", "-m", "sh", "-c", mounted, "sh", "true"], capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    line = ["unshare", "-m", "sh", "-c", mounted, "sh", sys.executable, "-c", MOUNTED, str(pictures)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=100)
    files = ImageFiles(sorted(map(str, pictures.glob("*/*/*"))), Reading(300))
    assert int(done.stdout) == sum(int(files.read(i).long().sum()) for i in range(54)), done.stderr


def test_a_worker_that_is_killed_ends_the_command_in_one_sentence(pictures, monkeypatch, capfd):
    files = ImageFiles(sorted(map(str, pictures.glob("*/*/*"))), Reading(SIDE), num_workers=1)
    monkeypatch.setattr(image_workers, "read_picture", lambda *_: os.kill(os.getpid(), signal.SIGKILL))  # as kernels do
    began = time.monotonic()
    with pytest.raises(RuntimeError) as caught:
        list(files.batches([slice(0, 8)], torch.device("cpu")))
    assert time.monotonic() - began < 60
    assert report_error(caught.value) == 1
    sentence = sentence_of(capfd.readouterr().err)
    assert re.search(r"died \((.*Killed|exited unexpectedly)\)", sentence)  # torch does not always see the signal
    assert "data.num_workers" in sentence


def test_a_worker_that_died_of_nothing_torch_knows_is_told_too(capfd):
    error = RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly")
    error.__cause__ = queue.Empty()  # as torch raises it after a time-out
    assert report_error(error) == 1
    assert "died (exited unexpectedly)" in sentence_of(capfd.readouterr().err)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("can't allocate memory: you tried"), OSError(errno.EMFILE, "Too many files")]
)
def test_a_lack_of_memory_skips_no_picture(pictures, monkeypatch, error):
    files = ImageFiles(sorted(map(str, pictures.glob("*/*/*"))), Reading(SIDE))

    def fail(path, background):
        raise error

    for module in (image_files, image_workers):
        monkeypatch.setattr(module, "read_picture", fail)
    with pytest.raises(type(error)):
        list(files.batches([slice(0, 8)], torch.device("cpu")))
    with pytest.raises(type(error)):
        files.decoded()


@pytest.mark.parametrize(("kilobytes", "workers", "ahead"), [(10**6, 2, 3), (150, 2, 1), (60, 1, 1), (0, 1, 1)])
def test_batches_that_wait_take_half_of_the_memory_at_most(pictures, monkeypatch, kilobytes, workers, ahead):
    files = ImageFiles(sorted(map(str, pictures.glob("*/*/*"))), Reading(32), num_workers=2)
    asked = {}
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000 * kilobytes)
    monkeypatch.setattr("zoo.data.image_files.DataLoader", lambda *_, **settings: asked.update(settings) or [])
    list(files.batches([slice(0, 8), torch.arange(3)], torch.device("cpu")))  # 8 pictures are 25 kB
    assert (asked["num_workers"], asked["prefetch_factor"]) == (workers, ahead)


def test_no_more_workers_are_started_than_cores_can_feed(pictures, monkeypatch):
    monkeypatch.setattr(distributed, "num_cores", lambda: 2)
    folders(pictures, num_workers=16)
    with pytest.raises(BadInput, match=r"data\.num_workers=17: expected at most 16"):
        folders(pictures, num_workers=17)


def test_an_epoch_from_files_goes_on_where_it_stood(pictures):
    one, other = (folders(pictures, cache="none", num_workers=0).loader("train", "cpu") for _ in range(2))
    batches = list(one)
    iterator = iter(one)
    next(iterator), next(iterator)
    other.load_state_dict(one.state_dict())
    for (x, y), (u, v) in zip(list(other), batches[2:], strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


@pytest.mark.parametrize("cache", ["host", "none"])
def test_what_is_no_image_is_skipped_counted_and_named_once(pictures, cache, monkeypatch):
    (pictures / "val/cat/04.jpg").write_bytes(b"no image")
    good = (pictures / "val/dog/05.jpg").read_bytes()
    (pictures / "val/dog/05.jpg").write_bytes(good[: len(good) // 2])
    logged: list[str] = []
    monkeypatch.setattr(logging.getLogger("zoo"), "warning", lambda text, *values: logged.append(text % values))
    data = folders(pictures, cache=cache, num_workers=2)
    seen = [whole(data, "test") for _ in range(2)]
    assert [len(x) for x, _ in seen] == [12, 12]
    assert [y.tolist() for _, y in seen] == [[0] * 6 + [1] * 6] * 2
    assert ["val/cat/04.jpg" in logged[0], "val/dog/05.jpg" in logged[1]] == [True, True]
    assert logged[1].endswith("2 so far.")
    assert len(logged) == 2


def test_of_files_decoded_on_a_device_only_those_that_are_no_jpeg_are_read_by_other_means(pictures, monkeypatch):
    """The device is a CPU here; images it decodes are rotated as on the CPU."""
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth(np.random.default_rng(1), 40, 90).save(pictures / "val/cat/00.jpg", exif=exif)
    (pictures / "val/cat/04.jpg").write_bytes((pictures / "val/cat/05.jpg").read_bytes()[:-200])
    (pictures / "val/cat/05.jpg").write_bytes(b"no image")
    files = image_folders(str(pictures), SIDE).test.images
    wanted = [(i, None) for i in (0, 1, 3, 4, 5, 6)]  # JPEG, PNG, BMP, a cut JPEG, none, JPEG
    raw, by_cpu = (image_workers.Decoding(files.paths, files.reading, None, raw, False) for raw in (True, False))
    samples = [raw[one] for one in wanted]
    assert [one.is_raw for one in samples] == [True, False, False, True, False, True]
    read: list[str] = []
    reading = lambda path, *more: read.append(path[-6:]) or read_picture(path, *more)  # noqa: E731
    monkeypatch.setattr(image_workers, "read_picture", reading)
    images, kept, failures = image_workers.stack_samples(files._decode_on(torch.device("cpu"), samples, by_cpu))
    assert kept.tolist() == [0, 1, 3, 6]
    assert read == ["04.jpg"]
    assert [Path(path).name for path, _ in failures] == ["04.jpg", "05.jpg"]
    for image, i in zip(images, kept.tolist(), strict=True):
        assert torch.equal(image, ImageFiles.read(files, i))


def test_processes_of_one_machine_share_its_memory_and_cores(pictures, monkeypatch):
    (pictures / "meminfo").write_text("MemAvailable: 300 kB\n")  # 54 pictures of 32 px are 166 kB
    monkeypatch.setattr(memory, "PROC", pictures)
    folders(pictures, cache="host").load()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="memory are free"):
        folders(pictures, cache="host").load()
    monkeypatch.setattr(distributed, "num_cores", lambda: 4)
    assert folders(pictures).source().test.images.num_workers == 2


def test_a_decoder_that_has_no_device_is_told(pictures, caplog):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with caplog.at_level("WARNING", "zoo"):
        folders(pictures, decoder="cuda")
    assert "worker processes decode" in caplog.text


@pytest.mark.parametrize("cache", ["host", "none"])
@pytest.mark.parametrize(
    ("where", "what"), [("val/*", "test picture"), ("train/cat", "training picture of class 'cat'")]
)
def test_files_of_which_none_can_be_read_are_refused_before_the_training(pictures, cache, where, what):
    for file in pictures.glob(f"{where}/*"):
        file.write_bytes(b"")
    with pytest.raises(BadInput, match=rf"data\.root: expected at least one {what} that can be read, got \d+ files"):
        folders(pictures, cache=cache, num_workers=0).load()


@pytest.mark.parametrize("cache", ["host", "none"])
def test_validation_may_have_no_pictures(pictures, cache):
    data = folders(pictures, cache=cache, num_workers=0, num_validation=0)
    assert data.load().num_samples == {"train": 40, "val": 0, "test": 14}
    assert list(data.loader("val", "cpu")) == []


def test_a_batch_of_broken_files_alone_is_left_out_of_a_test_and_made_up_for_in_training(pictures):
    (pictures / "val/cat/04.jpg").write_bytes(b"no image")
    data = folders(pictures, cache="none", num_workers=0, eval_batch_size=1, batch_size=2)
    data.load()
    assert len(list(data.loader("test", "cpu"))) == 13
    trained = [path for path in data.files["train"].paths]
    for path in trained[1:4] + trained[-3:]:
        Path(path).write_bytes(b"")
    epoch = list(data.loader("train", "cpu"))
    assert [len(labels) for _, labels in epoch] == [2] * 16
    Path(trained[0]).write_bytes(b"")
    for path in trained:
        Path(path).write_bytes(b"")
    with pytest.raises(BadInput, match="expected readable pictures, got 200 unreadable ones"):
        list(data.loader("train", "cpu"))


def test_one_class_alone_is_refused(command, pictures):
    for split in ("train", "val"):
        for file in (pictures / split / "dog").iterdir():
            file.unlink()
        (pictures / split / "dog").rmdir()
    line = ["model=lenet5", "data=image_folder", f"data.root={pictures}", "data.image_size=28", "data.num_validation=8"]
    outcome = command("train", *line, "data.batch_size=8", "data.num_workers=0", "trainer=smoke")
    assert outcome.code == 2
    assert "data.num_classes: expected at least 2, got 1" in outcome.err.splitlines()[-1]


@pytest.mark.parametrize("cache", ["host", "none"])
def test_pictures_of_a_phone_are_upright_in_training_evaluation_and_prediction(tmp_path, cache):
    """White at the top, however the phone was held; the class is the colour at the bottom."""
    for split in ("train", "val"):
        for name, colour in (("cat", 0), ("dog", 1)):
            (tmp_path / split / name).mkdir(parents=True)
            scene = np.full((60, 60, 3), 255, dtype=np.uint8)
            scene[30:] = 0
            scene[30:, :, colour] = 200
            for turn, orientation in enumerate((1, 8, 3, 6)):  # the scene turned as the sensor was
                exif = Image.Exif()
                exif[0x0112] = orientation
                path = tmp_path / split / name / f"{orientation}.jpg"
                Image.fromarray(np.rot90(scene, -turn)).save(path, quality=95, exif=exif)
    settings = {"image_size": SIDE, "in_channels": 3, "mean": [0.0] * 3, "std": [2.0] * 3}
    data = folders(tmp_path, cache=cache, num_workers=0, num_validation=2, batch_size=6, **settings)
    for split in ("train", "val", "test"):
        images, _ = whole(data, split)
        assert images[:, :, : SIDE // 2 - 2].min() > 120
        assert images[:, 2, SIDE // 2 + 2 :].max() < 8
    for path in data.files["test"].paths:
        image = predict.read_image(path, {**settings, "num_workers": 0}, settings)
        assert any(torch.equal(image[0], one) for one in whole(data, "test")[0])


def test_preflight_finds_a_test_picture_among_whole_training_pictures_in_a_cache(pictures):
    (pictures / "val/cat/00.jpg").write_bytes((pictures / "train/cat/07.jpg").read_bytes())
    data = folders(pictures, cache="host", num_validation=0, augment={"crop": RandomResizedCrop(size=SIDE)})
    data.load()
    assert data.whole is not None
    verdict = preflight_checks.check_splits(preflight_checks.Subject(None, data, True, True))
    assert verdict.state == "warn"
    assert re.search(
        r"1 of 14 test images are in train, such as .*val/cat/00\.jpg.*train/cat/07\.jpg", verdict.sentence
    )


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """Collect our warnings."""
    found: list[str] = []
    monkeypatch.setattr(logging.getLogger("zoo"), "warning", lambda text, *values: found.append(text % values))
    return found


def test_files_are_listed_as_torchvision_lists_them(pictures):
    for name in ("b c", "b", "b-c", "B"):
        for file in ("z.jpg", "a.JPG", "á.jpg"):
            (pictures / "train/cat" / name / "d").mkdir(parents=True, exist_ok=True)
            (pictures / "train/cat" / name / file).write_bytes(b"")
            (pictures / "train/cat" / name / "d" / file).write_bytes(b"")
    theirs = ImageFolder(str(pictures / "train"))
    ours = image_folders(str(pictures), SIDE).train
    assert list(ours.images.paths) == [path for path, _ in theirs.samples]
    assert ours.labels.tolist() == theirs.targets


def test_what_is_left_out_is_counted_and_said(pictures, logged):
    cat = pictures / "train/cat"
    for name in ("one.gif", "two.jfif", "three.jpe", "four.avif", "five.jp2"):
        (cat / name).write_bytes(b"")
    for name in ("notes.txt", "raw.heic", "more.heic", ".DS_Store", "._00.jpg", "nothing"):
        (cat / name).write_bytes(b"")
    (pictures / "train/.ipynb_checkpoints").mkdir()
    (pictures / "train/.ipynb_checkpoints/00.jpg").write_bytes(b"")
    (pictures / "train/readme.jpg").write_bytes(b"")
    (cat / "gone.jpg").symlink_to("nowhere.jpg")
    (cat / "itself.jpg").symlink_to("itself.jpg")
    os.mkfifo(cat / "pipe.jpg")
    (cat / "loop").symlink_to(".")
    (cat / "up").symlink_to("..")
    (pictures / "train/self").symlink_to(".")
    (cat / "real").mkdir()
    (cat / "real/deep.jpg").write_bytes(b"")
    (cat / "twice").symlink_to("real")
    source = image_folders(str(pictures), SIDE)
    assert source.classes == ["cat", "dog"]
    assert source.train.labels.bincount().tolist() == [20 + 5 + 1, 20]
    assert str(cat / "real/deep.jpg") in source.train.images.paths
    assert len({os.path.realpath(path) for path in source.train.images.paths}) == 46
    assert len(logged) == 1
    for count in (
        "train: skipped 15 in all: ",
        "hidden entries (3)",
        "files of kind .heic (2)",
        "files of kind .txt (1)",
        "files without an ending (1)",
        "files outside the class folders (1)",
        "broken links (2)",
        "neither files nor folders (1)",
        "links to a parent folder or to one already read (4)",
    ):
        assert count in logged[0]


@pytest.mark.parametrize("cache", ["host", "none"])
def test_names_of_several_lines_are_told_in_one(pictures, logged, cache):
    (pictures / "val/cat/two\nlines.jpg").write_bytes(b"")
    (pictures / "val/cat/more.t\nt").write_bytes(b"")
    pictures = pictures.rename(f"{pictures}\n")
    whole(folders(pictures, cache=cache, num_workers=0), "test")
    assert [line.count("\n") for line in logged] == [0, 0]
    assert r"files of kind .t\nt (1)" in logged[0]
    assert r"two\nlines.jpg, which cannot be read (it is empty)" in logged[1]


def test_names_that_are_not_utf8_are_read_where_they_are_of_files_and_refused_of_classes(pictures, logged):
    odd = os.fsencode(pictures / "train/cat") + b"/caf\xe9.jpg"
    with open(odd, "wb") as file:
        file.write((pictures / "train/cat/00.jpg").read_bytes())
    data = folders(pictures, cache="none", num_workers=0, num_validation=2)
    data.load()
    assert len(list(data.loader("train", "cpu"))) == 39 // 8
    with open(odd, "wb") as file:
        file.write(b"")
    folders(pictures, cache="host").load()
    assert [text.split(", which")[0][-10:] for text in logged] == ["caf\\xe9.jpg"[-10:]]
    os.mkdir(os.fsencode(pictures / "train") + b"/caf\xe9")
    with pytest.raises(BadInput, match=r"data\.root: expected class names in UTF-8, got b'caf\\xe9'"):
        folders(pictures).load()
    with pytest.raises(BadInput, match=r"data\.root: expected a name in UTF-8"):
        folders(os.fsdecode(b"caf\xe9"))


def test_a_background_must_be_a_colour(pictures):
    for wrong in ("nocolour", "#12", "rgba(1,2,3,4)", None, 7, "rgb(300,0,0)", "rgb(0%,101%,0%)", "hsl(0,200%,50%)"):
        with pytest.raises(BadInput, match=r"data\.background: expected a colour"):
            folders(pictures, background=wrong)
    Image.new("RGBA", (40, 40)).save(pictures / "val/cat/00.png")
    (pictures / "val/cat/00.jpg").unlink()
    data = folders(pictures, background="#102030", mean=[0.0] * 3, std=[2.0] * 3)
    assert (2 * whole(data, "test")[0][0, :, 9, 9]).tolist() == [16, 32, 48]


def test_the_split_knows_its_files_wherever_they_lie_and_their_change(pictures):
    before = folders(pictures).load().split_hash
    moved = pictures.rename(pictures.parent / "elsewhere")
    assert folders(moved).load().split_hash == before
    with open(moved / "train/cat/00.jpg", "ab") as file:
        file.write(b"\0")
    assert folders(moved).load().split_hash != before


def test_contents_exchanged_under_the_same_names_and_sizes_are_found_where_files_are_read_anyway(pictures):
    folders(pictures).check_same(asdict(folders(pictures).load()), "before")
    one, other = (pictures / f"train/{name}/00.jpg" for name in ("cat", "dog"))
    size = max(file.stat().st_size for file in (one, other))
    contents = [file.read_bytes().ljust(size, b"\0") for file in (one, other)]
    one.write_bytes(contents[0]), other.write_bytes(contents[1])
    facts, unread_facts = (asdict(folders(pictures, cache=cache).load()) for cache in ("host", "none"))
    one.write_bytes(contents[1]), other.write_bytes(contents[0])
    changed = folders(pictures)
    assert changed.load().split_hash == facts["split_hash"]
    with pytest.raises(BadInput, match="the same number of samples, but different contents"):
        changed.check_same(facts, "before")
    changed.check_same({**facts, "content_hash": None, "sample_hash": None}, "before")  # as of an earlier version
    assert unread_facts["content_hash"] is None
    assert unread_facts["sample_hash"] == facts["sample_hash"]
    with pytest.raises(BadInput, match="the same number of samples, but different contents"):
        folders(pictures, cache="none").check_same(unread_facts, "before")


def test_the_test_set_is_told_by_what_is_in_its_files_and_by_those_that_can_be_read(pictures):
    before, unread = folders(pictures), folders(pictures, cache="none")
    assert before.test_hash() == unread.test_hash()
    assert unread.test_content_hash() is None
    content = (pictures / "val/cat/00.jpg").read_bytes()
    (pictures / "val/cat/00.jpg").write_bytes(content[:-2] + b"\xff\xd9" + b"")  # the same picture, byte for byte
    assert folders(pictures).test_content_hash() == before.test_content_hash()
    (pictures / "val/cat/00.jpg").write_bytes(b"\0" * len(content))  # of the same size, but not an image
    damaged = folders(pictures)
    assert damaged.test_hash() != before.test_hash()
    assert damaged.test_content_hash() != before.test_content_hash()


def test_pictures_that_were_added_are_counted_and_classes_named(pictures):
    facts = asdict(folders(pictures).load())
    for i in range(10):
        shutil.copy(pictures / "train/cat/00.jpg", pictures / f"train/cat/new_{i}.jpg")
    with pytest.raises(BadInput, match="42 samples for train instead of 32"):  # of 40 and 10, 8 are validated on
        folders(pictures).check_same(facts, "before")
    for split in ("train", "val"):
        (pictures / split / "dog").rename(pictures / split / "wolf")
    with pytest.raises(BadInput, match="different classes, such as 'dog'"):
        folders(pictures).check_same(facts, "before")


def test_a_run_tells_how_many_pictures_it_could_read_and_test(command, pictures, only_run):
    """Five of 14 test images are damaged, and are skipped only when they are read."""
    for file in sorted((pictures / "val/cat").glob("*"))[:5]:
        file.write_bytes(b"damaged")
    line = ["model=lenet5", "data=image_folder", f"data.root={pictures}", "data.image_size=28", "data.num_validation=8"]
    line += ["data.batch_size=8", "data.cache=none", "data.num_workers=0", "trainer=smoke"]
    outcome = command("train", *line)
    assert outcome.code == 0, outcome.err
    result = json.loads((only_run() / "result.json").read_text())
    assert (result["num_samples"]["test"], result["split_sizes"]["test"]) == (9, 14)
    assert "test (9 of 14)" in outcome.out


def test_a_resumed_run_refuses_other_data_before_anything_is_trained(command, pictures, only_run):
    line = ["model=lenet5", "data=image_folder", f"data.root={pictures}", "data.image_size=28", "data.num_validation=8"]
    line += ["data.batch_size=8", "trainer.max_epochs=1", "trainer=cpu", "trainer.log_every_n_steps=1"]
    assert command("train", *line).code == 0
    before = {name: (only_run() / name).read_bytes() for name in ("config.yaml", "last.ckpt", "model.safetensors")}
    for i in range(10):
        shutil.copy(pictures / "train/cat/00.jpg", pictures / f"train/cat/new_{i}.jpg")
    outcome = command("train", f"resume={only_run()}", "trainer.max_epochs=2")
    assert outcome.code == 2
    assert "42 samples for train instead of 32" in outcome.err
    assert {name: (only_run() / name).read_bytes() for name in before} == before


def test_a_class_whose_only_picture_is_validated_on_is_told(pictures):
    for file in list((pictures / "train/dog").iterdir())[1:]:
        file.unlink()
    with pytest.raises(BadInput, match=r"^data\.num_validation: expected .* picture of class 'dog' to be left"):
        folders(pictures, num_validation=19, batch_size=1).load()
    assert folders(pictures, num_validation=2, batch_size=1).load().num_samples["train"] == 19


@pytest.mark.parametrize(
    ("link", "to"),
    [
        ("train/cat/leak", "../../val"),  # a training folder that links to all test images
        ("train/cat/leak", "../../val/dog"),
        ("val/dog/more", "../../train/dog"),
        ("val/dog/one.jpg", "../../train/cat/04.jpg"),
        ("train/cat/one.jpg", "../../val/cat/04.jpg"),
    ],
)
def test_links_from_training_to_test_or_back_are_refused(pictures, link, to):
    (pictures / link).symlink_to(to)
    with pytest.raises(
        BadInput, match=r"^data\.test: expected other pictures than those of train, got val, with the same ones"
    ):
        image_folders(str(pictures), SIDE)


def test_links_into_one_folder_may_part_it_but_not_share_a_picture(pictures):
    whole_set = (pictures / "train").rename(pictures / "whole")
    shutil.rmtree(pictures / "val")
    for i, file in enumerate(sorted(whole_set.glob("*/*"))):
        link = pictures / ("val" if i % 4 == 0 else "train") / file.parent.name / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    source = image_folders(str(pictures), SIDE)
    assert (len(source.train), len(source.test)) == (30, 10)
    (pictures / "train/cat/again.jpg").symlink_to(next((pictures / "val/cat").iterdir()).readlink())
    with pytest.raises(BadInput, match=r"the same ones, such as .*/again\.jpg"):
        image_folders(str(pictures), SIDE)


def test_pictures_of_which_copies_are_trained_on_are_counted_and_said(pictures, logged):
    for i in range(4, 7):
        shutil.copy(pictures / f"train/cat/{i:02}.jpg", pictures / f"val/cat/{i:02}.jpg")
    for folder in ("train/dog", "val/dog"):  # identical, and unreadable
        (pictures / folder / "06.jpg").write_bytes(b"")
    folders(pictures, num_validation=0).load()
    (line,) = (text for text in logged if "byte for byte" in text)
    assert line.startswith("Also in the training set, byte for byte: 3 of 14 test pictures, such as ")
    folders(pictures, num_validation=0, cache="none").load()  # which are never fully read
    assert sum("byte for byte" in text for text in logged) == 1


def test_training_pictures_in_two_classes_are_counted_and_named(pictures, logged):
    for i in range(4, 7):
        shutil.copy(pictures / f"train/cat/{i:02}.jpg", pictures / f"train/dog/copy{i}.jpg")
    folders(pictures, num_validation=0).load()
    (line,) = (text for text in logged if "byte for byte" in text)
    assert line.startswith("In two classes, byte for byte: 3 training pictures, such as ")
    assert line.endswith("in 'cat' and 'dog'.")


def test_system_folders_are_not_classes_and_their_pictures_do_not_count(pictures, logged):
    before = [len(part) for part in (image_folders(str(pictures), SIDE).train, image_folders(str(pictures), SIDE).test)]
    for place in ("train/cat/@eaDir", "train/@eaDir/x", "val/__MACOSX/x", "val/dog/@eaDir/05.jpg"):
        (pictures / place).mkdir(parents=True)
        shutil.copy(pictures / "train/cat/04.jpg", pictures / place / "thumb.jpg")
    source = image_folders(str(pictures), SIDE)
    assert [len(source.train), len(source.test)] == before
    assert source.classes == ["cat", "dog"]
    assert sum("hidden entries (2)" in text for text in logged) == 2


def test_classes_that_differ_only_in_case_are_named(pictures, logged):
    for split in ("train", "val"):
        (pictures / split / "dog").rename(pictures / split / "Cat")
    assert image_folders(str(pictures), SIDE).classes == ["Cat", "cat"]
    assert sum("'Cat' and 'cat' differ only in case" in text or "'cat' and 'Cat'" in text for text in logged) == 2


def test_classes_whose_names_look_alike_are_told_apart(pictures):
    for split, name in (("train", "caf\u00e9"), ("val", "cafe\u0301")):
        (pictures / split / "dog").rename(pictures / split / name)
    with pytest.raises(BadInput, match="in Unicode normalisation; rename one"):
        image_folders(str(pictures), SIDE)


def test_channels_that_pictures_have_not_are_refused_by_their_key(pictures):
    with pytest.raises(BadInput, match=r"^data\.in_channels: expected 3, as in the images, got 1$"):
        folders(pictures, in_channels=1).load()


def test_a_home_folder_that_no_shell_wrote_out_is_told():
    with pytest.raises(BadInput, match=r"got ~/no such pictures, .* use \$HOME$"):
        image_folders("~/no such pictures", SIDE)


def test_classes_are_counted_where_nobody_says_how_many(pictures):
    assert folders(pictures, num_classes=None).load().classes == ["cat", "dog"]


def test_folders_that_will_not_do_are_told(pictures, monkeypatch):
    with pytest.raises(BadInput, match="num_classes=3 is wrong: the data have 2"):
        folders(pictures, num_classes=3).load()
    (pictures / "val/dog").rename(pictures / "val/dig")
    with pytest.raises(BadInput, match=r"^data\.root: .*got 'dog' in train only and 'dig' in val only$"):
        folders(pictures).load()
    (pictures / "val/dig").rename(pictures / "val/dog")
    (pictures / "meminfo").write_text("MemTotal: 9999999 kB\nMemAvailable: 10 kB\n")
    monkeypatch.setattr(memory, "PROC", pictures)
    with pytest.raises(BadInput, match=r"0\.0 GB of memory are free; use data\.cache=none"):
        folders(pictures, cache="host").load()
    assert len(folders(pictures, cache="auto", num_workers=0).load().num_samples) == 3  # reads them on demand
    for file in (pictures / "train/cat").glob("*"):
        file.unlink()
    with pytest.raises(BadInput, match=r"data\.root: expected pictures in .*/train/cat, got none"):
        folders(pictures).load()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere", "/nowhere, which cannot be opened (No such file or directory)"),
        ("train/cat/00.jpg", "/00.jpg, which cannot be opened (Not a directory)"),
        ("train", "/train, which holds 2 folders ('cat', 'dog') and 0 files; {root} has them"),
        ("train/cat", "/cat, which holds 0 folders and 20 files; {root} has them"),
        ("..", "/.., which holds 2 folders ('pictures', 'runs') and 0 files; {root} has them"),
    ],
)
def test_a_root_beside_the_right_one_is_refused_with_what_it_holds_and_where_that_is(command, pictures, place, words):
    root = pictures / place
    outcome = command("train", "data=image_folder", f"data.root={root}", "trainer=smoke")
    assert outcome.code == 2
    assert "data.root: expected a folder with pictures in train/<class>/ and val/<class>/, got " in outcome.sentence
    assert outcome.sentence.endswith(words.replace("{root}", str(pictures)))


def test_a_root_of_classes_alone_or_without_a_test_is_refused_with_what_would_do(pictures, logged):
    (pictures / "train").rename(pictures.parent / "alone")
    for name in ("eel", "fox"):
        shutil.copytree(pictures.parent / "alone/cat", pictures.parent / "alone" / name)
    with pytest.raises(BadInput, match=r"/alone, which holds 4 folders \('cat', 'dog', 'eel', \.\.\.\) and 0 files; "):
        folders(pictures.parent / "alone").load()
    data = folders(pictures.parent / "alone", train=".", test=None, num_test=10, num_classes=4)
    assert data.load().num_samples == {"train": 62, "val": 8, "test": 10}
    (pictures.parent / "alone").rename(pictures / "train")
    (pictures / "val").rename(pictures / "test")
    with pytest.raises(BadInput, match=r"\('test', 'train'\) and 0 files; set data\.test to another folder"):
        folders(pictures).load()
    assert all("byte for byte" in text for text in logged)  # which copies of a folder are


def test_pictures_that_are_in_no_folder_of_a_class_are_counted(pictures, logged):
    for picture in (pictures / "val/cat").iterdir():
        shutil.move(picture, pictures / "val")
    for name in ("cat", "dog"):
        shutil.rmtree(pictures / "val" / name)
    with pytest.raises(BadInput, match=r"^data\.root: expected image folders in .*/val, got 7 files and no folder"):
        folders(pictures).load()
    assert logged[0].endswith("skipped 7 in all: files outside the class folders (7).")


def test_one_file_is_no_files(pictures):
    for picture in sorted((pictures / "train/cat").iterdir())[1:]:
        picture.unlink()
    (pictures / "train/cat/00.jpg").write_bytes(b"")
    with pytest.raises(BadInput, match="of class 'cat' that can be read, got 1 file, none"):
        folders(pictures, num_validation=0).load()
    with pytest.raises(BadInput, match="num_classes=3 is wrong: the data have 2 classes"):
        folders(pictures, num_classes=3).load()
    assert [counted(num, "file") for num in (0, 1, 2, 1000)] == ["0 files", "1 file", "2 files", "1,000 files"]
    assert counted(1, "class") == "1 class"


def test_a_run_counts_the_classes_and_its_product_is_evaluated_on_files_that_moved(command, pictures, only_run):
    line = [
        "model=lenet5",
        "data=image_folder",
        f"data.root={pictures}",
        "data.image_size=28",
        "data.num_validation=8",
        "data.batch_size=8",
        "data.cache=none",
        "data.num_workers=2",
        "trainer=smoke",
    ]
    assert command("train", *line).code == 0
    run = only_run()
    pictures.rename(pictures.parent / "data")
    outcome = command("evaluate", f"checkpoint={run}/model.safetensors", f"data_root={pictures.parent / 'data'}")
    assert outcome.code == 0, outcome.err
    assert "(14 images)" in outcome.out


def test_a_folder_is_asked_for(command):
    assert "data.root is required" in command("train", "data=image_folder").sentence


def test_test_pictures_that_are_those_of_training_are_refused_and_other_classes_links_left_out(tmp_path, caplog):
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "train" / name / f"{i}.png")
    (tmp_path / "train" / "dog" / "more").symlink_to(tmp_path / "train" / "cat")
    with caplog.at_level("WARNING"):
        source = image_folders(str(tmp_path), 8, test=None)
    assert len(source.train) == 6
    assert "links to a parent folder" in caplog.text
    (tmp_path / "val").symlink_to("train")
    for test in ("val", "train"):
        with pytest.raises(BadInput, match=r"^data\.test: "):
            image_folders(str(tmp_path), 8, test=test)
