"""WebDataset shards: tar files with pictures and, by the same name, their labels."""

import functools
import glob
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from zoo import escape
from zoo.data.image_files import Decoder, ImageFiles
from zoo.data.labelled_parts import LabelledParts, PartReader
from zoo.data.loader import BatchLoader
from zoo.data.module import Split
from zoo.data.picture_data import SplitPictures
from zoo.data.picture_parts import PicturePart, is_remote
from zoo.data.reading import Reading, reading_for
from zoo.data.shard_samples import LabelKind, LabelMember, list_shard
from zoo.data.shuffle_buffer import ShuffleBuffer
from zoo.data.sources import ImageSource
from zoo.errors import BadInput, counted
from zoo.files import read_file
from zoo.ranges import Count, ImageSize, NotEmpty, Text

Urls = Text | Annotated[list[str], NotEmpty()]
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
MOST_SHARDS = 100_000
MOST_BYTES = 1 << 24  # of a file of class names
log = logging.getLogger("zoo")


class Shards(SplitPictures):
    """Read pictures from WebDataset tar files, KEY.jpg with KEY.cls, KEY.txt or KEY.json, local or from a server.

    - `urls`, `val_urls` and `test_urls` are the shards of each split: paths, which may have wildcards, and http(s)
      URLs; `train-{000..009}.tar` is ten shards. Without shards for validation or testing, `num_validation` and
      `num_test` training pictures are drawn.
    - `label` is the ending of the members with labels; in JSON, the label is the value of `label_key`. Labels are names
      of classes or, if all are numbers, their numbers. `classes`, a list or a file with one name per line, names the
      numbers. With `separator`, a picture may have several labels.
    - `shuffle_buffer` pictures are shuffled together, in shards in random order, so that slow disks read nearly in
      order; null shuffles all. It needs `cache` none.

    The places of all pictures are listed first, so that each is then read alone: epochs have the order that the same
    pictures in folders have, resume exactly, and do not depend on the number of processes and workers. All other
    arguments are those of PictureData. Raises BadInput, naming the shard and the member, for a shard that cannot be
    read or is cut off, and for a picture without a label.
    """

    def __init__(
        self,
        *,
        urls: Urls,
        val_urls: Urls | None = None,
        test_urls: Urls | None = None,
        label: LabelKind = "cls",
        label_key: Text = "label",
        classes: Text | list[str] | None = None,
        separator: Text | None = None,
        shuffle_buffer: Count | None = None,
        cache: Literal["auto", "device", "host", "none"] = "auto",
        sampler: Literal["shuffled", "balanced"] = "shuffled",
        **settings: Any,
    ) -> None:
        if shuffle_buffer and cache != "none":
            raise BadInput("data.shuffle_buffer is for pictures that are read during training; set data.cache=none")
        if shuffle_buffer and sampler == "balanced":
            raise BadInput("data.shuffle_buffer and data.sampler=balanced are two orders of an epoch; use one of them")
        splits = {"urls": urls, "val_urls": val_urls, "test_urls": test_urls}
        source = functools.partial(
            image_shards,
            {key: [one] if isinstance(one, str) else one for key, one in splits.items() if one is not None},
            labels=LabelMember(label, label_key, separator),
            classes=classes,
            as_stored=shuffle_buffer is not None,
        )
        self.shuffle_buffer = shuffle_buffer
        super().__init__(source=source, cache=cache, sampler=sampler, **settings)

    def loader(self, split: Split, device: torch.device | str) -> BatchLoader:
        loader = super().loader(split, device)
        if split == "train" and self.shuffle_buffer is not None and isinstance(loader.images, ImageFiles):
            shards = [part.file for part in loader.images.paths if isinstance(part, PicturePart)]
            numbers = {shard: i for i, shard in enumerate(dict.fromkeys(shards))}
            of_parts = torch.tensor([numbers[shard] for shard in shards], device=loader.device)
            loader.order = ShuffleBuffer(of_parts, self.shuffle_buffer)
        return loader


