"""Pictures in Arrow and Parquet files: the same data as folders, and what is refused."""

import gc
import io
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import CLASSES, files_of, write_arrow, write_folders
from PIL import Image

from zoo.data.arrow_folders import ArrowFolder
from zoo.data.augment import RandomResizedCrop
from zoo.data.folders import ImageFolders
from zoo.errors import BadInput

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import ipc, parquet  # noqa: E402

SIDE = 28
COMMON = {"image_size": SIDE, "num_classes": None, "in_channels": 3, "batch_size": 8, "num_workers": 0}
IMAGE = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    return write_folders(tmp_path_factory.mktemp("photographs"), num_train=10, num_test=4)


def check_equal(ours, theirs):
    for split in ("train", "val", "test"):
        found, expected = list(ours.loader(split, "cpu")), list(theirs.loader(split, "cpu"))
        assert len(found) == len(expected) > 0
        for (images, labels), (x, y) in zip(found, expected, strict=True):
            assert torch.equal(images, x)
            assert torch.equal(labels, y)


def settings_of(root, **changes):
    crop = {"crop": RandomResizedCrop(size=SIDE)}
    return {"root": str(root), "num_validation": 9, "augment": crop, "cache": "none", **COMMON, **changes}


@pytest.mark.parametrize(
    ("as_parquet", "changes"),
    [
        (False, {}),
        (True, {}),
        pytest.param(False, {"cache": "host"}, marks=pytest.mark.slow),
        pytest.param(False, {"num_workers": 1}, marks=pytest.mark.slow),
        pytest.param(True, {"num_workers": 1}, marks=pytest.mark.slow),
    ],
)
def test_arrow_and_folders_give_the_same_batches_and_copies_go(folders, tmp_path, monkeypatch, as_parquet, changes):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = write_arrow(folders, tmp_path / "arrow", as_parquet)
    ours, theirs = ArrowFolder(**settings_of(root, **changes)), ImageFolders(**settings_of(folders, **changes))
    assert ours.load().classes == list(CLASSES)
    assert ours.load().sample_hash == theirs.load().sample_hash
    check_equal(ours, theirs)
    assert len(list(tmp_path.glob("zoo_pictures_*"))) == (4 if as_parquet else 0)
    del ours
    gc.collect()
    assert list(tmp_path.glob("zoo_pictures_*")) == []


def test_what_the_library_itself_writes_is_read(folders, tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    splits = {}
    for split, name in (("train", "train"), ("val", "test")):
        rows = {"image": [], "label": []}
        for file in files_of(folders, split):
            rows["image"].append({"bytes": file.read_bytes(), "path": file.name})
            rows["label"].append(CLASSES.index(file.parent.name))
        splits[name] = datasets.Dataset.from_dict(rows, features=features)
    whole = datasets.DatasetDict(splits)
    whole.save_to_disk(str(tmp_path / "arrow"), num_shards={"train": 3, "test": 1})
    for name, part in whole.items():
        part.to_parquet(str(tmp_path / f"parquet/data/{name}-00000-of-00001.parquet"))
    theirs = ImageFolders(**settings_of(folders))
    for form in ("arrow", "parquet"):
        check_equal(ArrowFolder(**settings_of(tmp_path / form)), theirs)


def a_picture() -> bytes:
    content = io.BytesIO()
    Image.effect_noise((40, 40), 50).save(content, "png")
    return content.getvalue()


def rows_of(*changes):
    rows = [{"image": {"bytes": a_picture(), "path": f"{i}.png"}, "label": i % 2} for i in range(12)]
    return rows + [rows[0] | change for change in changes]


def schema_of(label=None, image=IMAGE, names=("cat", "dog"), feature=None):
    schema = pyarrow.schema({"image": image, "label": label or pyarrow.int64()})
    feature = feature or {"names": names, "_type": "ClassLabel"}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": {"label": feature}}})})


def write(path: Path, rows, schema, new=ipc.new_stream, **settings) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with new(str(path), schema, **settings) as writer:
        writer.write_table(pyarrow.Table.from_pylist(rows, schema), max_chunksize=5)


ALONE = {"train": ".", "test": None, "num_test": 2, "num_validation": 2, "batch_size": 1, "augment": None}


@pytest.mark.parametrize("form", ["stream", "file", "slices", "parquet", "plain"])
def test_each_kind_of_file_gives_the_same_pictures(tmp_path, form):
    rows = rows_of()
    image = pyarrow.large_binary() if form == "plain" else IMAGE
    if form == "plain":
        rows = [row | {"image": row["image"]["bytes"]} for row in rows]
    path = tmp_path / f"set/data.{'parquet' if form == 'parquet' else 'arrow'}"
    if form == "parquet":
        path.parent.mkdir()
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema_of()), path, compression="zstd", row_group_size=5)
    elif form == "slices":
        whole = pyarrow.RecordBatch.from_pylist(rows, schema_of())
        path.parent.mkdir()
        with ipc.new_stream(str(path), whole.schema) as writer:
            for i in (0, 3, 9):
                writer.write_batch(whole.slice(i, 3 if i != 3 else 6))
    else:
        write(path, rows, schema_of(image=image), ipc.new_file if form == "file" else ipc.new_stream)
    data = ArrowFolder(**settings_of(path.parent, **ALONE))
    assert data.load().classes == ["cat", "dog"]
    found = [part.read() for files in data.files.values() for part in files.paths]
    expected = [row["image"] if form == "plain" else row["image"]["bytes"] for row in rows]
    assert sorted(found) == sorted(expected)


