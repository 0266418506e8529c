"""Where the pictures in an Arrow file are, so that each can be read alone, and copies of those in a Parquet file."""

import itertools
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from zoo.data.labelled_parts import LabelledParts
from zoo.data.picture_parts import PicturePart
from zoo.data.shard_samples import joined
from zoo.errors import BadInput, choices, reason
from zoo.files import open_file

ROWS = 256  # of a Parquet file in memory at a time
OF_FILES, END_OF_STREAM = b"ARROW1", b"\xff\xff\xff\xff\0\0\0\0"  # Arrow's two formats: how one starts and one ends


@dataclass(frozen=True)
class ArrowColumns:
    """The columns of the picture and of its label, which may be a list of labels if there is a `separator`."""

    image: str
    label: str
    separator: str | None = None


class Batch(NamedTuple):
    """Some rows: the file with the bytes of their pictures and the places there, from each to the next."""

    file: str
    places: Sequence[int]
    images: Any  # pyarrow's column
    labels: Any


class TemporaryCopy(str):
    """The path of a new file, deleted when no part of it is used any more, or when this process ends."""

    def __new__(cls) -> "TemporaryCopy":
        handle, path = tempfile.mkstemp(prefix="zoo_pictures_")
        os.close(handle)
        copy = super().__new__(cls, path)
        weakref.finalize(copy, _delete, path, os.getpid())
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


