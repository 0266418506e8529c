"""Pictures whose labels in a table are numbers: how they are read and split, and what is refused."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.preprocessing import StandardScaler

from zoo.data.image_tables import ImageTable
from zoo.errors import BadInput

AGES = [f"{age:.2f}" for age in np.random.default_rng(0).uniform(-5, 90, 30)]


@pytest.fixture
def folder(tmp_path) -> Path:
    for i in range(len(AGES)):
        Image.fromarray(np.full((8, 8), 8 * i, np.uint8)).save(tmp_path / f"{i:02}.png")
    return tmp_path


def table(folder: Path, ages=AGES, **changes: str) -> Path:
    rows = [
        {"file": f"{i:02}.png", "age": age, "height": str(150 + i % 7), "patient": f"p{i // 3}"}
        for i, age in enumerate(ages)
    ]
    rows[4] |= changes
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "labels.csv"


def data_of(path: Path, **settings) -> ImageTable:
    usual = {"label": "age", "numbers": True, "image_size": 8, "num_classes": None, "in_channels": 3, "batch_size": 4}
    data = ImageTable(table=str(path), **{**usual, "num_workers": 0, "num_validation": 6, "num_test": 6, **settings})
    data.load()
    return data


def values_of(data: ImageTable, split: str) -> dict[str, list[float]]:
    names = [Path(path).name for path in data.files[split].paths]
    return dict(zip(names, data.splits[split].labels.tolist(), strict=True))


def test_each_picture_has_its_number_and_statistics_are_those_of_the_training_pictures(folder):
    data = data_of(table(folder))
    facts = data.load()
    found = {name: number for split in ("train", "val", "test") for name, number in values_of(data, split).items()}
    assert found == {f"{i:02}.png": [float(np.float32(age))] for i, age in enumerate(AGES)}
    assert facts.classes == ["age"]
    assert facts.num_samples == {"train": 18, "val": 6, "test": 6}
    scaler = StandardScaler().fit(list(values_of(data, "train").values()))
    assert facts.number_scale["mean"] == pytest.approx(scaler.mean_.tolist())
    assert facts.number_scale["std"] == pytest.approx(scaler.scale_.tolist())
    _, labels = next(iter(data.loader("train", "cpu")))
    assert labels.dtype == torch.float32
    assert labels.shape == (4, 1)
    assert not data.multilabel


def test_several_columns_are_vectors_and_a_group_stays_in_one_split(folder):
    data = data_of(table(folder), label_columns=["height", "age"], label="unused", group="patient")
    assert data.load().classes == ["height", "age"]
    found = {split: values_of(data, split) for split in ("train", "val", "test")}
    for name, numbers in found["train"].items():
        assert numbers == [150 + int(name[:2]) % 7, float(np.float32(AGES[int(name[:2])]))]
    patients = [{int(name[:2]) // 3 for name in part} for part in found.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 10


def test_the_split_depends_on_the_seed_and_the_hash_on_the_numbers(folder):
    one, other = data_of(table(folder)), data_of(table(folder), split_seed=1)
    assert set(values_of(one, "test")) != set(values_of(other, "test"))
    changed = data_of(table(folder, age="33.125"))
    nearly = data_of(table(folder, age="33.126"))  # the same whole number
    assert len({data.load().split_hash for data in (one, changed, nearly)}) == 3


@pytest.mark.parametrize("cell", ["", "old", "nan", "inf", "1e39", "1_0", "3,5"])
def test_a_cell_that_is_not_a_number_is_named(folder, cell):
    with pytest.raises(BadInput, match=r"^data\.label: .*'age'.* line 6 of labels\.csv"):
        data_of(table(folder, age=cell))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"separator": "|"}, r"^data\.separator"),
        ({"label": "weight"}, r"^data\.label: .*'weight'"),
        ({"num_classes": 3}, r"^data\.num_classes=3 .* 1 number$"),
        ({"sampler": "balanced"}, r"^data\.sampler=balanced .* numbers"),
        ({"mix": lambda *_: None}, r"^data\.mix .* numbers"),
    ],
)
def test_settings_for_classes_are_refused(folder, settings, says):
    with pytest.raises(BadInput, match=says):
        data_of(table(folder), **settings)


def test_a_number_that_never_changes_is_refused(folder):
    with pytest.raises(BadInput, match=r"^data\.label: 'age' is 41\.5 "):
        data_of(table(folder, ages=["41.5"] * 30))
