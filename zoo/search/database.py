"""The database of a study before Optuna opens it: an ordinary one of SQLite's, of tables alone."""

import contextlib
import os
import re
import sqlite3
from pathlib import Path

from zoo.files import open_file

MAX_BYTES = 1 << 28
SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")  # at the end of a journal that names another file
# What a schema of Optuna's never has, and what would be computed as it is read.
COMPUTED = re.compile(r"\b(GENERATED|VIRTUAL|AS|TRIGGER|VIEW|WHERE)\b", re.IGNORECASE)


def check_database(file: Path) -> None:
    """Raise ValueError or DatabaseError unless SQLite finds a file whole, and nothing but tables in it.

    SQLite removes the file that a journal names; and what views and computed columns say may never end.
    """
    handle = open_file(file)
    size = os.fstat(handle).st_size
    os.close(handle)
    if size > MAX_BYTES:
        raise ValueError(f"it has {size:,} bytes, and at most {MAX_BYTES:,} are read")
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
