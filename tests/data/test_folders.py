"""Folders of images: what is read, by whom, what is refused, and what is skipped."""

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from zoo import ranks
from zoo.data import images as images_module
from zoo.data.decoding import ImageFiles
from zoo.data.folders import ImageFolders, image_folders
from zoo.errors import BadInput

SIDE = 28
STORED = 32  # 256/224 of it


def smooth(draw, height, width) -> Image.Image:
    """A picture that resizing changes little: four random colours, blended."""
    corners = Image.fromarray(draw.integers(0, 256, (2, 2, 3), dtype=np.uint8))
    return corners.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """40 training and 14 test pictures of two classes, of several shapes, kinds and modes."""
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
    assert data[0].load() == data[1].load()
    for split in ("train", "val", "test"):
        (x, y), (u, v) = (whole(one, split) for one in data)
        assert torch.equal(x, u)
        assert torch.equal(y, v)


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
    told: list[str] = []
    monkeypatch.setattr(logging.getLogger("zoo"), "warning", lambda text, *values: told.append(text % values))
    data = folders(pictures, cache=cache, num_workers=2)
    seen = [whole(data, "test") for _ in range(2)]
    assert [len(x) for x, _ in seen] == [12, 12]
    assert [y.tolist() for _, y in seen] == [[0] * 6 + [1] * 6] * 2
    assert ["val/cat/04.jpg is skipped" in told[0], "val/dog/05.jpg is skipped" in told[1]] == [True, True]
    assert told[1].endswith("2 so far.")
    assert len(told) == 2


def test_of_files_decoded_on_a_device_only_those_that_are_no_jpeg_are_read_by_other_means(pictures, monkeypatch):
    files = image_folders(str(pictures), SIDE).test.images
    (pictures / "val/cat/05.jpg").write_bytes(b"no image")
    index = torch.tensor([0, 1, 3, 4, 5])  # JPEG, PNG, BMP, JPEG, and none
    read = []
    monkeypatch.setattr(files, "read", lambda i: read.append(i) or ImageFiles.read(files, i))
    raw = [torch.frombuffer(bytearray(Path(files.paths[i]).read_bytes()), dtype=torch.uint8) for i in index]
    images, kept, failures = files._decode_on(torch.device("cpu"), raw, index)
    assert kept.tolist() == [0, 1, 3, 4]
    assert read == [1, 3, 5]
    assert [Path(path).name for path, _ in failures] == ["05.jpg"]
    for image, i in zip(images, kept.tolist(), strict=True):
        assert torch.equal(image, ImageFiles.read(files, i))


def test_processes_of_one_machine_share_its_memory_and_cores(pictures, monkeypatch):
    (pictures / "meminfo").write_text("MemAvailable: 300 kB\n")  # 54 pictures of 32 px are 166 kB
    monkeypatch.setattr(images_module, "MEMINFO", pictures / "meminfo")
    folders(pictures, cache="host").load()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="memory are free"):
        folders(pictures, cache="host").load()
    monkeypatch.setattr(ranks, "num_cores", lambda: 4)
    assert folders(pictures).source().test.images.num_workers == 2


def test_a_decoder_that_has_no_device_is_told(pictures, caplog):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with caplog.at_level("WARNING", "zoo"):
        folders(pictures, decoder="cuda")
    assert "worker processes decode" in caplog.text


def test_a_batch_of_nothing_but_broken_files_ends_the_run(pictures):
    for file in (pictures / "val").glob("*/*"):
        file.write_bytes(b"")
    data = folders(pictures, cache="none", num_workers=0)
    with pytest.raises(BadInput, match=r"none of 14 images could be read, such as .*/val/cat/00\.jpg"):
        whole(data, "test")


def test_the_split_knows_its_files_wherever_they_lie_and_their_change(pictures):
    before = folders(pictures).load().split_hash
    moved = pictures.rename(pictures.parent / "elsewhere")
    assert folders(moved).load().split_hash == before
    with open(moved / "train/cat/00.jpg", "ab") as file:
        file.write(b"\0")
    assert folders(moved).load().split_hash != before


