"""Validate the SQLite database of a study before Optuna opens it."""

import contextlib
import os
import re
import sqlite3
from pathlib import Path

from zoo.files import open_file

MAX_BYTES = 1 << 28
SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")  # at the end of a journal that names another file
# Keywords that Optuna's schema never has, of things that are computed on reading.
COMPUTED = re.compile(r"\b(GENERATED|VIRTUAL|AS|TRIGGER|VIEW|WHERE)\b", re.IGNORECASE)


def check_database(file: Path) -> None:
    """Raise ValueError or DatabaseError unless a file is an intact SQLite database with only tables and indices.

    SQLite deletes a file named in a journal, and reading views and computed columns may never end.
    """
    handle = open_file(file)
    size = os.fstat(handle).st_size
    os.close(handle)
    if size > MAX_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than the limit of {MAX_BYTES:,}")
    journal = file.with_name(f"{file.name}-journal")
    if journal.exists():
        with open(open_file(journal), "rb") as there:
            there.seek(max(0, os.fstat(there.fileno()).st_size - len(SUPER_JOURNAL)))
            if there.read() == SUPER_JOURNAL:
                raise ValueError("its journal names another file")
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA trusted_schema=OFF")
        database.text_factory = lambda text: text.decode(errors="replace")
        for kind, name, text in database.execute("SELECT type, name, sql FROM sqlite_master"):
            if "\ufffd" in f"{kind}{name}{text}":
                raise ValueError("its schema is not text")
            if kind not in ("table", "index") or COMPUTED.search(str(text)):
                raise ValueError(f"it has a {kind} {str(name)[:40]}, which no study has")
        found = [row[0] for row in database.execute("PRAGMA integrity_check(1)")]
    if found != ["ok"]:
        raise ValueError(str(found[:1]))
