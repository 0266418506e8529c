"""Verdicts of checks, and their table in the terminal."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

from zoo import escape

State = Literal["pass", "look", "warn", "fail", "skip"]
COLOURS: dict[State, str] = {"pass": "green", "look": "cyan", "warn": "yellow", "fail": "red", "skip": "dim"}
log = logging.getLogger("zoo")


@dataclass(frozen=True)
class Verdict:
    """The result of a check: `fail` stops a run, `skip` means not checked, `look` leaves it to the user."""

    name: str
    state: State
    sentence: str


def print_verdicts(title: str, verdicts: Sequence[Verdict]) -> None:
    """Print the table of verdicts, and write them to the log."""
    table = Table(title=title, title_justify="left")
    for column in ("check", "verdict", "what was found"):
        table.add_column(column)
    for verdict in verdicts:
        table.add_row(verdict.name, Text(verdict.state, COLOURS[verdict.state]), verdict.sentence)
        log.debug("%s, %s: %s. %s", title.lower(), verdict.name, verdict.state, verdict.sentence)
    escape.console().print(table)
