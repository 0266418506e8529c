"""Names of runs in a comparison: by what differs, with as few words as tell them apart."""

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from zoo import escape
from zoo.cli.help import GROUPS
from zoo.paths import CONFIGS
from zoo.records.config_file import leaves

REPEATS = ("seed", "data.seed", "data.fold")  # settings in which the runs of a group may differ
NAMES = ("name", "runs", "data_root", "resume", "experiment")  # settings that do not affect results
NORMALISATION = ("data.mean", "data.std")
ALWAYS = ("model", "compress")  # named wherever they differ
USUAL = ("none", "default", "null")  # options that need no word
MOST_LETTERS = 30  # of a value
OF_RUN = re.compile(r"([^/]+)/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d[^/]*/[^/]+$")
Settings = Mapping[str, Any]
MISSING = object()


def differing(several: Sequence[Settings]) -> list[str]:
    """Return the settings in which runs differ, each difference once, without those that nobody has set.

    A setting that follows from the option of its group, such as the depths of each `model`, is left out, and so is one
    that has the values of an earlier setting of the same name, as model.image_size has those of data.image_size. Runs
    of earlier versions lack some settings; these differ only if another run has a value other than a default.
    """
    keys = dict.fromkeys(key for settings in several for key in settings if key not in NAMES)
    found: list[str] = []
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for key in keys:
        values = [settings.get(key, MISSING) for settings in several]
        if all(value == values[0] for value in values) or _follows(key, values, several) or _nobody_set(key, values):
            continue
        same = key.rpartition(".")[2], tuple(map(repr, values))
        if same not in seen:
            seen.add(same)
            found.append(key)
    return found


def _follows(key: str, values: Sequence[Any], several: Sequence[Settings]) -> bool:
    """Return whether the runs that chose the same options, on which a setting may depend, have the same value.

    These are the option of its group, for callbacks also that of `compress`, which adds its own, and for the mean and
    deviation of images the file that the run started from.
    """
    group, _, rest = key.partition(".")
    others = {"callbacks": ("compress",)}.get(group, ()) + (("init_from",) if key in NORMALISATION else ())
    chosen = [repr([settings.get(one) for one in (group, *others)]) for settings in several]
    of_option = dict(zip(chosen, values, strict=True))
    return bool(rest) and all(of_option[option] == value for option, value in zip(chosen, values, strict=True))


def _nobody_set(key: str, values: Sequence[Any]) -> bool:
    """Return whether some runs lack a setting, and the others have a default."""
    present = [value for value in values if value is not MISSING]
    if len(present) == len(values):
        return False
    return all(is_default(key, value) for value in present)


def is_default(key: str, value: Any) -> bool:
    """Return whether a setting has the value that it has in some option of its group, or one that sets nothing."""
    group, _, rest = key.partition(".")
    known = _defaults(group) if group in GROUPS else frozenset()  # the key is text from a file, and no path
    is_unset = value is None or value is False or value in ([], {})  # and 0 is a value
    return is_unset or (rest, repr(value)) in known


def without_later_defaults(several: Sequence[Settings]) -> list[dict[str, Any]]:
    """Return the settings of runs without those that have a default and that a run of the same option lacks.

    Such a setting, as `task.r_drop`, came with a later version, whose default does what the earlier version did. Parts
    of a setting, as `data.augment.flip.probability`, stay, since a run can lack them for having removed the whole.
    """
    shared: dict[tuple[str, str], set[str]] = {}  # of each group and option: the settings that all its runs have
    for settings in several:
        for place, own in _by_option(settings).items():
            shared[place] = shared.get(place, own) & own
    return [
        {
            key: settings[key]
            for place, own in _by_option(settings).items()
            for key in own
            if key in shared[place] or key.count(".") != 1 or not is_default(key, settings[key])
        }
        for settings in several
    ]


def _by_option(settings: Settings) -> dict[tuple[str, str], set[str]]:
    """Return the keys of each group of settings, by the group's name and the option that was chosen for it."""
    found: dict[tuple[str, str], set[str]] = {}
    for key in settings:
        group = key.partition(".")[0]
        found.setdefault((group, repr(settings.get(group))), set()).add(key)
    return found


