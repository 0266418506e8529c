"""Fixtures: the commands as a user runs them, in this process or another, and a small data set on disk."""

import copy
import hashlib
import importlib.util
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
import torchvision
import yaml
from hydra._internal.hydra import Hydra
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from slow import slow_tests
from torch import nn

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core each; more threads than cores slow each other down
    torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent


@pytest.hookimpl(tryfirst=True)  # before -m 'not slow' is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests listed in tests/slow.txt as slow."""
    listed = slow_tests()
    for item in items:
        if item.nodeid in listed:
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def less_of_hydra() -> Iterator[None]:
    """Save commands in this process the time that Hydra spends on repeated work, a seventh or more.

    It composes the config once more only to look for hydra.mode, which no config here sets, and parses all files of
    configs/ again each time. Commands in other processes are as they are.
    """
    parse, parsed = yaml.load, dict[str, Any]()

    def load(stream: Any, Loader: Any) -> Any:
        if not str(getattr(stream, "name", "")).startswith(str(CONFIGS)):
            return parse(stream, Loader=Loader)
        text = stream.read()
        if text not in parsed:
            parsed[text] = parse(text, Loader=Loader)
        return copy.deepcopy(parsed[text])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "load", load)
        patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
        yield


CONFIGS = ROOT / "configs"


