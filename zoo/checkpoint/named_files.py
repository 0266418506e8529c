"""The files that users name: by a path, by a run folder, or by the name of a net that comes with the zoo."""

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from zoo.errors import BadInput, choices, nearest, require
from zoo.paths import CONFIG, OF_ZOO, PRODUCT, TRAINED

log = logging.getLogger("zoo")


def trained_files() -> dict[str, Path]:
    """Return the packed files of the nets that come with the zoo, by name; each has a claim in a JSON file."""
    return {file.stem: file for file in sorted(TRAINED.glob("*.zoo")) if file.with_suffix(".json").is_file()}


def claim_of(name: str) -> dict[str, Any]:
    """Read the claim about a net that comes with the zoo: the digest of its file, its evaluation, and its run."""
    claim: dict[str, Any] = json.loads((TRAINED / f"{name}.json").read_text())
    return claim


def is_name_of_trained(source: str | Path) -> bool:
    """Return whether something is the name, or nearly the name, of a net that comes with the zoo, and not a file."""
    text, known = str(source), trained_files()
    return not os.path.exists(source) and (text in known or bool(re.fullmatch(r"\w+", text) and nearest(text, known)))


def is_shipped(file: Path) -> bool:
    """Return whether a file comes with the zoo, in whose folder no command writes."""
    return file.resolve().parent == TRAINED


def folder_for(file: Path, out: str | None) -> Path:
    """Return the folder for what is written about a file: `out`, or that of the file.

    For a net that comes with the zoo, the default is the folder zoo_NAME in the current one.
    """
    return Path(out or (f"zoo_{file.stem}" if is_shipped(file) else file.parent))


def file_of(named: str | Path) -> Path:
    """Return the file of a trained net that a user names.

    That is a path, `zoo:NAME` for a net that comes with the zoo, a run folder for its product, or a folder of runs for
    the product of the newest, as in `runs/first`; `runs/first/model.zoo` is a file of the newest run. Raises BadInput
    for an unknown name, a path that cannot be looked up, and a folder without a product.
    """
    require(str(named) != "", "file", "a path, or zoo:NAME for a net that comes with the zoo", named)
    if str(named).startswith(OF_ZOO):
        known, name = trained_files(), str(named).removeprefix(OF_ZOO)
        if name not in known:
            raise BadInput(f"{str(named)[:80]} does not come with the zoo; {choices(name[:80], known)}")
        return known[name]
    path = Path(named)
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # a name that is too long or not valid, or a folder that may not be read
        why = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"{str(named)[:80]} cannot be looked up: {why}") from error
    if not path.is_dir():
        return path if path.exists() else newest(path.parent, path.name) or path
    if (found := newest(path, PRODUCT)) is None:
        raise BadInput(f"{path}: expected a file or a run folder, got a folder without a {PRODUCT}")
    return found


def newest(folder: Path, name: str) -> Path | None:
    """Return the file `name` of a run folder, or of the newest run in a folder, whose name is the last in order."""
    if (folder / name).is_file():
        return folder / name
    runs = sorted(config.parent for config in folder.glob(f"*/{CONFIG}"))
    found = [run / name for run in runs if (run / name).is_file()]
    if found and found[-1].parent != runs[-1]:
        log.warning("%s: the newest run, %s, has no %s; using %s.", folder, runs[-1].name, name, found[-1].parent)
    elif len(found) > 1:
        log.warning("%s has %d runs; using the newest, %s.", folder, len(found), found[-1].parent)
    return found[-1] if found else None
