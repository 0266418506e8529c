"""Where the data of a file's net are now: by their names below `data_root`, whatever paths the file has."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from omegaconf import DictConfig

from zoo.errors import BadInput

DATA_ROOT = PurePath("data")  # the default in configs/train.yaml
SHARDS = ("urls", "val_urls", "test_urls")


def placed(settings: Mapping[str, Any], old_root: str, cfg: DictConfig) -> dict[str, Any]:
    """Return settings of data, and of their source, with the file's paths replaced by those of the command line."""
    found = dict(settings)
    for key in ("root", "path", "table", "images"):
        if found.get(key) is not None:
            found[key] = _place_of(str(found[key]), old_root, cfg.data_root, may_be_folder=key == "images")
    if isinstance(found.get("classes"), str):  # a file of their names
        found["classes"] = _place_of(found["classes"], old_root, cfg.data_root)
    for key in SHARDS:
        if found.get(key) is not None:
            shards = [found[key]] if isinstance(found[key], str) else found[key]
            found[key] = [_place_of(str(shard), old_root, cfg.data_root, is_shard=True) for shard in shards]
    if isinstance(lists := found.get("split"), Mapping):
        found["split"] = {part: _place_of(str(path), old_root, cfg.data_root) for part, path in lists.items()}
    if "download" in found:
        found["download"] = bool(cfg.get("download"))
    if isinstance(found.get("source"), Mapping):
        found["source"] = placed(found["source"], old_root, cfg)
    found.pop("num_workers", None)  # that of the machine that trained
    return found


def _place_of(named: str, old_root: str, root: str | None, may_be_folder: bool = False, is_shard: bool = False) -> str:
    """Return the current location, in `root`, of data that were at `named`, with data sets in `old_root`.

    It is a file of that name in `root`, or a folder if `may_be_folder`, or else `root`. The name of a shard may be a
    pattern, and `root` may then be a URL. Without `root`, only data that were in the default folder, `data`, are looked
    up.
    """
    path = PurePath(named)
    below = path.is_relative_to(old_root) and is_below(str(path.relative_to(old_root)))
    if not root and not (below and PurePath(old_root) == DATA_ROOT):
        raise BadInput(
            f"data_root: the net was trained on data in {old_root if below else named!r}; a file's paths are not "
            "followed, so set the location of the data: data_root=FOLDER"
        )
    if (below and "://" not in str(root)) or root is None:
        return str(Path(root or DATA_ROOT, path.relative_to(old_root)))
    place = Path(root, path.name)
    if is_shard:
        return f"{root.rstrip('/')}/{path.name}"
    return str(place if place.is_file() or (may_be_folder and place.is_dir()) else root)


def is_below(name: str) -> bool:
    """Return whether a name is a path below the folder that it is relative to."""
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name
