"""Image folders with one subfolder per class, as in ImageNet."""

import functools
import itertools
import logging
import os
import unicodedata
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zoo import escape
from zoo.data.image_files import Decoder, ImageFiles
from zoo.data.picture_data import PictureData
from zoo.data.read_image import suffixes
from zoo.data.reading import Reading, reading_for
from zoo.data.sources import ImageSource, LabelledImages
from zoo.errors import BadInput, counted
from zoo.ranges import ImageSize, Text

log = logging.getLogger("zoo")
# Folders that operating systems and network drives put next to pictures; skipped as hidden ones are.
OF_SYSTEMS = {"@eaDir", "#recycle", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
NUM_KINDS = 12  # kinds of skipped entries to list by name
NUM_NAMED = 3  # folders to list by name in an error message
AGAIN = "links to a parent folder or to one already read"


class ImageFolders(PictureData):
    """Read root/train/<class>/* and root/val/<class>/*; all other arguments are those of PictureData."""

    def __init__(self, *, root: Text, train: Text = "train", test: Text | None = "val", **settings: Any) -> None:
        if not _is_utf8(root):
            raise BadInput(f"data.root: expected a name in UTF-8, got {os.fsencode(root)!r}")
        super().__init__(source=functools.partial(image_folders, root, train=train, test=test), **settings)


def image_folders(
    root: str,
    image_size: ImageSize,
    train: str = "train",
    test: str | None = "val",
    num_workers: int = 0,
    decoder: Decoder = "cpu",
    reading: Reading | None = None,
) -> ImageSource:
    """List the files and classes of a folder without decoding them; `reading` null: that of `image_size`.

    Raises BadInput if a folder is missing, a class has no images, or the two folders have different classes.
    """
    names = [name for name in (train, test) if name is not None]
    _check_layout(Path(root), names)
    links: list[list[str]] = [[] for _ in names]
    folders = [_listed(Path(root) / name, found) for name, found in zip(names, links, strict=True)]
    classes = [list(files) for files in folders]
    if classes[0] != classes[-1]:
        first, second = map(set, classes)
        alone = [(name, min(odd)) for name, odd in zip(names, (first - second, second - first), strict=True) if odd]
        got = " and ".join(f"'{odd}' in {name} only" for name, odd in alone)
        if len({unicodedata.normalize("NFC", odd).casefold() for _, odd in alone}) < len(alone):
            got += ", which differ only in case or in Unicode normalisation; rename one"
        raise BadInput(f"data.root: expected the same classes in {train} and {test} of {root}, got {got}")
    if test is not None:
        _check_apart(names, [list(itertools.chain(*files.values())) for files in folders], links)
    reading = reading or reading_for(image_size)
    parts = [
        LabelledImages(
            ImageFiles(list(itertools.chain(*files.values())), reading, num_workers, decoder),
            torch.arange(len(files)).repeat_interleave(torch.tensor([len(paths) for paths in files.values()])),
        )
        for files in folders
    ]
    return ImageSource(parts[0], parts[1] if test else None, classes[0], image_size)


def pictures_in(folder: str) -> list[str]:
    """Return the pictures at any depth below a folder, as training does, and log what was skipped and why."""
    parents = {_place(one) for one in Path(folder).resolve().parents}
    left_out: Counter[str] = Counter()
    files = _files(folder, parents, left_out, [])
    _tell_left_out(folder, left_out)
    return files


def _check_layout(root: Path, names: Sequence[str]) -> None:
    """Raise BadInput unless root has all folders `names`; say what it has, and where they are if nearby."""
    if all(os.path.isdir(root / name) for name in names):
        return
    expected = " and ".join(f"{name}/<class>/" for name in names)
    raise BadInput(f"data.root: expected a folder with pictures in {expected}, got {root}, {_found_in(root, names)}")


def _found_in(root: Path, names: Sequence[str]) -> str:
    """Describe what a root contains instead of the folders `names`, and suggest a fix."""
    try:
        found = _entries(str(root), Counter())
    except OSError as error:
        home = "; a shell expands ~ at the beginning of a word only, so use $HOME" if str(root)[:1] == "~" else ""
        return f"which cannot be opened ({error.strerror}){home}"
    folders = sorted(entry.name for entry in found if entry.is_dir())
    shown = [f"'{name}'" for name in folders[:NUM_NAMED]] + ["..."] * (len(folders) > NUM_NAMED)
    named = f" ({', '.join(shown)})" if shown else ""
    files = counted(len(found) - len(folders), "file")
    holds = f"which holds {counted(len(folders), 'folder')}{named} and {files}"
    here = Path(os.path.abspath(root))
    for place in (*here.parents[:2], *(here / name for name in folders)):
        if all(os.path.isdir(place / name) for name in names):
            return f"{holds}; {place} has them"
    if names[0] in folders:
        return f"{holds}; set data.test to another folder, or to null for none"
    if folders:
        return f"{holds}; to use its folders as classes, set data.train=. data.test=null data.num_test=..."
    return holds


def _check_apart(names: Sequence[str], pictures: Sequence[Sequence[str]], links: Sequence[Sequence[str]]) -> None:
    """Raise BadInput if train and test share pictures because a folder or picture in one links to the other.

    `pictures` are the files found in each, and `links` those of them that are symbolic links.
    """
    folders = [{_place(one): one for one in {os.path.dirname(path) for path in paths}} for paths in pictures]
    targets = [{_place(link): link for link in found} for found in links]
    homes = [{_place(os.path.dirname(os.path.realpath(link))): link for link in found} for found in links]
    for mine, theirs in (
        (folders[0], folders[1]),
        (targets[0], targets[1]),
        (homes[0], folders[1]),
        (homes[1], folders[0]),
    ):
        if same := mine.keys() & theirs.keys():
            raise BadInput(
                f"data.test: expected other pictures than those of {names[0]}, got {names[1]}, with the same ones, "
                f"such as {mine[same.pop()]}"
            )


def _listed(folder: Path, links: list[str]) -> dict[str, list[str]]:
    """Return the files of each class, in the order of torchvision's ImageFolder, and log what was skipped and why.

    Files that are symbolic links are added to `links`.
    """
    left_out: Counter[str] = Counter()
    above = {_place(one) for one in (folder.absolute(), *folder.resolve().parents) if one.exists()}
    try:
        found = _entries(str(folder), left_out)
    except OSError as error:
        raise BadInput(
            f"data.root: expected image folders in {folder}, which cannot be opened ({error.strerror})"
        ) from error
    classes = {}
    above |= {_place(entry.path) for entry in found if entry.is_dir() and not entry.is_symlink()}
    for entry in found:
        if not entry.is_dir():
            left_out["files outside the class folders"] += 1
        elif entry.is_symlink() and _place(entry.path) in above:
            left_out[AGAIN] += 1
        elif not _is_utf8(entry.name):
            raise BadInput(f"data.root: expected class names in UTF-8, got {os.fsencode(entry.name)!r}; rename it")
        else:
            classes[entry.name] = _files(entry.path, above - {_place(entry.path)}, left_out, links)
    _tell_left_out(folder, left_out)
    if not classes:
        raise BadInput(
            f"data.root: expected image folders in {folder}, got {counted(len(found), 'file')} and no folder; put "
            f"the images of each class into {folder}/<class>/"
        )
    if alike := [pair for pair in itertools.combinations(classes, 2) if len(set(map(str.casefold, pair))) == 1]:
        log.warning("%s: classes '%s' and '%s' differ only in case.", escape.line(folder), *map(escape.line, alike[0]))
    for name, files in classes.items():
        if not files:
            raise BadInput(f"data.root: expected pictures in {folder / name}, got none; add some or remove the folder")
    return dict(sorted(classes.items()))


def _tell_left_out(folder: str | Path, left_out: Counter[str]) -> None:
    if not left_out:
        return
    kinds = left_out.most_common(NUM_KINDS)
    if rest := left_out.total() - sum(num for _, num in kinds):
        kinds.append(("other kinds", rest))
    named = ", ".join(f"{kind} ({num:,})" for kind, num in kinds)
    log.warning("%s: skipped %s in all: %s.", escape.line(folder), f"{left_out.total():,}", escape.line(named))


def _files(folder: str, seen: set[tuple[int, int]], left_out: Counter[str], links: list[str]) -> list[str]:
    """List the pictures at any depth below a folder, without following links to folders in `seen`.

    Files that are symbolic links are also added to `links`.
    """
    files, folders = [], deque([folder])
    while folders:
        here = folders.popleft()
        if _place(here) in seen:
            left_out[AGAIN] += 1
            continue
        seen.add(_place(here))
        try:
            found = sorted(_entries(here, left_out), key=lambda entry: entry.name)
        except OSError:
            left_out["folders that cannot be opened"] += 1
            continue
        for entry in found:
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.is_dir():  # links last, so that a folder also reached without a link keeps its real path
                (folders.append if entry.is_symlink() else folders.appendleft)(entry.path)
            elif suffix in suffixes():
                files.append(entry.path)
                links += [entry.path] if entry.is_symlink() else []
            else:
                left_out[f"files of kind {suffix}" if suffix else "files without an ending"] += 1
    return sorted(files, key=os.path.split)


def _entries(folder: str, left_out: Counter[str]) -> list[os.DirEntry[str]]:
    """List the files and folders in a folder that are not hidden, and count all others."""
    kept = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.name.startswith(".") or entry.name in OF_SYSTEMS:
                    left_out["hidden entries"] += 1
                elif entry.is_dir() or entry.is_file():
                    kept.append(entry)
                else:
                    left_out["broken links" if entry.is_symlink() else "neither files nor folders"] += 1
            except OSError:  # a link to itself
                left_out["broken links"] += 1
    return kept


def _place(path: str | Path) -> tuple[int, int]:
    """Return the device and inode of a path, which identify it whichever link leads to it."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
