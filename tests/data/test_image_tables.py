"""Pictures with labels in a table: the same data as folders, groups that stay whole, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from zoo.data.augment import RandomResizedCrop
from zoo.data.folders import ImageFolders
from zoo.data.image_tables import ImageTable
from zoo.data.splits import grouped_split, strata
from zoo.errors import BadInput

SIDE = 28
COMMON = {"image_size": SIDE, "num_classes": None, "in_channels": 3, "batch_size": 8, "num_workers": 0}
LINE = ["model=lenet5", "data=image_table", "data.image_size=28", "data.batch_size=8", "data.num_workers=0"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Cuttings of the two photographs that scikit-learn ships, as folders: train and val of two classes."""
    root = tmp_path_factory.mktemp("photographs")
    draw = np.random.default_rng(0)
    for name in ("china", "flower"):
        pixels = load_sample_image(f"{name}.jpg")
        for split, num in (("train", 30), ("val", 8)):
            (root / split / name).mkdir(parents=True)
            for i in range(num):
                top, left = draw.integers(0, 300), draw.integers(0, 500)
                height, width = draw.integers(36, 80, 2)
                cutting = Image.fromarray(pixels[top : top + height, left : left + width])
                cutting.save(root / split / name / f"{i:02}.{'jpg' if i % 2 else 'png'}")
    return root


def rows_of(root: Path) -> list[dict[str, str]]:
    files = sorted(path for path in root.rglob("*") if path.suffix in (".png", ".jpg"))
    splits = {"train": "train", "val": "test"}
    return [
        {"file": str(f.relative_to(root)), "label": f.parent.name, "split": splits[f.parent.parent.name]} for f in files
    ]


