"""Kubernetes quantities: compared, never recomputed."""

import re
from decimal import Decimal
from typing import Final

_FORM: Final = re.compile(r"([+-]?[0-9.]+)(?:([eE][+-]?[0-9]+)|([KMGTPE]i|[numkMGTPE]))?")
_SUFFIX: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
    "Pi": Decimal(2) ** 50,
    "Ei": Decimal(2) ** 60,
}


def value(quantity: str) -> Decimal:
    """The number a quantity stands for. ValueError when it is none."""
    found = _FORM.fullmatch(quantity.strip())
    if not found:
        raise ValueError(f"{quantity!r} is no quantity")
    return Decimal(found[1] + (found[2] or "")) * _SUFFIX.get(found[3] or "", Decimal(1))


def smaller(first: str, second: str) -> str:
    return first if value(first) <= value(second) else second


def larger(first: str, second: str) -> str:
    return first if value(first) >= value(second) else second
