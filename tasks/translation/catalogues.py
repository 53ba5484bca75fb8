"""Messages of programs and their translations, from gettext catalogues (``.po`` and ``.mo``)."""

from __future__ import annotations

import io
import re
from collections import Counter
from typing import Final

from babel.messages.catalog import Catalog
from babel.messages.mofile import read_mo
from babel.messages.pofile import PoFileError, read_po

from tasks.translation.files import Pairs, read_bytes

__all__ = ["read_catalogue"]

_LINE: Final = re.compile(
    r'(?P<keyword>msgctxt|msgid|msgid_plural|msgstr|msgstr\[\d+\])?\s*"(?P<text>(?:[^"\\]|\\.)*)"'
)
#: Keyword -> those that may come right before it; "" is the begin of the file.
_AFTER: Final = {
    "msgctxt": ("", "msgstr", "msgstr[]"),
    "msgid": ("", "msgctxt", "msgstr", "msgstr[]"),
    "msgid_plural": ("msgid",),
    "msgstr": ("msgid",),
    "msgstr[]": ("msgid_plural", "msgstr[]"),
}


def read_catalogue(path: str) -> Pairs:
    """Pair the messages of a catalogue with their translations.

    Of a message with plural forms, the singular is paired with the first form and the plural with
    the last. What is fuzzy (in a ``.po``; a ``.mo`` holds none) or not translated is left out and
    counted; obsolete messages and the header are no messages. A line break within a message
    becomes a space.

    Args:
        path: a compiled catalogue if its name ends in ``.mo``.

    Raises:
        ValueError: the file is missing, empty or damaged, or nothing in it is translated.
    """
    catalogue = _read_mo(path) if path.endswith(".mo") else _read_po(path)
    pairs, skipped = [], Counter[str]()
    for message in catalogue:
        ids, strings = _forms(message.id), _forms(message.string)
        if not ids[0]:  # the header
            continue
        if message.fuzzy:
            skipped[f"fuzzy in {path}"] += 1
            continue
        sides = [(ids[0], strings[0])]
        if len(ids) > 1:
            sides.append((ids[1], strings[-1]))
        for pair in sides:
            source, target = (re.sub(r"\s*\n\s*", " ", side).strip() for side in pair)
            if source and target:
                pairs.append((source, target))
            else:
                skipped[f"not translated in {path}"] += 1
    if not pairs:
        raise ValueError(f"expected translated messages in {path}; there are none")
    return Pairs(pairs, skipped)


def _forms(text: object) -> list[str]:
    """Singular and plural forms of one side of a message, at least one."""
    if isinstance(text, (list, tuple)):
        return [str(form or "") for form in text] or [""]
    return [str(text or "")]


def _read_mo(path: str) -> Catalog:
    content = read_bytes(path)
    try:
        return read_mo(io.BytesIO(content))
    except Exception as error:  # what Babel raises depends on where the damage is
        raise ValueError(
            f"expected a compiled gettext catalogue (.mo) at {path}; the file is damaged or of "
            f"another kind ({_first_line(error)})"
        ) from error


def _read_po(path: str) -> Catalog:
    content = read_bytes(path)
    charset = re.search(rb"charset=([\w-]+)", content)
    name = charset[1].decode() if charset else "utf-8"
    if name.lower() in ("utf-8", "utf8", "charset"):  # CHARSET stands in templates
        name = "utf-8-sig"
    try:
        text = content.decode(name)
    except LookupError as error:
        raise ValueError(f"{path}: expected a charset that Python knows; got {name}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: expected {error.encoding}; got another") from error
    _check_lines(path, text)
    try:
        return read_po(io.StringIO(text), abort_invalid=True)
    except PoFileError as error:
        raise ValueError(f"{path}, line {error.lineno + 1}: {_first_line(error)}") from error
    except Exception as error:  # such as a date or a plural rule in the header
        raise ValueError(f"{path}: expected a gettext catalogue; {_first_line(error)}") from error


def _check_lines(path: str, text: str) -> None:
    """Check each line and their order: of much that is wrong, Babel drops what it cannot read.

    Raises:
        ValueError: a line is not one of a catalogue, is out of place, or repeats a message.
    """
    last = ""
    messages: list[tuple[int, dict[str, str]]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None:
            raise ValueError(
                f"{path}, line {number}: expected a keyword and a string in quotes; "
                f"got {stripped[:60]}"
            )
        keyword = re.sub(r"\d", "", match["keyword"] or "")
        if last not in (_AFTER[keyword] if keyword else _AFTER):
            raise ValueError(
                f"{path}, line {number}: expected msgid and then msgstr; "
                f"got {stripped[:60]} after {last or 'nothing'}"
            )
        if keyword in ("msgctxt", "msgid") and last != "msgctxt":
            messages.append((number, {}))
        last = keyword or last
        if last in ("msgctxt", "msgid"):
            key = messages[-1][1]
            key[last] = key.get(last, "") + match["text"]
    if last and not last.startswith("msgstr"):
        raise ValueError(
            f"{path}, line {messages[-1][0]}: expected msgid and then msgstr; "
            f"got the end of the file after {last}"
        )
    seen: dict[tuple[str | None, str], int] = {}
    for number, key in messages:
        message = key.get("msgctxt"), key["msgid"]
        if message in seen:
            raise ValueError(
                f"{path}, line {number}: expected each message once; got that of line "
                f"{seen[message]} again"
            )
        seen[message] = number


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