def test_contents_exchanged_under_the_same_names_and_sizes_are_found_where_files_are_read_anyway(pictures):
    before, unread = folders(pictures), folders(pictures, cache="none")
    facts, unread_facts = asdict(before.load()), asdict(unread.load())
    folders(pictures).check_same(facts, "before")
    one, other = (pictures / f"train/{name}/00.jpg" for name in ("cat", "dog"))
    size = max(file.stat().st_size for file in (one, other))
    contents = [file.read_bytes().ljust(size, b"\0") for file in (one, other)]
    one.write_bytes(contents[0]), other.write_bytes(contents[1])
    facts = asdict(folders(pictures).load())
    one.write_bytes(contents[1]), other.write_bytes(contents[0])
    changed = folders(pictures)
    assert changed.load().split_hash == facts["split_hash"]
    with pytest.raises(BadInput, match="the same number of samples, and other contents"):
        changed.check_same(facts, "before")
    changed.check_same({**facts, "content_hash": None}, "before")  # as of an earlier version, or of files not read
    assert unread_facts["content_hash"] is None


def test_pictures_that_were_added_are_counted_and_classes_named(pictures):
    facts = asdict(folders(pictures).load())
    for i in range(10):
        shutil.copy(pictures / "train/cat/00.jpg", pictures / f"train/cat/new_{i}.jpg")
    with pytest.raises(BadInput, match="42 samples for train instead of 32"):  # of 40 and 10, 8 are validated on
        folders(pictures).check_same(facts, "before")
    for split in ("train", "val"):
        (pictures / split / "dog").rename(pictures / split / "wolf")
    with pytest.raises(BadInput, match="other classes, such as 'dog'"):
        folders(pictures).check_same(facts, "before")


def test_a_run_tells_how_many_pictures_it_could_read_and_test(command, pictures, only_run):
    """Of 14 test pictures five are damaged, and are skipped only when they are wanted."""
    for file in sorted((pictures / "val/cat").glob("*"))[:5]:
        file.write_bytes(b"damaged")
    line = ["data=image_folder", f"data.root={pictures}", "data.image_size=28", "data.num_validation=8"]
    line += ["data.batch_size=8", "data.cache=none", "data.num_workers=0", "trainer=smoke"]
    outcome = command("train", *line)
    assert outcome.code == 0, outcome.err
    result = json.loads((only_run() / "result.json").read_text())
    assert (result["num_samples"]["test"], result["split_sizes"]["test"]) == (9, 14)
    assert "test (9 of 14)" in outcome.out


def test_a_resumed_run_refuses_other_data_before_anything_is_trained(command, pictures, only_run):
    line = ["data=image_folder", f"data.root={pictures}", "data.image_size=28", "data.num_validation=8"]
    line += ["data.batch_size=8", "trainer.max_epochs=1", "trainer=cpu", "trainer.log_every_n_steps=1"]
    assert command("train", *line).code == 0
    before = {name: (only_run() / name).read_bytes() for name in ("config.yaml", "last.ckpt", "model.safetensors")}
    for i in range(10):
        shutil.copy(pictures / "train/cat/00.jpg", pictures / f"train/cat/new_{i}.jpg")
    outcome = command("train", f"resume={only_run()}", "trainer.max_epochs=2")
    assert outcome.code == 2
    assert "42 samples for train instead of 32" in outcome.err
    assert {name: (only_run() / name).read_bytes() for name in before} == before


def test_classes_are_counted_where_nobody_says_how_many(pictures):
    assert folders(pictures, num_classes=None).load().classes == ["cat", "dog"]


def test_folders_that_will_not_do_are_told(pictures, monkeypatch):
    with pytest.raises(BadInput, match="holds no folders of images"):
        folders(pictures / "nowhere").load()
    with pytest.raises(BadInput, match="num_classes=3 was given, but the data have 2"):
        folders(pictures, num_classes=3).load()
    with pytest.raises(BadInput, match="num_workers=-1"):
        folders(pictures, num_workers=-1)
    (pictures / "val/dog").rename(pictures / "val/dig")
    with pytest.raises(BadInput, match="'dig' is in one of them only"):
        folders(pictures).load()
    (pictures / "val/dig").rename(pictures / "val/dog")
    (pictures / "meminfo").write_text("MemTotal: 9999999 kB\nMemAvailable: 10 kB\n")
    monkeypatch.setattr(images_module, "MEMINFO", pictures / "meminfo")
    with pytest.raises(BadInput, match=r"0\.0 GB of memory are free; data\.cache=none reads"):
        folders(pictures, cache="host").load()
    assert len(folders(pictures, cache="auto", num_workers=0).load().num_samples) == 3  # reads them as they are wanted
    for file in (pictures / "train/cat").glob("*"):
        file.unlink()
    with pytest.raises(BadInput, match="Found no valid file for the classes cat"):
        folders(pictures).load()


def test_a_run_counts_the_classes_and_its_product_is_evaluated_on_files_that_moved(command, pictures, only_run):
    line = [
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
    assert "data.root is not given" in command("train", "data=image_folder").sentence
