"""Pairs of messages and their translations from gettext catalogues (``.po`` and ``.mo``)."""

from __future__ import annotations

import io
import re
import struct
from collections import Counter
from collections.abc import Iterable
from typing import Final

from babel.messages.catalog import Catalog
from babel.messages.mofile import read_mo
from babel.messages.pofile import PoFileError, PoFileParser

from tasks.text import read_bytes
from tasks.translation.files import Pairs

__all__ = ["read_catalogue"]

_LINE: Final = re.compile(
    r'(?P<keyword>msgctxt|msgid|msgid_plural|msgstr|msgstr\[\d+\])?\s*"(?P<text>(?:[^"\\]|\\.)*)"'
)
#: For each keyword, the keywords that may come right before it; "" is the begin of the file.
_AFTER: Final = {
    "msgctxt": ("", "msgstr", "msgstr[]"),
    "msgid": ("", "msgctxt", "msgstr", "msgstr[]"),
    "msgid_plural": ("msgid",),
    "msgstr": ("msgid",),
    "msgstr[]": ("msgid_plural", "msgstr[]"),
}


#: The header of a .po file: the translation of the empty message.
_HEADER: Final = re.compile(rb'^msgid\s+""\s*\nmsgstr((?:\s*"[^\n]*"\s*$)+)', re.MULTILINE)
_CHARSET: Final = re.compile(rb'charset\s*=[\s\\"]*([a-z0-9][\w:.+-]*)', re.IGNORECASE)
#: The first 4 bytes of a .mo file whose numbers begin with the lowest byte.
_LITTLE: Final = b"\xde\x12\x04\x95"


class _Catalogue(Catalog):
    """A catalogue that reads only the parts of its header that its messages need.

    Some programs leave dates, names and versions in the header empty or invalid. Babel raises an
    error for them.
    """

    def _take(self, headers: Iterable[tuple[str, str]]) -> None:
        needed = []
        for name, value in headers:
            kind = name.lower()
            # Templates have the line "nplurals=INTEGER", for a translator to fill in.
            known = kind != "plural-forms" or ("nplurals" in value and "INTEGER" not in value)
            if kind in ("content-type", "plural-forms") and known:
                needed.append((name, value))
            elif kind == "language":
                try:
                    self._set_locale(value.replace("-", "_") or None)
                except (ValueError, TypeError):  # free text, such as "German (Austria)"
                    self._set_locale(None)
        self._set_mime_headers(needed)

    mime_headers = property(Catalog._get_mime_headers, _take)


def read_catalogue(path: str) -> Pairs:
    """Pair the messages of a catalogue with their translations.

    For a message with plural forms, the singular is paired with the first form, the plural with the
    last. Messages that are fuzzy (only a ``.po`` has these) or not translated are left out and
    counted. Obsolete messages and the header do not count. A line break within a message becomes a
    space. The header may be missing; only its charset, language and number of plural forms matter.

    Args:
        path: path of the catalogue; compiled if its name ends in ``.mo``.

    Raises:
        ValueError: the file is missing, empty, damaged, or without a translation.
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
        return read_mo(io.BytesIO(_without_header(content)))
    except Exception as error:  # Babel raises many kinds, depending on the damage
        raise ValueError(
            f"expected a compiled gettext catalogue (.mo) at {path}; the file is damaged or of "
            f"another kind ({_first_line(error)})"
        ) from error


def _read_po(path: str) -> Catalog:
    content = read_bytes(path)
    header = _HEADER.search(content)
    charset = header and _CHARSET.search(header[1])
    name = charset[1].decode() if charset else "utf-8"
    if name.lower() in ("utf-8", "utf8", "charset"):  # templates have the word CHARSET
        name = "utf-8-sig"
    try:
        text = content.decode(name)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: expected {error.encoding}; got another") from error
    except (LookupError, UnicodeError) as error:
        raise ValueError(f"{path}: expected a charset that Python knows; got {name}") from error
    _check_lines(path, text)
    try:
        catalogue = _Catalogue()
        PoFileParser(catalogue, abort_invalid=True).parse(io.StringIO(text))
        return catalogue
    except PoFileError as error:
        raise ValueError(f"{path}, line {error.lineno + 1}: {_first_line(error)}") from error
    except Exception as error:  # such as a plural rule in the header
        raise ValueError(f"{path}: expected a gettext catalogue; {_first_line(error)}") from error


def _without_header(content: bytes) -> bytes:
    """Blank the header of a compiled catalogue, except for the charset."""
    # With spaces of the same length, so that all offsets in the file stay valid.
    order = "<" if content[:4] == _LITTLE else ">"
    messages, translations = struct.unpack(order + "2I", content[12:20])
    (first,) = struct.unpack(order + "I", content[messages : messages + 4])
    length, start = struct.unpack(order + "2I", content[translations : translations + 8])
    # A header comes first, since the messages are sorted.
    if first or start + length > len(content):
        return content
    told = re.search(rb"content-type:[^\n]*", content[start : start + length], re.IGNORECASE)
    header = (told[0] if told else b"").ljust(length)
    return content[:start] + header + content[start + length :]


def _check_lines(path: str, text: str) -> None:
    """Check the lines of a catalogue and their order; Babel silently drops many broken lines.

    Raises:
        ValueError: a line is invalid or out of place, or repeats a message.
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
