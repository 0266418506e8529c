"""Folders of images, a class each, as ImageNet has them."""

import functools
import itertools
import logging
import os
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zoo import escape, ranks
from zoo.data.decoding import Decoder, ImageFiles
from zoo.data.images import ImageData
from zoo.data.pictures import suffixes
from zoo.data.sources import ImageSource, LabelledImages
from zoo.errors import BadInput, counted
from zoo.ranges import Count, Index, Text

MOST_PER_CORE = 8  # worker processes, which on slow disks wait more than they compute
log = logging.getLogger("zoo")
MARGIN = 256 / 224  # of the size to which images are decoded over that which nets see, as torchvision has it
MOST_NAMED = 5  # folders in one sentence
NUM_KINDS = 12  # of what is left out, that are named
AGAIN = "links to a folder that they are in or that was read"


class ImageFolders(ImageData):
    """Read root/train/<class>/* and root/val/<class>/*, decoded to 256/224 of `image_size` px.

    All other arguments are ImageData's; `num_classes` null is as many as there are folders. Images that do not fit into
    memory (`cache`) are decoded by `num_workers` processes each time they are wanted, by default one a CPU core that
    this process has to itself; on CUDA, `decoder="cuda"` has JPEG files decoded there. Transparent pixels show
    `background`, a name or #rrggbb.
    """

    def __init__(
        self,
        *,
        root: Text,
        train: Text = "train",
        test: Text | None = "val",
        image_size: Count = 224,
        num_workers: Index | None = None,
        decoder: Decoder = "cpu",
        background: str = "white",
        **settings: Any,
    ) -> None:
        if not _is_utf8(root):
            raise BadInput(f"data.root: expected a name in UTF-8, got {os.fsencode(root)!r}")
        _check_colour(background)
        each = max(1, ranks.num_cores() // ranks.local_world_size())
        workers = each if num_workers is None else num_workers
        if workers > MOST_PER_CORE * each:
            raise BadInput(
                f"data.num_workers={workers}: expected at most {MOST_PER_CORE * each}, {MOST_PER_CORE} to each of the "
                f"{each} CPU cores of this process"
            )
        if decoder == "cuda" and not torch.cuda.is_available():
            log.warning("data.decoder=cuda wants a CUDA device, and there is none here: worker processes decode.")
        source = functools.partial(image_folders, root, image_size, train, test, workers, decoder, background)
        super().__init__(source=source, image_size=image_size, **settings)


def image_folders(
    root: str,
    image_size: int,
    train: str = "train",
    test: str | None = "val",
    num_workers: int = 0,
    decoder: Decoder = "cpu",
    background: str = "white",
) -> ImageSource:
    """List the files and classes of a folder; nothing is decoded yet.

    BadInput where a folder is absent, has a class without images, or where the two do not have the same classes.
    """
    names = [name for name in (train, test) if name is not None]
    if not all(os.access(Path(root) / name, os.R_OK | os.X_OK) and (Path(root) / name).is_dir() for name in names):
        raise _other_layout(Path(root), names)
    folders = [_listed(Path(root) / name) for name in names]
    classes = [list(files) for files in folders]
    if odd := sorted(set(classes[0]) ^ set(classes[-1])):
        where = train if odd[0] in classes[0] else test
        raise BadInput(
            f"data.root: expected the same classes in {train} and {test} of {root}, got '{odd[0]}' in {where} only"
        )
    if test is not None and _places(Path(root) / train) & _places(Path(root) / test):
        raise BadInput(f"data.test: expected other pictures than those of {train}, got {test}, which has the same ones")
    size = round(image_size * MARGIN)
    parts = [
        LabelledImages(
            ImageFiles(list(itertools.chain(*files.values())), size, num_workers, decoder, background),
            torch.arange(len(files)).repeat_interleave(torch.tensor([len(paths) for paths in files.values()])),
        )
        for files in folders
    ]
    return ImageSource(parts[0], parts[1] if test else None, classes[0], image_size)


def pictures_in(folder: str) -> list[str]:
    """Return the pictures at any depth below a folder, as training finds them: none that is hidden, and each once.

    What is left out is logged.
    """
    left_out: Counter[str] = Counter()
    found = _files(folder, {_place(one) for one in Path(folder).resolve().parents}, left_out)
    _tell_left_out(folder, left_out)
    return found


def _listed(folder: Path) -> dict[str, list[str]]:
    """Return the files of each class, in the order of torchvision's ImageFolder, and log what was left out and why."""
    left_out: Counter[str] = Counter()
    above = {_place(one) for one in (folder.absolute(), *folder.resolve().parents) if one.exists()}
    found = _entries(str(folder), left_out)
    classes = {}
    above |= {_place(entry.path) for entry in found if entry.is_dir() and not entry.is_symlink()}
    for entry in found:
        if not entry.is_dir():
            left_out["files outside the folders of classes"] += 1
        elif entry.is_symlink() and _place(entry.path) in above:
            left_out[AGAIN] += 1
        elif not _is_utf8(entry.name):
            raise BadInput(f"data.root: expected names of classes in UTF-8, got {os.fsencode(entry.name)!r}; rename it")
        else:
            classes[entry.name] = _files(entry.path, above - {_place(entry.path)}, left_out)
    _tell_left_out(folder, left_out)
    if not classes:
        raise BadInput(f"data.root: expected a folder for each class in {folder}, got {_contents(folder)}")
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
    log.warning("%s", escape.line(f"{folder}: left out, {left_out.total():,} in all: {named}."))


def _other_layout(root: Path, names: Sequence[str]) -> BadInput:
    """Say what is where train and val of classes were expected, and where they are if that is near."""
    wanted = " and ".join(f"{name}/<class>/" for name in names)
    if not os.access(root, os.R_OK | os.X_OK) or not root.is_dir():
        return BadInput(f"data.root: expected a folder with {wanted}, got {root}, which holds {_contents(root)}")
    near = [*root.resolve().parents[:2], *(one for one in _folders(root))]
    hint = "for folders of classes alone, data.train=. data.test=null data.num_test=N sets some aside to test on"
    if found := next((one for one in near if set(names) <= {inner.name for inner in _folders(one)}), None):
        hint = f"{found} has them"
    elif (root / names[0]).is_dir():
        hint = f"without {names[-1]}, data.test=null data.num_test=N sets some aside to test on"
    return BadInput(f"data.root: expected a folder with {wanted}, got {root}, which holds {_contents(root)}; {hint}")


def _folders(place: Path) -> list[Path]:
    """Return the folders in a place that can be read, in order, and none where that is no folder."""
    try:
        return sorted(one for one in place.iterdir() if not one.name.startswith(".") and one.is_dir())
    except OSError:
        return []


def _contents(place: Path) -> str:
    """Say in some words what a folder holds, or why that is not known."""
    try:
        num = sum(not one.is_dir() for one in place.iterdir())
    except OSError as error:
        return f"nothing that can be read ({error.strerror})"
    folders = [one.name for one in _folders(place)]
    more = f" and {len(folders) - MOST_NAMED} more" if len(folders) > MOST_NAMED else ""
    named = f" ({', '.join(folders[:MOST_NAMED])}{more})" if folders else ""
    return f"{counted(num, 'file')} and {counted(len(folders), 'folder')}{named}"


def _files(folder: str, seen: set[tuple[int, int]], left_out: Counter[str]) -> list[str]:
    """List the pictures at any depth below a folder, but none through a link to a folder that was `seen`."""
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
            if entry.is_dir():  # through links last, so that what is not reached through one keeps its own name
                (folders.append if entry.is_symlink() else folders.appendleft)(entry.path)
            elif suffix in suffixes():
                files.append(entry.path)
            else:
                left_out[f"files of kind {suffix}" if suffix else "files without an ending"] += 1
    return sorted(files, key=os.path.split)


def _entries(folder: str, left_out: Counter[str]) -> list[os.DirEntry[str]]:
    """List the files and folders in a folder that are not hidden, and count all else."""
    kept = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.name.startswith("."):
                    left_out["hidden entries"] += 1
                elif entry.is_dir() or entry.is_file():
                    kept.append(entry)
                else:
                    left_out["links that lead nowhere" if entry.is_symlink() else "neither files nor folders"] += 1
            except OSError:  # a link that leads to itself
                left_out["links that lead nowhere"] += 1
    return kept


def _places(folder: Path) -> set[tuple[int, int]]:
    """Return what tells a folder and those in it from all others."""
    return {_place(one) for one in (folder, *folder.iterdir()) if one.is_dir()}


def _place(path: str | Path) -> tuple[int, int]:
    """Return what tells a folder from all others, by whatever link it is reached."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_colour(name: object) -> None:
    from PIL import ImageColor

    try:
        rgb = ImageColor.getrgb(str(name))
        if len(rgb) == 3 and all(0 <= value <= 255 for value in rgb):  # others would be clipped, or be refused later
            return
    except ValueError:
        pass
    raise BadInput(f"data.background: expected a colour such as white, '#808080' or 'rgb(128,128,128)', got '{name}'")
