"""What a JSON text differs in from an earlier one, as edits: of a value that grows, only what is new is kept.

An edit is `[at, removed, text]`: so many characters into the old text, so many are taken out and the text is put in.
Edits go from left to right and don't overlap. An append to a list, an object or a string is one edit, wherever in the
value it is; a member replaced, and the head of a list dropped, are one each. They are edits of the text and not of
the value, so that what was written is what is read, to the byte: numbers (`1.0`, `1e3`), the order of keys, escapes.
The SQL function `spliced` is `spliced` here.
"""

import json
from collections.abc import Callable, Sequence
from typing import Final

Edit = tuple[int, int, str]

MAX_DEPTH: Final = 127
"""Deltas on one full value: what a read has to put together."""
MAX_EDITS: Final = 32
BLOCK: Final = 24
"""So many characters agree by chance in few places: where they do, the texts go on alike."""
CONVINCING: Final = 2048
"""Where so many do, no better place is looked for."""
SKIPS: Final = (0, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
"""Where, after a difference, the old text is looked for in the new one."""


def edits(old: str, new: str, most: int) -> list[Edit] | None:
    """Give the edits that make `new` of `old`; None when they would hold `most` characters or more."""
    at = to = _same(old, 0, new, 0, min(len(old), len(new)))
    tail = _same_back(old, len(old), new, len(new), min(len(old), len(new)) - at)
    old_end, new_end = len(old) - tail, len(new) - tail
    found: list[Edit] = []
    spent = 0
    while at < old_end or to < new_end:
        if len(found) == MAX_EDITS - 1:
            old_at, new_at = old_end, new_end
        else:
            old_at, new_at = _meet(old, at, new, to, tail)
        spent += new_at - to
        if spent >= most:
            return None
        found.append((at, old_at - at, new[to:new_at]))
        alike = _same(old, old_at, new, new_at, min(old_end - old_at, new_end - new_at))
        at, to = old_at + alike, new_at + alike
    return found


def spliced(old: str, found: Sequence[Edit]) -> str:
    """Give the text that the edits make of `old`."""
    parts: list[str] = []
    done = 0
    for at, removed, text in found:
        parts += (old[done:at], text)
        done = at + removed
    parts.append(old[done:])
    return "".join(parts)


def dumped(found: Sequence[Edit]) -> str:
    """Give the edits as they are kept: JSON text."""
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def loaded(text: str) -> list[Edit]:
    """Read edits. Raises ValueError when they are none, or are out of order."""
    found = json.loads(text)
    if not isinstance(found, list) or len(found) > MAX_EDITS:
        raise ValueError(f"a delta is a list of at most {MAX_EDITS} edits")
    done = 0
    for edit in found:
        if not isinstance(edit, list) or [type(part) for part in edit] != [int, int, str]:
            raise ValueError("an edit is [at, removed, text]")
        if edit[0] < done or edit[1] < 0:
            raise ValueError("edits go from left to right and don't overlap")
        done = edit[0] + edit[1]
    return [(at, removed, text) for at, removed, text in found]


def _meet(old: str, at: int, new: str, to: int, tail: int) -> tuple[int, int]:
    """Where both texts go on alike after a difference: for as long as can be, for as little to put in.

    `tail`: so many characters at their ends are alike.
    """
    old_end, new_end = len(old) - tail, len(new) - tail
    best, most = (old_end, new_end), to - new_end
    if new_end - to <= BLOCK:
        return best
    for skip in SKIPS:
        start = at + skip
        if start + BLOCK > old_end:
            break
        found = new.find(old[start : start + BLOCK], to, new_end)
        if found < 0:
            continue
        back = _same_back(old, start, new, found, min(skip, found - to))
        here, there = start - back, found - back
        alike = _same(old, here, new, there, min(old_end - here, new_end - there))
        if alike - (there - to) > most:
            best, most = (here, there), alike - (there - to)
        if alike >= CONVINCING:
            break
    return best


def _same(old: str, i: int, new: str, j: int, most: int) -> int:
    """How many characters agree from there on, at most so many."""
    return _agreeing(lambda a, b: old[i + a : i + b] == new[j + a : j + b], most)


def _same_back(old: str, i: int, new: str, j: int, most: int) -> int:
    """How many characters agree before there, at most so many."""
    return _agreeing(lambda a, b: old[i - b : i - a] == new[j - b : j - a], most)


def _agreeing(agree: Callable[[int, int], bool], most: int) -> int:
    """How far from 0, at most so far, all agree: by steps that double, and halves of the one in which they differ."""
    done, step = 0, BLOCK
    while done < most:
        end = min(done + step, most)
        if not agree(done, end):
            while end - done > 1:
                middle = (done + end) // 2
                if agree(done, middle):
                    done = middle
                else:
                    end = middle
            return done
        done = end
        step *= 2
    return done
