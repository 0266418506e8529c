"""The samples of a WebDataset shard: pictures and, by the same name up to its first dot, their labels."""

import os
from collections import Counter
from dataclasses import dataclass
from typing import IO, Any, Literal

import msgspec

from zoo.data.picture_parts import PicturePart, is_remote, open_remote
from zoo.data.read_image import suffixes
from zoo.data.tar_members import TarMember, tar_members
from zoo.errors import BadInput, counted, reason, shown
from zoo.files import open_file

LabelKind = Literal["cls", "txt", "json"]
MOST_BYTES = 1 << 20  # of a label
Listed = tuple[list[PicturePart], list[str], list[str]]  # pictures, names of their members, labels


@dataclass(frozen=True)
class LabelMember:
    """Where labels are: in members that end in `kind`; in JSON, as the value of `key`."""

    kind: LabelKind
    key: str
    separator: str | None

    def text(self, content: bytes) -> str:
        """Return a label, several joined by the separator; raise ValueError if there is none."""
        try:
            if self.kind != "json":
                return content.decode("utf-8-sig").strip()
            found = msgspec.json.decode(content)
        except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"it cannot be read as {self.kind} ({reason(error)})") from error
        if not isinstance(found, dict) or self.key not in found:
            raise ValueError(f"it has no value '{self.key}', which data.label_key names")
        return joined(found[self.key], self.separator)


def joined(value: Any, separator: str | None) -> str:
    """Return the text of a label, a text or a number, or of a list of them; raise ValueError for anything else."""
    if isinstance(value, list) and separator is not None:
        labels = [joined(one, None) for one in value]
        if odd := next((one for one in labels if separator in one), None):
            raise ValueError(f"its label {shown(odd)} contains data.separator")
        return separator.join(labels)
    if isinstance(value, list):
        raise ValueError("it has a list of labels; set data.separator, to what is in none of them, for several labels")
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"it has the label {shown(value)}; expected a text or a whole number")
    return str(value).strip()


def list_shard(setting: str, shard: str, labels: LabelMember, left_out: Counter[str]) -> Listed:
    """List the pictures of a shard with the texts of their labels, and count in `left_out` what is neither.

    Raises BadInput, naming the shard and the member, if it cannot be read, or for a picture without a label.
    """
    try:
        with open_remote(shard) if is_remote(shard) else open(open_file(shard), "rb") as file:
            others: list[str] = []
            members = _by_key(file, labels.kind, others, left_out)
            left_out.update(["links and special files"] * len(others))
            return _samples(file, shard, members, labels)
    except BadInput as error:
        raise BadInput(f"{setting}: {error}") from error
    except FileNotFoundError as error:
        raise BadInput(f"{setting}: {shard} cannot be opened (No such file)") from error
    except OSError as error:
        raise BadInput(f"{setting}: {shard} cannot be opened ({error.strerror or reason(error)})") from error
    except ValueError as error:
        raise BadInput(f"{setting}: {shard} cannot be used: {error}") from error
    except Exception as error:  # a client of servers may raise anything
        if not is_remote(shard):
            raise
        raise BadInput(f"{setting}: {shard} cannot be read ({reason(error)})") from error


def _by_key(file: IO[bytes], kind: str, others: list[str], left_out: Counter[str]) -> dict[str, dict[str, TarMember]]:
    """Return the pictures and labels by the key and the ending of their names."""
    found: dict[str, dict[str, TarMember]] = {}
    for member in tar_members(file, others):
        folder, base = os.path.split(member.name)
        stem, _, ending = base.partition(".")
        ending = ending.lower()
        if not stem:
            left_out["hidden members"] += 1
        elif f".{ending}" not in suffixes() and ending != kind:
            if os.path.splitext(base)[1].lower() in suffixes():
                raise ValueError(f"{member.name} has a dot in its key: in shards, the ending starts at the first dot")
            left_out[f"members of kind .{ending}" if ending else "members without an ending"] += 1
        elif found.setdefault(os.path.join(folder, stem), {}).setdefault(ending, member) is not member:
            raise ValueError(f"{member.name} is in it twice")
    return found


def _samples(file: IO[bytes], shard: str, members: dict[str, dict[str, TarMember]], labels: LabelMember) -> Listed:
    parts, names, texts = [], [], []
    for key, endings in members.items():
        label = endings.pop(labels.kind, None)
        if len(endings) != 1:
            got = counted(len(endings), "picture")
            raise ValueError(f"{key} has {got}; expected one for {key}.{labels.kind}")
        (picture,) = endings.values()
        if label is None:
            raise ValueError(f"{picture.name} has no label {key}.{labels.kind}; data.label is cls, txt or json")
        if label.size > MOST_BYTES:
            raise ValueError(f"{label.name} has {label.size:,} bytes; a label has at most {MOST_BYTES:,}")
        file.seek(label.offset)
        try:
            text = labels.text(file.read(label.size))
        except ValueError as error:
            raise ValueError(f"{label.name}: {reason(error)}") from error
        if not text and labels.separator is None:
            raise ValueError(f"{label.name} is empty; expected a label")
        parts.append(PicturePart(f"{shard}/{picture.name}", shard, picture.offset, picture.size))
        names.append(picture.name)
        texts.append(text)
    return parts, names, texts