def write(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def shuffled(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]


def all_batches(data, split) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(data.loader(split, "cpu"))


@pytest.mark.parametrize(("cache", "workers"), [("host", 0), pytest.param("none", 1, marks=pytest.mark.slow)])
def test_folders_a_table_and_a_table_of_one_label_each_give_the_same_batches(photographs, tmp_path, cache, workers):
    """Bit for bit, with random crops, whatever the order of the rows."""
    settings = {**COMMON, "cache": cache, "num_workers": workers, "augment": {"crop": RandomResizedCrop(size=SIDE)}}
    table = write(tmp_path / "labels.csv", shuffled(rows_of(photographs)))
    of_table = {"table": table, "images": str(photographs), "split": "split", "num_validation": 12, **settings}
    folders = ImageFolders(root=str(photographs), num_validation=12, **settings)
    tables = ImageTable(**of_table), ImageTable(**of_table, separator="|")
    assert folders.load() == tables[0].load()
    assert tables[1].load().num_samples == folders.load().num_samples == {"train": 48, "val": 12, "test": 16}
    for split in ("train", "val", "test"):
        expected, single, several = (all_batches(data, split) for data in (folders, *tables))
        assert len(expected) == len(single) == len(several) > 0
        for (images, labels), (x, y), (u, v) in zip(expected, single, several, strict=True):
            assert torch.equal(images, x)
            assert torch.equal(images, u)
            assert torch.equal(labels, y)
            assert torch.equal(torch.nn.functional.one_hot(labels, 2), v.long())


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_are_found_by_name_and_the_splits_of_the_table_are_kept(photographs, tmp_path, delimiter):
    rows = [r for r in rows_of(photographs) if r["split"] == "train"]
    rows = [
        {"note": "a, b; c", "which": name, "what": row["label"], "picture": row["file"]}
        for row, name in zip(rows, ("train", "validation", "TEST", "val", "train", "train") * 10, strict=True)
    ]
    table = write(tmp_path / "labels.csv", rows, delimiter)
    columns = {"file": "picture", "label": "what", "split": "which"}
    data = ImageTable(table=table, images=str(photographs), **columns, **COMMON)
    assert data.load().num_samples == {"train": 30, "val": 20, "test": 10}
    named = {row["picture"]: row["which"] for row in rows}
    for split, names in (("train", {"train"}), ("val", {"validation", "val"}), ("test", {"TEST"})):
        found = {str(Path(path).relative_to(photographs)) for path in data.files[split].paths}
        assert found == {name for name, which in named.items() if which in names}


@pytest.mark.parametrize("seed", range(6))
def test_groups_never_straddle_and_sizes_and_proportions_are_near_those_asked_for(seed):
    draw = np.random.default_rng(seed)
    num, num_groups = int(draw.integers(200, 2000)), int(draw.integers(40, 150))
    groups = torch.from_numpy(draw.integers(0, num_groups, num)) * 7  # numbers need not be consecutive
    labels = torch.from_numpy(draw.choice(3, num, p=[0.6, 0.3, 0.1]))
    sizes = [num // 5, num // 10]
    parts = grouped_split(labels, groups, sizes, seed)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(num))
    found = [set(groups[part].tolist()) for part in parts]
    assert sum(map(len, found)) == len(set(groups.tolist()))
    largest = int(groups.bincount().max())
    for part, size in zip(parts, [*sizes, num - sum(sizes)], strict=True):
        assert abs(len(part) - size) <= largest
        share = labels[part].bincount(minlength=3) / len(part)
        assert (share - labels.bincount() / num).abs().max() < 0.1
    again = grouped_split(labels, groups, sizes, seed)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def test_groups_of_one_picture_are_split_as_no_groups_are_in_size_and_proportion():
    labels = torch.arange(3).repeat_interleave(torch.tensor([60, 30, 10]))
    parts = grouped_split(labels, torch.arange(100), [20, 10], 0)
    assert [len(part) for part in parts] == [20, 10, 70]
    assert [labels[part].bincount(minlength=3).tolist() for part in parts] == [[12, 6, 2], [6, 3, 1], [42, 21, 7]]


def test_small_parts_get_groups_of_one_class_that_are_larger_than_the_share_of_the_class():
    """60 patients with 5 pictures each, all of one class: a part of 20 has 2 per class, fewer than a patient has."""
    groups = torch.arange(60).repeat_interleave(5)
    parts = grouped_split(groups % 10, groups, [20, 20], 0)
    assert all(abs(len(part) - 20) <= 5 for part in parts[:2])
    assert all((groups[part] % 10).bincount().max() == 5 for part in parts[:2])


def test_pictures_with_several_labels_are_stratified_by_the_rarest():
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 1, 0]], dtype=torch.uint8)
    assert strata(labels).tolist() == [1, 0, 2, 3, 1]
    single = torch.randint(4, (50,))
    assert torch.equal(strata(torch.nn.functional.one_hot(single).to(torch.uint8)), single)


def test_a_run_with_groups_and_folds_keeps_each_patient_on_one_side(photographs, tmp_path):
    rows = [row for row in rows_of(photographs) if row["split"] == "train"]
    for i, row in enumerate(rows):
        row["patient_id"] = f"p{i * 7 % 20}"
    patient = {row["file"]: row["patient_id"] for row in rows}
    table = write(tmp_path / "labels.csv", rows)
    seen = []
    for fold in range(3):
        data = ImageTable(
            table=table, images=str(photographs), group="patient_id", folds=3, fold=fold, num_test=9, **COMMON
        )
        data.load()
        splits = {
            name: {patient[str(Path(p).relative_to(photographs))] for p in files.paths}
            for name, files in data.files.items()
        }
        assert sum(map(len, splits.values())) == len(set(patient.values()))
        seen.append(splits["val"])
    assert sum(map(len, seen)) == len(set().union(*seen))