@functools.cache
def _defaults(group: str) -> frozenset[tuple[str, str]]:
    """Return the settings in the options of a config group, with their values as text."""
    files = sorted((CONFIGS / group).rglob("*.yaml"))
    nodes: list[Any] = [OmegaConf.to_container(OmegaConf.load(file)) for file in files]
    return frozenset((key, repr(value)) for node in nodes if isinstance(node, dict) for key, value in leaves(node))


def as_typed(value: Any) -> str:
    """Format a setting as on the command line, with floats rounded to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def short_paths(values: Sequence[Any]) -> list[str]:
    """Return settings as typed, files of runs by the name of the run if that tells them apart: runs/NAME/STAMP/FILE."""
    words = [as_typed(value) for value in values]
    short = [found[1] if (found := OF_RUN.search(word)) else word for word in words]
    return short if len(set(short)) == len(set(words)) else words


def names_of(several: Sequence[Settings], stamps: Sequence[str]) -> list[str]:
    """Return a short name for each run: the run's own, the settings that differ, or both.

    The run's own name is left out if all have the same, and `_DATA` at the end of a default name. Runs with equal
    settings are told apart by the time in `stamps`.
    """
    own = [own_name(settings) for settings in several]
    names = own
    for name, count in Counter(own).items():
        if count == 1:
            continue
        places = [i for i, one in enumerate(own) if one == name]
        words = words_apart([several[i] for i in places])
        shown = ["" if count == len(own) else name for _ in places]
        for i, start, more in zip(places, shown, words, strict=True):
            names = [*names[:i], f"{start} {more}".strip() or name, *names[i + 1 :]]
    return [
        f"{name} {_time(stamp, stamps)}" if names.count(name) > 1 else name
        for name, stamp in zip(names, stamps, strict=True)
    ]


def own_name(settings: Settings) -> str:
    """Return the name of a run, or its net if the name is the default one."""
    name, model = str(settings["name"]), str(settings.get("model"))
    return model if name == f"{model}_{settings.get('data')}" else name


def _time(stamp: str, stamps: Sequence[str]) -> str:
    """Return the time of a run, without its date if all are of one day."""
    day, _, time = stamp.partition("_")
    return time if time and all(other.startswith(f"{day}_") for other in stamps) else stamp


def words_apart(several: Sequence[Settings]) -> list[str]:
    """Return a few settings of each run that tell the runs apart: model and compression, and as few more as needed."""
    keys = [key for key in differing(several) if key not in REPEATS]
    chosen = [key for key in keys if key in ALWAYS]
    most = _num_distinct(several, keys)
    while _num_distinct(several, chosen) < most:
        chosen.append(max(keys, key=lambda key: _num_distinct(several, [*chosen, key])))
    last = Counter(key.rpartition(".")[2] for key in keys)
    short = {key: leaf if last[leaf := key.rpartition(".")[2]] == 1 else key for key in chosen}
    return [_words(settings, {key: short[key] for key in _needed(settings, several, chosen)}) for settings in several]


def _needed(settings: Settings, several: Sequence[Settings], chosen: Sequence[str]) -> list[str]:
    """Return the keys that one run needs to be told apart from all others, the last ones left out first."""

    def num_like(keys: Sequence[str]) -> int:
        return sum(all(other.get(k, MISSING) == settings.get(k, MISSING) for k in keys) for other in several)

    needed = list(chosen)
    for key in reversed(chosen):
        fewer = [one for one in needed if one != key]
        if key not in ALWAYS and num_like(fewer) == num_like(chosen):
            needed = fewer
    return needed


def _num_distinct(several: Sequence[Settings], keys: Sequence[str]) -> int:
    return len({tuple(repr(settings.get(key, MISSING)) for key in keys) for settings in several})


def _words(settings: Settings, short: Mapping[str, str]) -> str:
    there = {key: as_typed(settings[key]) for key in short if key in settings}
    words = {
        key: value if key in ALWAYS else f"{short[key]}={escape.shortened_in_middle(value, MOST_LETTERS)}"
        for key, value in there.items()
    }
    needed = [word for key, word in words.items() if there[key] not in USUAL]
    return " ".join(needed or words.values())
