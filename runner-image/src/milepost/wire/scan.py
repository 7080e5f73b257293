"""The rule of wire.values for JSON text that comes in pieces and is never whole in memory.

What repeats (plain strings, numbers, members) is taken by one regular expression for as long as it goes on: a value of
many megabytes costs milliseconds for each of them.
"""

import codecs
import re
from typing import Final, Literal

from milepost.wire.values import INT_MAX, INT_MIN, MAX_DEPTH, BadValue

_SPACE: Final = r"[ \t\n\r]*+"
_ESCAPE: Final = r'\\(?:["\\/bfnrt]|u(?!0000|[dD][89a-fA-F])[0-9a-fA-F]{4})'
_BODY: Final = rf'(?:[^"\\\x00-\x1f]++|{_ESCAPE})*+'
_SCALAR: Final = rf'(?:"{_BODY}"|-?(?:0|[1-9][0-9]{{0,17}}+)(?:\.[0-9]++)?(?![0-9.eE])|true|false|null)'
_KEY: Final = rf'"{_BODY}"{_SPACE}:{_SPACE}'
_LEVELS: Final = 2
"""Of arrays and objects that one expression takes whole."""


def _value(levels: int) -> str:
    """A value of at most so many levels."""
    if not levels:
        return _SCALAR
    inner = _value(levels - 1)
    items = rf"\[{_SPACE}(?:{inner}{_SPACE}(?:,{_SPACE}(?!\])|(?=\])))*+\]"
    members = rf"\{{{_SPACE}(?:{_KEY}{inner}{_SPACE}(?:,{_SPACE}(?!\}})|(?=\}})))*+\}}"
    return rf"(?:{_SCALAR}|{items}|{members})"


_ITEMS: Final = re.compile(rf"(?:{_SPACE}{_value(_LEVELS)}{_SPACE},)*+")
_MEMBERS: Final = re.compile(rf"(?:{_SPACE}{_KEY}{_value(_LEVELS)}{_SPACE},)*+")
_BLANK: Final = re.compile(_SPACE)
_PLAIN: Final = re.compile(_BODY)
_UNICODE: Final = re.compile(r"\\u([0-9a-fA-F]{4})(?:\\u([dD][c-fC-F][0-9a-fA-F]{2}))?")
_WORD: Final = re.compile(r"[-+.0-9A-Za-z]*+")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*+)(\.[0-9]++)?([eE][-+]?[0-9]++)?")
_PAIR: Final = 12
"""Characters of an escaped character outside of the first plane: so many have to be there to tell it."""
_MAX_WORD: Final = 4096
"""Characters of the longest number that is taken."""

_Wants = Literal["value", "first item", "key", "first key", "colon", "next", "end"]