def image_shards(
    urls: dict[str, list[str]],
    image_size: ImageSize = 224,
    num_workers: int = 0,
    decoder: Decoder = "cpu",
    reading: Reading | None = None,
    *,
    labels: LabelMember,
    classes: str | list[str] | None = None,
    as_stored: bool = False,
) -> ImageSource:
    """List the pictures and labels of shards without decoding any picture; see Shards."""
    shards = {key: list(_expanded(key, patterns)) for key, patterns in urls.items()}
    _check_apart(shards)
    names = _class_names(classes) if isinstance(classes, str) else classes
    if names is not None and (not names or len(set(names)) < len(names) or "" in names):
        raise BadInput(f"data.classes: expected different names, got {counted(len(names), 'name')}, some of them equal")
    reading = reading or reading_for(image_size)
    reader = PartReader(image_size, reading, num_workers, decoder, names, labels.separator, as_stored)
    of_key = {"urls": "train", "val_urls": "val", "test_urls": "test"}
    return reader.source({of_key[key]: _listed(key, found, labels) for key, found in shards.items()}, "data.urls")


def _listed(key: str, shards: Sequence[str], labels: LabelMember) -> LabelledParts:
    """List the pictures of the shards of a split, and log what else is in them."""
    left_out: Counter[str] = Counter()
    if remote := [shard for shard in shards if is_remote(shard)]:
        log.info("Listing %s; they are transferred once for that.", counted(len(remote), "remote shard"))
    found = [list_shard(f"data.{key}", shard, labels, left_out) for shard in shards]
    if left_out:
        kinds = ", ".join(f"{escape.line(kind)} ({num:,})" for kind, num in left_out.most_common(12))
        log.warning("data.%s: skipped %s in all: %s.", key, counted(left_out.total(), "member"), kinds)
    parts = LabelledParts(*(list(itertools.chain(*column)) for column in zip(*found, strict=True)))
    if not len(parts):
        raise BadInput(f"data.{key}: expected pictures in {counted(len(shards), 'shard')}, got none")
    return parts


def _expanded(key: str, patterns: Sequence[str]) -> Iterator[str]:
    """Yield the shards that patterns stand for, in order; raise BadInput if there are none."""
    for pattern in patterns:
        for one in _without_braces(key, pattern):
            if "://" in one and not is_remote(one):
                raise BadInput(f"data.{key}: expected paths, or URLs of http or https, got {one}; download it")
            is_pattern = not is_remote(one) and not os.path.exists(one) and glob.has_magic(one)
            if is_pattern and not (found := sorted(glob.glob(one))):
                raise BadInput(f"data.{key}: expected shards, got {one}, which no file matches")
            yield from found if is_pattern else [one]


def _without_braces(key: str, pattern: str) -> list[str]:
    """Return what a shell makes of {000..009}: each number in turn, with as many digits."""
    pieces = BRACES.split(pattern)  # what is in braces is at odd places
    choices: list[list[str]] = [[piece] for piece in pieces]
    num = 1
    for i in range(1, len(pieces), 2):
        match = RANGE.fullmatch(pieces[i])
        first, last = (int(match[1]), int(match[2])) if match else (0, -1)
        if last < first:
            raise BadInput(f"data.{key}: expected numbers as in {{000..009}}, got {{{pieces[i]}}} in {pattern}")
        num *= last - first + 1
        if num > MOST_SHARDS:
            raise BadInput(f"data.{key}: expected at most {MOST_SHARDS:,} shards, got {num:,} from {pattern}")
        texts = pieces[i].split("..")
        width = max(map(len, texts)) if any(text.startswith("0") and len(text) > 1 for text in texts) else 0
        choices[i] = [f"{number:0{width}}" for number in range(first, last + 1)]
    return ["".join(one) for one in itertools.product(*choices)]


def _check_apart(shards: dict[str, list[str]]) -> None:
    seen: dict[str, str] = {}
    for key, found in shards.items():
        for shard in found:
            place = shard if is_remote(shard) else os.path.realpath(shard)
            if place in seen:
                where = f"also in data.{seen[place]}" if seen[place] != key else "there twice"
                raise BadInput(f"data.{key}: {shard} is {where}; each shard belongs to one split")
            seen[place] = key


def _class_names(file: str) -> list[str]:
    """Read a file with one name of a class per line, in UTF-8."""
    try:
        lines = read_file(Path(file), MOST_BYTES).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise BadInput(f"data.classes: {file} cannot be opened ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"data.classes: {file} is not text in UTF-8") from error
    return [line.strip() for line in lines if line.strip()]