REFUSED = {
    "missing files": ([{"file": "no.png"}, {"file": "x/no.png"}], {}, "data.images", "62 files.* 2 .*'no.png', "),
    "a file twice": ([{"file": "train/china/00.png"}] * 2, {}, "data.table", "line 62.*line 63|line 2 .*line 62"),
    "an absolute path": ([{"file": "/etc/passwd"}], {}, "data.file", "line 62 .*/etc/passwd"),
    "a path out of the folder": ([{"file": "train/../../a.png"}], {}, "data.file", r"line 62 .*\.\."),
    "no name": ([{"file": ""}], {}, "data.file", "line 62"),
    "an empty label": ([{"label": ""}], {}, "data.label", "line 62 .*no label"),
    "an unknown split": ([{"split": "tset"}], {"split": "split"}, "data.split", "'tset'.*line 62.*test"),
    "an unseen label": ([{"label": "chain", "split": "test"}], {"split": "split"}, "data.label", "line 62.*'chain'"),
    "an unknown column": ([], {"label": "labels"}, "data.label", "'labels'.*did you mean label"),
    "an unknown column of files": ([], {"file": "filename"}, "data.file", "'filename'"),
    "an unknown column of groups": ([], {"group": "patients"}, "data.group", "'patients'"),
    "no group": ([{"patient": ""}], {"group": "patient"}, "data.group", "line 62"),
    "a group in two splits": (
        [{"patient": "p0", "split": "test"}], {"group": "patient", "split": "split"}, "data.group", "'p0'.*line 62"
    ),
    "too few groups": ([], {"group": "patient"}, "data.num_validation and data.num_test", "no group of 1 "),
    "a wrong separator": ([{"label": "china;flower"}], {"separator": "|"}, "data.separator", "line 62.*';'"),
    "an empty part": ([{"label": "china|"}], {"separator": "|"}, "data.label", "line 62"),
    "a label twice": ([{"label": "china|china"}], {"separator": "|"}, "data.label", "line 62"),
    "no number": ([{"has": "yes"}], {"label_columns": ["has"]}, "data.label_columns", "line 62.*'yes'.*'has'"),
    "two ways": ([], {"label_columns": ["has"], "separator": "|"}, "data.separator", "label_columns"),
    "no validation": ([], {"num_validation": 0}, "data.num_validation", "at least 1"),
    "no folder": ([], {"images": "nowhere"}, "data.images", "nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_table_that_contradicts_itself_is_refused_with_the_setting_and_the_row(photographs, tmp_path, what):
    rows, changes, key, says = REFUSED[what]
    usual = [row | {"patient": "p0", "has": "1"} for row in rows_of(photographs) if row["split"] == "train"]
    spare = iter(sorted(str(path.relative_to(photographs)) for path in photographs.glob("val/*/*")))
    odd = [{"patient": "p1", "has": "1", "label": "china", "split": "train", "file": next(spare)} | row for row in rows]
    table = write(tmp_path / "labels.csv", usual + odd)
    settings = {"images": str(photographs), "num_validation": 8, "num_test": 8, **COMMON, **changes}
    with pytest.raises(BadInput, match=f"^{key}.*({says})"):
        ImageTable(table=table, **settings).load()


@pytest.mark.parametrize(
    ("content", "key", "says"),
    [
        (b"", "data.file", "column"),
        (b"file,label\n", "data.table", "no rows"),
        (b"file label\na.png cat\n", "data.file", "one column, 'file label'"),
        (b"file,label\na.png\n", "data.table", "line 2"),
        (b'file,label\n"a.png,cat\n', "data.table", "line 2"),
        (b"file,file,label\na.png,b.png,cat\n", "data.table", "two columns 'file'"),
        (b"file,label\n\xff\xfe,cat\n", "data.table", "UTF-8"),
        (b"file,label\na\0.png,cat\n", "data.(table|file)", "line 2"),
    ],
)
def test_an_unreadable_table_is_refused(tmp_path, content, key, says):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(BadInput, match=f"^{key}.*{says}"):
        ImageTable(table=str(tmp_path / "labels.csv"), num_validation=1, num_test=1, **COMMON).load()


def test_a_missing_table_and_parquet_without_pyarrow_are_one_sentence(tmp_path):
    settings = {"num_validation": 1, "num_test": 1, **COMMON}
    with pytest.raises(BadInput, match=r"^data\.table: .*cannot be opened"):
        ImageTable(table=str(tmp_path / "labels.csv"), **settings).load()
    (tmp_path / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadInput, match=r"^data\.table: .*(pyarrow|Parquet)"):
        ImageTable(table=str(tmp_path / "labels.parquet"), **settings).load()


def test_parquet_is_read_as_the_same_table_in_text(photographs, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = rows_of(photographs)
    for i, row in enumerate(rows):
        row["label"] = i % 3
    table = {name: [row[name] for row in rows] for name in rows[0]}
    parquet.write_table(pyarrow.table(table), tmp_path / "labels.parquet")
    settings = {"images": str(photographs), "split": "split", "num_validation": 8, **COMMON}
    files = str(tmp_path / "labels.parquet"), write(tmp_path / "labels.csv", rows)
    assert ImageTable(table=files[0], **settings).load() == ImageTable(table=files[1], **settings).load()


def test_parquet_whose_texts_are_not_utf_8_is_refused(photographs, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = rows_of(photographs)
    damaged = pyarrow.array([b"\xff.jpg"] * len(rows), pyarrow.binary()).view(pyarrow.string())
    table = {"file": damaged, **{name: [row[name] for row in rows] for name in rows[0] if name != "file"}}
    parquet.write_table(pyarrow.table(table), tmp_path / "labels.parquet")
    with pytest.raises(BadInput, match=r"labels\.parquet cannot be read as Parquet \(.*utf-8"):
        ImageTable(table=str(tmp_path / "labels.parquet"), images=str(photographs), split="split", **COMMON).load()


def test_a_picture_that_declares_gigabytes_is_skipped_and_named(photographs, tmp_path, caplog):
    rows = rows_of(photographs)
    big = tmp_path / "big.bmp"
    Image.new("L", (8, 8)).save(big)
    content = bytearray(big.read_bytes())
    content[18:26] = (100_000).to_bytes(4, "little") * 2  # 10 GB
    folder = tmp_path / "all"
    folder.symlink_to(photographs)
    (photographs / "big.bmp").write_bytes(content)
    table = write(tmp_path / "labels.csv", [*rows, {"file": "big.bmp", "label": "china", "split": "train"}])
    data = ImageTable(table=table, images=str(folder), split="split", num_validation=8, **COMMON)
    assert sum(data.load().num_samples.values()) == len(rows)
    (photographs / "big.bmp").unlink()
    assert "big.bmp" in caplog.text


@pytest.mark.slow
def test_a_run_is_evaluated_with_its_table_and_compared_with_the_one_on_folders(
    command, photographs, tmp_path, monkeypatch
):
    """The same net, on the same pictures, however they are listed: the same test accuracy and loss."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "photographs").symlink_to(photographs)
    table = write(home / "labels.csv", shuffled(rows_of(photographs)))
    usual = ["data.num_validation=12", "trainer=cpu", "trainer.max_epochs=1", "model=lenet5", "optim.lr=0.003"]
    usual += [
        "trainer.log_every_n_steps=2",
        "callbacks.graph=null",
        "data.image_size=28",
        "data.batch_size=8",
        "data.num_workers=0",
    ]
    ways = {
        "folders": ["model=lenet5", "data=image_folder", f"data.root={home}/photographs"],
        "table": [
            "model=lenet5",
            "data=image_table",
            f"data.table={table}",
            f"data.images={home}/photographs",
            "data.split=split",
        ],
    }
    results = []
    for name, way in ways.items():
        outcome = command("train", *way, *usual, f"name={name}")
        assert outcome.code == 0, outcome.err
        (file,) = tmp_path.glob(f"runs/{name}/*/result.json")
        results.append(json.loads(file.read_text()))
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["split_hash"] == results[1]["split_hash"]
    outcome = command("evaluate", "checkpoint=runs/table", f"data_root={home}")
    assert outcome.code == 0, outcome.err
    (file,) = tmp_path.glob("runs/table/*/evaluation.json")
    assert json.loads(file.read_text())["accuracy"] == results[1]["test"]["accuracy"]
    refused = command("train", *LINE, f"data.table={table}", "data.label=lable", "name=none")
    assert refused.code == 2
    assert "'lable'" in refused.sentence
    assert not list(tmp_path.glob("runs/none/*/*"))
