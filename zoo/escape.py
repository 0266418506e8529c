"""Escaping of untrusted text, such as names in files: one function per output format."""

import functools
import html as html_
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zoo.paths import as_typed

if TYPE_CHECKING:
    from rich.console import Console

# Control characters, which a terminal may interpret as commands, and those that reverse, hide or break text
CONTROLS = r"\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
LINE = re.compile(f"[{CONTROLS}]")
TEXT = re.compile(f"(?![\n\t])[{CONTROLS}]")
LONGEST_LABEL = 80


def _visible(match: re.Match[str]) -> str:
    return ascii(match.group())[1:-1]


def line(text: object) -> str:
    """Return a text as one line, with control characters escaped as in Python, such as \\x1b."""
    return LINE.sub(_visible, str(text))


def text(several: object) -> str:
    """Return a text with all control characters escaped except line breaks and tabs."""
    return TEXT.sub(_visible, str(several))


def html(name: object) -> str:
    """Escape a name for HTML, inside and outside of quotes."""
    return html_.escape(line(name))


def markdown(name: object) -> str:
    """Escape a name for Markdown, including table cells."""
    return re.sub(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))", r"\\\1", html_.escape(line(name), quote=False))


def code(name: object) -> str:
    """Escape a name for Markdown between backticks, including table cells; backticks in it are replaced."""
    return line(name).replace("`", "'").replace("|", r"\|")


def cell(name: object) -> str:
    """Escape a name for CSV, so that no spreadsheet treats it as a formula."""
    return re.sub(r"^(?=[=+@-].)", "'", line(name))


def tag(name: object) -> str:
    """Escape a name for a TensorBoard tag, where a slash starts a group."""
    return shortened(line(name), LONGEST_LABEL).replace("/", "∕")


def label(name: object) -> str:
    """Escape a name for matplotlib, which treats text between dollar signs as maths.

    A character missing from all installed fonts is written as its code point, such as U+732B.
    """
    return "".join(map(_drawn, shortened(line(name), LONGEST_LABEL))).replace("$", r"\$")


@functools.cache
def _drawn(character: str) -> str:
    """Return a character if an installed font has it (added to matplotlib's fallback fonts), else its code point."""
    import matplotlib
    from matplotlib import font_manager

    usual = font_manager.FontProperties().get_family()
    files = [font_manager.findfont(font_manager.FontProperties(family=[family])) for family in usual]
    if any(_has(file, character) for file in files):
        return character
    for font in font_manager.fontManager.ttflist:
        if not font.name.startswith("Last Resort") and _has(font.fname, character):  # its glyphs are all boxes
            matplotlib.rcParams["font.family"] = [*usual, font.name]
            return character
    return _number(character)


def spelled(name: object, font: str) -> str:
    """Return a name with characters that are missing from a font file replaced by their code points."""
    return "".join(one if _has(font, one) else _number(one) for one in line(name))


def _has(font: str, character: str) -> bool:
    from matplotlib import font_manager

    return bool(font_manager.get_font(font).get_char_index(ord(character)))


def _number(character: str) -> str:
    return f"U+{ord(character):04X}"


def shortened(name: str, most: int) -> str:
    """Return a name, truncated to `most` characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def shortened_in_middle(name: str, most: int) -> str:
    """Return a name of at most `most` characters, with the start and the end of a longer one."""
    end = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - end]}…{name[len(name) - end :]}"


def console(**settings: Any) -> "Console":
    """Return a console that prints text literally, in one line, without markup, emoji or control characters."""
    return _kind()(highlight=False, markup=False, emoji=False, **settings)


@functools.cache
def _kind() -> Callable[..., "Console"]:
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **settings: Any) -> Any:
            return super().render_str(as_typed(line(text)), **settings)

    return Plain


class Formatter(logging.Formatter):
    """Format log messages without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return as_typed(text(super().format(record)))


def c_string(name: object) -> str:
    """Escape a text for a string literal in C: UTF-8, with all but letters, digits and some signs as octal numbers."""
    plain = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _-.,")
    return "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in str(name).encode(errors="replace"))