def _delete(path: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a forked worker
        Path(path).unlink(missing_ok=True)


def read_pictures(file: Path, columns: ArrowColumns) -> tuple[LabelledParts, list[str] | None]:
    """Return the pictures of a file with the texts of their labels, and the names of its classes, if it has them.

    Raises BadInput, naming the file and the row, for a file that cannot be read and for a picture without bytes.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise BadInput(f"data.root: {file} needs pyarrow; run pip install pyarrow") from error
    listed = LabelledParts([], [], [])
    try:
        with open(open_file(file), "rb") as opened:
            schema, batches = (_of_parquet if file.suffix == ".parquet" else _of_arrow)(opened, file, columns)
            names = _class_names(schema.metadata or {}, columns.label)
            for batch in batches:
                _append(listed, file, batch, names, columns.separator)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise BadInput(f"data.root: {file} cannot be read ({reason(error)})") from error
    return listed, names


def _of_arrow(opened: Any, file: Path, columns: ArrowColumns) -> tuple[Any, Iterator[Batch]]:
    from pyarrow import ArrowInvalid, ipc, memory_map

    whole = memory_map(str(file)).read_buffer()
    if not whole.size:
        raise ArrowInvalid("it is empty")
    is_file = whole.slice(0, len(OF_FILES)).to_pybytes() == OF_FILES
    if not is_file and whole.slice(max(0, whole.size - len(END_OF_STREAM))).to_pybytes() != END_OF_STREAM:
        raise ArrowInvalid("it is not an Arrow file, or is cut off")
    reader = ipc.open_file(whole) if is_file else ipc.open_stream(whole)
    _check_columns(file, reader.schema, columns)

    def batches() -> Iterator[Batch]:
        every = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else reader
        for batch in every:
            images, labels = _columns_of(batch, columns)
            content = _bytes_of(images)
            if not len(content) or content.buffers()[2] is None:
                yield Batch(str(file), [0] * (len(content) + 1), images, labels)
                continue
            start = content.buffers()[2].address - whole.address
            if not 0 <= start <= start + content.buffers()[2].size <= whole.size:
                raise BadInput(f"data.root: {file} is compressed; save it without compression, or as Parquet")
            yield Batch(str(file), [start + place for place in _offsets(content)], images, labels)

    return reader.schema, batches()


def _of_parquet(opened: Any, file: Path, columns: ArrowColumns) -> tuple[Any, Iterator[Batch]]:
    from pyarrow import parquet

    table = parquet.ParquetFile(opened)
    _check_columns(file, table.schema_arrow, columns)
    groups = (table.metadata.row_group(i) for i in range(table.metadata.num_row_groups))
    size = sum(group.column(i).total_uncompressed_size for group in groups for i in range(group.num_columns))
    folder = tempfile.gettempdir()
    if size > (free := shutil.disk_usage(folder).free):
        raise BadInput(
            f"data.root: the pictures in {file} would be copied to {folder}, and take {size / 1e9:.1f} GB, but "
            f"{free / 1e9:.1f} GB are free; set TMPDIR to another folder, or save them by save_to_disk"
        )

    def batches() -> Iterator[Batch]:
        copy = TemporaryCopy()
        with open(copy, "wb", buffering=1 << 20) as written:
            for batch in table.iter_batches(ROWS, columns=[columns.image, columns.label]):
                images, labels = _columns_of(batch, columns)
                places = [written.tell()]
                for content in _bytes_of(images).to_pylist():
                    places.append(places[-1] + written.write(content or b""))
                yield Batch(copy, places, images, labels)

    return table.schema_arrow, batches()


def _columns_of(batch: Any, columns: ArrowColumns) -> tuple[Any, Any]:
    """Return the pictures and the labels of some rows, after a check of the places that the file gives for them."""
    images, labels = batch.column(columns.image), batch.column(columns.label)
    images.validate(full=True)
    labels.validate(full=True)
    return images, labels


def _check_columns(file: Path, schema: Any, columns: ArrowColumns) -> None:
    from pyarrow import types

    for key, name in (("image", columns.image), ("label", columns.label)):
        if schema.names.count(name) != 1:
            num = f"{schema.names.count(name)} columns" if name in schema.names else "no column"
            raise BadInput(f"data.{key}: {file} has {num} '{name}'; {choices(name[:80], schema.names[:1000])}")
    kind = schema.field(columns.image).type
    if types.is_struct(kind):
        kind = next((one.type for one in kind if one.name == "bytes"), kind)
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        raise BadInput(
            f"data.image: column '{columns.image}' of {file} is of type {str(kind)[:80]}; expected pictures: binary, "
            "or a struct with bytes"
        )


def _bytes_of(images: Any) -> Any:
    """Return the column with the bytes of pictures."""
    from pyarrow import types

    return images.field("bytes") if types.is_struct(images.type) else images


def _offsets(content: Any) -> list[int]:
    """Return where each value of a binary column starts in its buffer and, last, where the last one ends."""
    import numpy as np
    from pyarrow import types

    width = np.int64 if types.is_large_binary(content.type) else np.int32
    offsets = np.frombuffer(content.buffers()[1], width)
    found: list[int] = offsets[content.offset : content.offset + len(content) + 1].tolist()
    return found


def _append(listed: LabelledParts, file: Path, batch: Batch, names: list[str] | None, separator: str | None) -> None:
    """Add the pictures of a batch to those of the rows before it."""
    from pyarrow import types

    is_named = types.is_struct(batch.images.type) and any(one.name == "path" for one in batch.images.type)
    paths = batch.images.field("path").to_pylist() if is_named else [None] * len(batch.images)
    rows = zip(paths, itertools.pairwise(batch.places), batch.labels.to_pylist(), strict=True)
    for path, (place, end), label in rows:
        row = len(listed) + 1
        if end <= place:
            instead = f", only the path {path[:80]!r}; embed them" if path else ""
            raise BadInput(f"data.image: row {row:,} of {file} has no bytes of a picture{instead}")
        name = Path(path or "").name or f"{row:012}"
        listed.parts.append(PicturePart(f"{file}/row {row}/{name}", batch.file, place, end - place))
        listed.names.append(name)
        try:
            listed.labels.append("" if label is None else joined(_named(label, names), separator))
        except ValueError as error:
            raise BadInput(f"data.label: row {row:,} of {file} cannot be used: {error}") from error


def _named(label: Any, names: list[str] | None) -> Any:
    """Return labels, one or a list, by name; numbers of no class remain."""
    if isinstance(label, list):
        return [_named(one, names) for one in label]
    is_number = names is not None and isinstance(label, int) and 0 <= label < len(names)
    return names[label] if names is not None and is_number else label


def _class_names(metadata: dict[bytes, bytes], column: str) -> list[str] | None:
    """Return the names of classes that `datasets` has written into a schema for a column, or None."""
    try:
        feature = msgspec.json.decode(metadata.get(b"huggingface", b"{}"))
        for key in ("info", "features", column):
            feature = feature.get(key, {})
        if isinstance(feature, list) and feature:  # how earlier versions describe a list
            (feature,) = feature
        names = feature.get("names", feature.get("feature", {}).get("names"))
    except (msgspec.DecodeError, RecursionError, AttributeError, ValueError):
        return None
    if not isinstance(names, list) or not names or len({str(name) for name in names}) < len(names):
        return None
    return [str(name).strip() for name in names]
