"""Real photographs as data sets: cuttings of those that libraries ship, in every form that the zoo reads.

scikit-learn ships china.jpg and flower.jpg, matplotlib grace_hopper.jpg; each is a class.
"""

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import cbook
from PIL import Image
from sklearn.datasets import load_sample_image

CLASSES = ("china", "flower", "grace_hopper")


def photograph(name: str) -> np.ndarray:
    """Return the pixels (height, width, 3)."""
    if name == "grace_hopper":
        with cbook.get_sample_data("grace_hopper.jpg") as file:
            return np.asarray(Image.open(file).convert("RGB"))
    return load_sample_image(f"{name}.jpg")


def write_folders(root: Path, num_train: int = 20, num_test: int = 6, least: int = 36, most: int = 80) -> Path:
    """Write cuttings of `least` to `most` px a side into train/<class>/ and val/<class>/, as JPEG and PNG in turn."""
    draw = np.random.default_rng(0)
    for name in CLASSES:
        pixels = photograph(name)
        for split, num in (("train", num_train), ("val", num_test)):
            (root / split / name).mkdir(parents=True)
            for i in range(num):
                height, width = draw.integers(least, most, 2)
                top, left = draw.integers(0, pixels.shape[0] - height), draw.integers(0, pixels.shape[1] - width)
                cutting = Image.fromarray(pixels[top : top + height, left : left + width])
                cutting.save(root / split / name / f"{i:02}.{'jpg' if i % 2 else 'png'}")
    return root


def files_of(root: Path, split: str) -> list[Path]:
    """Return the pictures of a split in random order, always the same."""
    files = sorted(path for path in (root / split).rglob("*") if path.is_file())
    return [files[i] for i in np.random.default_rng(1).permutation(len(files))]


def write_table(root: Path, path: Path) -> str:
    """Write a table of the pictures in folders."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "label", "split"))
        for split, name in (("val", "test"), ("train", "train")):
            rows.writerows((f.relative_to(root), f.parent.name, name) for f in files_of(root, split))
    return str(path)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_shards(root: Path, folder: Path, kind: str = "cls", num: int = 3, numbers: bool = False) -> Path:
    """Write train-0.tar, ..., and test-0.tar with the pictures in folders; labels are names, or numbers of classes."""
    folder.mkdir(exist_ok=True)
    for split, name, num_shards in (("train", "train", num), ("val", "test", 1)):
        files = files_of(root, split)
        for i in range(num_shards):
            with tarfile.open(folder / f"{name}-{i}.tar", "w") as tar:
                for file in files[i::num_shards]:
                    label: Any = CLASSES.index(file.parent.name) if numbers else file.parent.name
                    text = json.dumps({"id": 1, "label": label}) if kind == "json" else str(label)
                    key = file.relative_to(root / split).with_suffix("")
                    add(tar, f"{key}{file.suffix}", file.read_bytes())
                    add(tar, f"{key}.{kind}", text.encode())
    return folder


def write_arrow(root: Path, folder: Path, parquet: bool = False) -> Path:
    """Write the pictures in folders as `datasets` does: two Arrow files, or Parquet files, for each split."""
    import pyarrow
    from pyarrow import parquet as of_parquet

    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(CLASSES), "_type": "ClassLabel"},
    }
    image = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    schema = pyarrow.schema({"image": image, "label": pyarrow.int64()})
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    for split, name in (("train", "train"), ("val", "test")):
        place = folder if parquet else folder / name
        place.mkdir(parents=True, exist_ok=True)
        for i in range(2):
            rows = [
                {"image": {"bytes": f.read_bytes(), "path": f.name}, "label": CLASSES.index(f.parent.name)}
                for f in files_of(root, split)[i::2]
            ]
            table = pyarrow.Table.from_pylist(rows, schema)
            if parquet:
                of_parquet.write_table(table, place / f"{name}-{i:05}-of-00002.parquet", row_group_size=7)
                continue
            with pyarrow.ipc.new_stream(str(place / f"data-{i:05}-of-00002.arrow"), schema) as writer:
                writer.write_table(table, max_chunksize=5)
    return folder