def options(group: str) -> list[str]:
    """Return the choices of a config group, found by globbing, so that new files are tested automatically."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        return sentence_of(self.err)


def sentence_of(err: str) -> str:
    """Return the single line of an error, the only allowed content of stderr."""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: "), err
    return lines[0]


Command = Callable[..., Outcome]


@pytest.fixture
def command(tmp_path, monkeypatch, capfd) -> Command:
    """Run train.py or evaluate.py with arguments in this process; runs/ is in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def run(script: str, *arguments: str) -> Outcome:
        spec = importlib.util.spec_from_file_location(script, ROOT / f"{script}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
        capfd.readouterr()
        try:
            module.main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code or 0
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        return Outcome(code, *capfd.readouterr())

    return run


def compose_run(*overrides: str, config: str = "train") -> DictConfig:
    """Compose a config with overrides and resolve its interpolations."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose(config, ["name=test", *overrides])
    OmegaConf.resolve(cfg)
    return cfg


@pytest.fixture(scope="session")
def compose() -> Callable[..., DictConfig]:
    return compose_run


def composed(model: str, data: str) -> DictConfig:
    """Compose a run whose data have all sizes that a net needs; those counted only in a training run are 11."""
    line = [f"model={model}", f"data={data}", *(["data.path=none"] if data == "pairs" else [])]
    cfg = compose_run(*line)
    counted = [key for key in ("num_classes", "num_source_tokens", "num_target_tokens") if key in cfg.data]
    return compose_run(*line, *(f"data.{key}=11" for key in counted if cfg.data[key] is None))


def inputs_of(cfg: DictConfig, batch: int) -> tuple[torch.Tensor, ...]:
    """Return noise of the data's shape: images, or sources of 2 to 8 tokens and targets of up to 8 with their start."""
    if "image_size" in cfg.data:
        return (torch.randn(batch, cfg.data.in_channels, cfg.data.image_size, cfg.data.image_size),)
    source = torch.randint(3, cfg.data.num_source_tokens, (batch, 8))
    target = torch.randint(3, cfg.data.num_target_tokens, (batch, 8))
    target[:, 0] = 1
    for row in range(1, batch):
        source[row, 2 + row % 7 :] = target[row, 3 + row % 6 :] = 0
    return source, target


@pytest.fixture
def process(tmp_path) -> Callable[..., subprocess.Popen]:
    """Start train.py or evaluate.py with arguments in another process."""

    def start(script: str, *arguments: str) -> subprocess.Popen:
        line = [sys.executable, str(ROOT / f"{script}.py"), *arguments]
        return subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def exchange_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Load their weights into ours and ours into theirs, key by key, with norm statistics other than 0 and 1."""
    for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1)
        norm.running_var.uniform_(0.8, 1.2)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a uint8 array in the format of MNIST's files: magic number, sizes, bytes."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.tobytes())


def toy_images(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw 28 px images of ten classes that a net can learn: a bright bar in noise, whose height is the class."""
    draw = np.random.default_rng(seed)
    labels = np.arange(num) % 10
    images = draw.integers(0, 60, (num, 28, 28))
    for image, label in zip(images, labels, strict=True):
        image[4 + 2 * label : 6 + 2 * label, 4:24] += 180
    return images.astype(np.uint8), labels.astype(np.uint8)


def write_cifar(root: Path, name: str, num: int) -> tuple[dict[str, tuple[np.ndarray, list[int]]], dict[str, Any]]:
    """Write files of CIFAR10 or CIFAR100's layout with `num` images of noise each.

    Return the images and labels of each file, and the attributes of torchvision's class with the files' checksums.
    """
    kind = getattr(torchvision.datasets, name)
    key, num_classes = {"CIFAR10": ("labels", 10), "CIFAR100": ("fine_labels", 100)}[name]
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    wanted = {}

    def write(file: str, content: dict[str, Any]) -> tuple[str, str]:
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
        return file, hashlib.md5((folder / file).read_bytes()).hexdigest()

    def batch(file: str) -> tuple[str, str]:
        pixels = draw.integers(0, 256, (num, 3072), dtype=np.uint8)
        labels = [int(i) for i in draw.integers(0, num_classes, num)]
        wanted[file] = (pixels.reshape(-1, 3, 32, 32), labels)
        return write(file, {"data": pixels, key: labels})

    lists = {part: [batch(file) for file, _ in getattr(kind, part)] for part in ("train_list", "test_list")}
    _, digest = write(kind.meta["filename"], {kind.meta["key"]: [f"class {i}" for i in range(num_classes)]})
    return wanted, {**lists, "meta": {**kind.meta, "md5": digest}}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read the TensorBoard curves of a run folder: (step, value) by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture(scope="session")
def fashion_root(tmp_path_factory) -> Path:
    """A data_root with 700 + 200 toy images in Fashion-MNIST's format, where torchvision would download it."""
    root = tmp_path_factory.mktemp("data")
    for prefix, num, seed in (("train", 700, 0), ("t10k", 200, 1)):
        images, labels = toy_images(num, seed)
        write_idx(root / "FashionMNIST/raw" / f"{prefix}-images-idx3-ubyte", images)
        write_idx(root / "FashionMNIST/raw" / f"{prefix}-labels-idx1-ubyte", labels)
    return root


@pytest.fixture(scope="session")
def recipe_files(fashion_root) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Add toy images to those of Fashion-MNIST, as CIFAR's files and as ImageNet folders of four classes."""
    checksums = {name: write_cifar(fashion_root, name, 400)[1] for name in ("CIFAR10", "CIFAR100")}
    for split, num in (("train", 4), ("val", 2)):
        for label in range(4):
            folder = fashion_root / "imagenet" / split / f"n{label}"
            folder.mkdir(parents=True)
            for i in range(num):
                Image.new("RGB", (60 + i, 50), (60 * label, 0, 99)).save(folder / f"{i}.jpg")
    return fashion_root, checksums


@pytest.fixture
def data_root(recipe_files, monkeypatch) -> Path:
    """A data_root with toy images in the files of Fashion-MNIST, CIFAR-10, CIFAR-100 and ImageNet."""
    root, checksums = recipe_files
    for name, attributes in checksums.items():
        for attribute, value in attributes.items():
            monkeypatch.setattr(getattr(torchvision.datasets, name), attribute, value)
    return root


def toy_run(root: Path) -> list[str]:
    """The arguments of a run of a few seconds: LeNet-5 on the toy images in `root`, three epochs of ten steps."""
    return [
        "data=fashion_mnist",
        f"data_root={root}",
        "data.num_validation=60",
        "data.batch_size=64",
        "data.augment.flip=null",
        "trainer=cpu",
        "trainer.max_epochs=3",
        "trainer.log_every_n_steps=4",
        "optim.lr=0.003",
        "name=toy",
        *WITHOUT_PLOTS,
    ]


WITHOUT_PLOTS = ("callbacks.graph=null", "callbacks.predictions=null")  # which take longer than the training


def with_plots(line: list[str]) -> list[str]:
    """Return the arguments of a run with the callbacks that every run has."""
    return [argument for argument in line if argument not in WITHOUT_PLOTS]


@pytest.fixture
def toy(fashion_root, tmp_path) -> list[str]:
    """The same on images in data/, the default folder of all commands."""
    (tmp_path / "data").symlink_to(fashion_root)
    return [argument for argument in toy_run(fashion_root) if not argument.startswith("data_root")]


@pytest.fixture
def toy_smoke(toy) -> list[str]:
    """The same, limited to two batches of each kind."""
    return [a for a in toy if not a.startswith("trainer")] + ["trainer=smoke"]


@pytest.fixture
def teacher(command, toy, only_run) -> Path:
    """The product of a run of LeNet-5 on the toy images."""
    assert command("train", *toy).code == 0
    return only_run() / "model.safetensors"


@pytest.fixture
def only_run(tmp_path) -> Callable[[], Path]:
    """Return a function that returns the only run folder."""

    def find() -> Path:
        (folder,) = (path.parent for path in tmp_path.glob("runs/*/*/config.yaml"))
        return folder

    return find