class Scanner:
    """Feed it the text in pieces, and tell it the end. Both say what keeps the text from being recorded, or None."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._before = 0
        self._wants: _Wants = "value"
        self._in_string = False
        self._open: list[str] = []

    def feed(self, piece: bytes, *, last: bool = False) -> BadValue | None:
        """Take the next piece."""
        try:
            more = self._decoder.decode(piece, last)
        except UnicodeDecodeError as error:
            return BadValue("not-json", "$", f"not UTF-8: {error}")
        self._before += self._at
        self._text, self._at = self._text[self._at :] + more, 0
        while self._at < len(self._text):
            at, found = self._at, self._step(last)
            if found is not None:
                return found
            if self._at == at:
                break
        return None

    def end(self) -> BadValue | None:
        """Say what is wrong with the whole."""
        found = self.feed(b"", last=True)
        if found is None and (self._in_string or self._wants != "end"):
            found = self._bad("the text ends too early")
        return found

    def _bad(self, detail: str, code: str = "not-json") -> BadValue:
        where = f"at character {self._before + self._at}"
        return BadValue(code, "$", f"not JSON {where}: {detail}" if code == "not-json" else f"{detail} ({where})")

    def _step(self, last: bool) -> BadValue | None:
        """Go on by a token, or not at all where more of the text has to be there."""
        if self._in_string:
            return self._string(last)
        if self._open and len(self._open) <= MAX_DEPTH - _LEVELS:
            if self._wants in {"value", "first item"} and self._open[-1] == "[":
                self._take(_ITEMS, "value")
            elif self._wants in {"key", "first key"}:
                self._take(_MEMBERS, "key")
        self._at = _end(_BLANK, self._text, self._at)
        if self._at == len(self._text):
            return None
        return self._token(self._text[self._at], last)

    def _take(self, run: re.Pattern[str], wants: _Wants) -> None:
        end = _end(run, self._text, self._at)
        if end > self._at:
            self._at, self._wants = end, wants

    def _token(self, mark: str, last: bool) -> BadValue | None:
        wants = self._wants
        if mark == '"' and wants in {"value", "first item", "key", "first key"}:
            self._in_string = True
        elif mark in "[{" and wants in {"value", "first item"}:
            if len(self._open) == MAX_DEPTH:
                return self._bad(f"nested more than {MAX_DEPTH} levels deep", "too-deep")
            self._open.append(mark)
            self._wants = "first item" if mark == "[" else "first key"
        elif (mark == "]" and wants in {"first item", "next"} and self._open[-1] == "[") or (
            mark == "}" and wants in {"first key", "next"} and self._open[-1] == "{"
        ):
            self._open.pop()
            self._valued()
        elif mark == "," and wants == "next":
            self._wants = "value" if self._open[-1] == "[" else "key"
        elif mark == ":" and wants == "colon":
            self._wants = "value"
        elif wants in {"value", "first item"}:
            return self._word(last)
        else:
            return self._bad(f"{mark!r} where {_EXPECTED[wants]} belongs")
        self._at += 1
        return None

    def _valued(self) -> None:
        """A value is over."""
        self._wants = "next" if self._open else "end"

    def _string(self, last: bool) -> BadValue | None:
        self._at = _end(_PLAIN, self._text, self._at)
        left = len(self._text) - self._at
        if not left:
            return None
        mark = self._text[self._at]
        if mark == '"':
            self._at += 1
            self._in_string = False
            if self._wants in {"key", "first key"}:
                self._wants = "colon"
            else:
                self._valued()
            return None
        if mark != "\\":
            return self._bad(f"U+{ord(mark):04X} has to be escaped in a string")
        if left < _PAIR and not last:
            return None
        found = _UNICODE.match(self._text, self._at)
        if found is None:
            return self._bad("no such escape")
        code, high = int(found[1], 16), found[1][:2].lower()
        if not code:
            return self._bad("U+0000 can't be kept in Postgres: remove it or encode the bytes", "nul-character")
        if "d8" <= high <= "df" and (high >= "dc" or not found[2]):
            return self._bad("a lone surrogate is not Unicode text", "lone-surrogate")
        self._at = found.end()
        return None

    def _word(self, last: bool) -> BadValue | None:
        word = self._text[self._at : _end(_WORD, self._text, self._at)]
        if self._at + len(word) == len(self._text) and not last and len(word) < _MAX_WORD:
            return None
        number = _NUMBER.fullmatch(word)
        if word in {"NaN", "Infinity", "-Infinity"}:
            return self._bad(f"{word} is not JSON: use null or a string", "not-finite")
        if len(word) > _MAX_WORD or (number is None and word not in {"true", "false", "null"}):
            return self._bad(f"{(word or self._text[self._at])[:40]!r} is no value")
        if number is not None:
            if number[1] or number[2]:
                if abs(float(word)) == float("inf"):
                    return self._bad("the number is too large for a float", "not-finite")
            elif not INT_MIN <= int(word) <= INT_MAX:
                return self._bad(f"{word[:40]} does not fit in 64 bits: record it as a string", "int-too-large")
        self._at += len(word)
        self._valued()
        return None


_EXPECTED: Final = {
    "key": "a key",
    "first key": "a key or '}'",
    "colon": "':'",
    "next": "',' or the end of what is open",
    "end": "nothing",
}


def _end(run: re.Pattern[str], text: str, at: int) -> int:
    """Where a run that begins there is over."""
    found = run.match(text, at)
    return at if found is None else found.end()
