"""Every command of the README and of docs/ runs to its end, typed in a clone of the project, with small settings."""

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, toy_images
from PIL import Image
from test_readme import PAGES

from zoo.data.sources import DEBIAN_FASHION_MNIST

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="needs the package dataset-fashion-mnist"),
]

LEFT_OUT = {  # commands that need more than a CPU and an hour, and the reason
    "^pip install|^pytest": "the set-up and the tests, which CI runs",
    r"trainer=gpu|devices=|^torchrun|^srun|^#SBATCH": "several devices, or CUDA",
    r"pretrained=true": "a download",
    r"reproduce\.py zoo:(?!lenet5_mnist_5k ).* train=true": "the training of an included net, of minutes to hours",
    r"data\.root=/|/mnt/": "folders of the reader",
    r"https://example": "a server of the reader",
    r"data=arrow_folder": "files that pyarrow writes, which is optional",
    r"scripts/(benchmark|trust)\.py|summary\.py zoo=true": "measurements of half an hour",
    r"results\.py add=": "a whole run, which a small one is not",
}
SMALLER = {  # patterns of commands, and their replacements
    r"data=cifar10\b": "data=fashion_mnist",
    r"step=500": "step=1",
    r"data=imagenet\b": "data=imagenet data.num_classes=2 data.num_validation=2 data.batch_size=2",
    r"num_(test|validation)=200": r"num_\1=20",
    r"max_drop=0\.\d": "max_drop=99",  # nets that have hardly been trained
    r"(experiment=transformer_cmudict_student)(?!.*task\.words)": r"\1 task.words=words.txt",
    r"trials=\d+": "trials=2 trainer=smoke",
    r"^tensorboard .*": r"timeout 20 tensorboard --logdir runs; test $? = 124",
    r"(python train\.py(?! resume=| --help| trainer=smoke)[^;&\n]*)": r"\1 trainer=smoke",
}
FILES = {
    "vit_tiny": "runs/vit",
    "resnet20": "runs/resnet20_fashion_mnist",
    "transformer": "runs/sequences",
}  # THE_FILE of each net
# The runs that pages begin with, and those of nets that a reader would have trained
BEFORE = {
    "first": "",
    "second": "seed=2",
    "dense": "seed=3",
    "large": "data=fashion_mnist",
    "resnet20_fashion_mnist": "experiment=resnet20_fashion_mnist",
    "vit": "model=vit_tiny data=fashion_mnist",
    "resnet20": "model=resnet20 optim.lr=0.01",
    "small": "init_from=runs/first compress=rate compress.rate.weight=0.3",
    "sequences": "experiment=transformer_cmudict",
}


def commands_of(page: Path) -> list[str]:
    """Return the commands of a page; a loop is one command."""
    commands = []
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
        text = re.sub(r"(?m)(  +|^)# .*$", "", block.replace("\\\n", " "))
        text = re.sub(
            r"(?s)(file=\S+\nfor .*?\n)done", lambda loop: loop[0].replace("\n", "; ").replace("do;", "do"), text
        )
        commands += [line.strip() for line in text.splitlines() if line.strip()]
    return commands


def smaller(command: str) -> str:
    """Return a command that takes seconds."""
    for pattern, instead in SMALLER.items():
        command = re.sub(pattern, instead, command)
    net = next((net for net in FILES if net in command), "")
    return command.replace("THE_FILE", FILES.get(net, "THE_FILE"))


@pytest.fixture(scope="session")
def clone(tmp_path_factory) -> Path:
    """A clone of the project in which a reader has trained some nets, and has pictures, pairs and a package."""
    folder = tmp_path_factory.mktemp("typed") / "zoo"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    images, labels = toy_images(300, seed=0)
    rows = ["file,label,split,patient_id,cat,dog,indoors,age,x,y"]
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        split = "val" if i // 10 % 5 == 0 else "train"
        place = folder / "my_pictures" / split / f"class{label}" / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
        part = ("test", "validation", "train", "train", "train")[i // 10 % 5]
        name = place.relative_to(folder / "my_pictures")
        rows.append(
            f"{name},class{label},{part},{i % 60},{i % 2},{i % 3 // 2},{i % 7 // 6},{20 + i % 50},{i % 9},{i / 7:.3f}"
        )
    (folder / "labels.csv").write_text("\n".join(rows))
    (folder / "classes.txt").write_text("\n".join(f"class{i}" for i in range(10)))
    (folder / "shards").mkdir()
    for name in ("val", "test", *(f"train-{i:03}" for i in range(10))):
        with tarfile.open(folder / f"shards/{name}.tar", "w") as shard:
            for i in range(60):
                shard.add(folder / "my_pictures" / "train" / f"class{i % 10}" / f"{10 + i % 10}.png", f"{i}.png")
                label = tarfile.TarInfo(f"{i}.cls")
                label.size = 1
                shard.addfile(label, io.BytesIO(str(i % 10).encode()))
    for split in ("train", "val"):
        for label in range(2):
            place = folder / "data/imagenet" / split / f"n{label}"
            place.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(np.full((60, 50, 3), 90 * label + i, np.uint8)).save(place / f"{i}.jpg")
    (folder / "folder").mkdir()
    for name in ("picture.jpg", "other.png", "folder/third.png"):
        Image.fromarray(images[0]).save(folder / name)
    torch.save(torchvision.models.vgg16().state_dict(), folder.parent / "vgg16.pth")
    (folder / "vgg16.pth").symlink_to(folder.parent / "vgg16.pth")
    words = ("abc"[i % 3] + "abcd"[i % 4] + "abcde"[i % 5] + "abcdefg"[i % 7] for i in range(420))
    words = sorted(set(words))
    (folder / "my_pairs.tsv").write_text("".join(f"{word}\t{word[::-1]}\n" for word in words))
    (folder / "words.txt").write_text("zooish\nzooless\n")
    (folder / "my_val.txt").write_text("\n".join(words[::9]))
    (folder / "my_test.txt").write_text("\n".join(words[1::9]))
    (folder / "my_package").mkdir()
    (folder / "my_package/__init__.py").touch()
    (folder / "my_package/nets.py").write_text(
        "from torch import nn\n\n\n"
        "class TinyNet(nn.Sequential):\n"
        '    head_names = ("1",)\n\n'
        "    def __init__(self, num_classes: int = 10) -> None:\n"
        "        super().__init__(nn.Flatten(), nn.Linear(784, num_classes))\n"
    )
    (folder / "my_configs/model").mkdir(parents=True)
    (folder / "my_configs/model/tiny.yaml").write_text(
        "_target_: my_package.nets.TinyNet\nnum_classes: ${data.num_classes}\n"
        "pretrained: false\nfreeze: null\ninit: paper\n"
    )
    for name, settings in BEFORE.items():
        done = typed(f"python train.py {settings} name={name} trainer=smoke", folder)
        assert done.returncode == 0, done.stderr
    return folder


def typed(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "default"}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=1800
    )


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=lambda page: page.stem)
def test_every_command_runs_to_its_end(page, clone, tmp_path):
    folder = tmp_path / "zoo"
    shutil.copytree(clone, folder, symlinks=True)
    failed = []
    for command in commands_of(page):
        if any(re.search(pattern, command) for pattern in LEFT_OUT):
            continue
        done = typed(smaller(command), folder)
        print(f"{done.returncode}  {smaller(command)}")
        if done.returncode:
            failed.append(f"{smaller(command)}\n{done.stdout[-500:]}{done.stderr[-1000:]}")
    assert not failed, "\n\n".join(failed)
