"""What a regular expression may cost: an automaton's states, so to say, counted repetitions multiplied out."""

import re
from typing import Final

from milepost_operator.domain.errors import InvalidInputError

MAX_LENGTH: Final = 1_000
MAX_WEIGHT: Final = 5_000
_CLASS: Final = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_NAMED: Final = re.compile(r"\\[pPxuU]\{[^}]*\}")
_BIG: Final = re.compile(r"\\[wWdDsSpP]|\[\^|^\.$")
"""Classes of thousands of characters, which make a big automaton."""
_BIG_ATOM: Final = 8
_COUNT: Final = re.compile(r"\{\s*([0-9]*)\s*(?:,\s*([0-9]*)\s*)?\}")
_VERBOSE: Final = re.compile(r"\(\?[a-zA-Z]*x")


def weight(pattern: str) -> int:
    r"""At least 1; `(a{10}b){5}` weighs 55, and a class such as `\w` 8.

    Linear engines take up to so many steps for each character.
    """
    stack, last, at = [0], 0, 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "(":
            stack.append(0)
            last, at = 0, at + 1
            continue
        if letter == ")" and len(stack) > 1:
            last, at = stack.pop(), at + 1
        elif (count := _COUNT.match(pattern, at)) is not None:
            times = int(count[2] or count[1] or 1)
            stack[-1] += last * (max(times, 1) - 1)
            last, at = last * max(times, 1), count.end()
            continue
        else:
            atom = _CLASS.match(pattern, at) or _NAMED.match(pattern, at)
            end = atom.end() if atom else at + (2 if letter == "\\" else 1)
            last, at = _BIG_ATOM if _BIG.search(pattern[at:end]) else 1, end
        stack[-1] += last
    return max(sum(stack), 1)


def checked_weight(pattern: str, at: str) -> int:
    """The weight of a pattern that is small enough. Raises InvalidInputError with the place `at`."""
    if len(pattern) > MAX_LENGTH:
        raise InvalidInputError("invalid-schema", f"a pattern may have {MAX_LENGTH} characters", at)
    if _VERBOSE.search(pattern):
        raise InvalidInputError("invalid-schema", "the flag x is not supported: write the pattern without comments", at)
    found = weight(pattern)
    if found > MAX_WEIGHT:
        message = f"the repetitions of this pattern multiply to {found} and {MAX_WEIGHT} is the most: make them smaller"
        raise InvalidInputError("invalid-schema", message, at)
    return found