def test_several_labels_are_a_list_and_texts_are_names(tmp_path):
    rows = [row | {"label": [[0], [0, 1], [1], []][i % 4]} for i, row in enumerate(rows_of())]
    for place, feature in enumerate(
        [{"feature": {"names": ["sky", "tree"]}, "_type": "List"}, [{"names": ["sky", "tree"], "_type": "ClassLabel"}]]
    ):
        write(tmp_path / f"{place}/data.arrow", rows, schema_of(pyarrow.list_(pyarrow.int64()), feature=feature))
        data = ArrowFolder(**settings_of(tmp_path / str(place), **ALONE, separator="|"))
        assert data.load().classes == ["sky", "tree"]
        assert data.multilabel
    rows = [row | {"label": ["tree", "sky"][i % 2]} for i, row in enumerate(rows_of())]
    write(tmp_path / "text/data.arrow", rows, pyarrow.schema({"image": IMAGE, "label": pyarrow.string()}))
    assert ArrowFolder(**settings_of(tmp_path / "text", **ALONE)).load().classes == ["sky", "tree"]


REFUSED = {
    "no label": ([{"label": None}], {}, "data.label: .*/row 13/.* has no label"),
    "an unknown label": ([{"label": -1}], {}, "data.classes: .*/row 13/.* '-1', which is none of the 2 classes"),
    "no bytes": ([{"image": {"bytes": None, "path": "/x/a.png"}}], {}, "data.image: row 13 of .*'/x/a.png'; embed"),
    "no picture": ([{"image": None}], {}, "data.image: row 13 of .* no bytes"),
    "no column": ([], {"label": "lable"}, "data.label: .* has no column 'lable'; did you mean label"),
    "no pictures": ([], {"image": "label"}, "data.image: column 'label' of .* is of type int64"),
    "no such folder": ([], {"root": "nowhere"}, "data.root: .*nowhere, which is not a folder"),
    "no such split": ([], {"train": "train"}, "data.train: .*'train' .* data.train=. data.test=null"),
    "one file for two splits": ([], {"val": ".", "num_validation": 0}, "data.val: .*data.arrow is also of data.train"),
    "no validation": ([], {"num_validation": 0}, "data.num_validation=0"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_used_is_refused_with_the_file_and_the_row(tmp_path, what):
    odd, changes, says = REFUSED[what]
    write(tmp_path / "set/data.arrow", rows_of(*odd), schema_of())
    with pytest.raises(BadInput) as caught:
        ArrowFolder(**{**settings_of(tmp_path / "set", **ALONE), **changes}).load()
    assert re.match(says, str(caught.value))


def test_cut_compressed_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "set/data-00000-of-00002.arrow"
    write(path, rows_of(), schema_of())
    with pytest.raises(BadInput, match=r"data.train: expected 2 files in .*, got 1"):
        ArrowFolder(**settings_of(path.parent, **ALONE)).load()
    path = path.rename(path.with_name("data.arrow"))
    content = path.read_bytes()
    for length in [*range(0, len(content), 997), len(content) - 8, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(BadInput, match=r"data.root: .*data.arrow cannot be read"):
            ArrowFolder(**settings_of(path.parent, **ALONE)).load()
    write(path, rows_of(), schema_of(), options=ipc.IpcWriteOptions(compression="zstd"))
    with pytest.raises(BadInput, match=r"data.root: .*data.arrow is compressed"):
        ArrowFolder(**settings_of(path.parent, **ALONE)).load()
    (path.parent / "more.parquet").write_bytes(b"")
    with pytest.raises(BadInput, match=r"data.train: expected Arrow or Parquet files .*, got both"):
        ArrowFolder(**settings_of(path.parent, **ALONE)).load()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_no_flipped_byte_ends_in_a_traceback_or_reads_outside_of_the_file(tmp_path, kind):
    path = tmp_path / f"set/data.{kind}"
    write(path, rows_of(), schema_of())
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows_of(), schema_of()), path)
    content, draw = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for place in draw.integers(0, len(content), 3):
            damaged[place] = draw.integers(0, 256)
        path.write_bytes(damaged)
        try:
            data = ArrowFolder(**settings_of(path.parent, **ALONE))
            data.load()
        except BadInput:
            continue
        for files in data.files.values():
            assert all(0 < part.size <= len(content) for part in files.paths)
