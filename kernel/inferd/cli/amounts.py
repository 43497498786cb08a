"""Amounts as people read and write them."""

import re

from inferd.core.resources import UNITS, size_text
from inferd.errors import suggestion

FACTORS = {
    **{unit: 1000**power for power, unit in enumerate(UNITS)},
    **{unit: 1024**power for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), start=1)},
}
SIZE_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def read_size(text: str) -> int:
    """Bytes of "4GiB", "512 MB", "1.5gb" or "4096"; the case of the unit does not matter.

    Raises:
        ValueError: It is no size, or less than a byte; units that begin alike are suggested.
    """
    form = SIZE_FORM.fullmatch(text)
    if form is None:
        raise ValueError(f'{text!r} is no size; write it like "4GiB", "512MB" or "4096"')
    number, unit = form.groups()
    factors = {name.lower(): factor for name, factor in FACTORS.items()} | {"": 1}
    if unit.lower() not in factors:
        alike = [name for name in FACTORS if name != "B" and name[0].lower() == unit[0].lower()]
        near = suggestion(unit, alike) if len(unit) > 1 else ""
        meant = " or ".join(repr(number + name) for name in ([near] if near else alike))
        hint = f"did you mean {meant}?" if meant else f"units are {', '.join(FACTORS)}"
        raise ValueError(f"{text!r} has an unknown unit {unit!r}; {hint}")
    amount = int(float(number) * factors[unit.lower()]) if "." in number else int(number) * factors[unit.lower()]
    if amount < 1:
        raise ValueError(f"{text!r} is less than a byte")
    return amount


def size(amount_bytes: float) -> str:
    """Bytes for people, as the kernel writes them: "0.9 GB", "98 MB"."""
    return size_text(amount_bytes)


def counted(count: int, noun: str) -> str:
    """A number of things: "1 token", "2 tokens"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def span(duration_s: float) -> str:
    """Seconds as "0.21 s", "12 s", "3 min", "5 h" or "2 d"."""
    for limit_s, unit_s, unit in ((10, 1, "s"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if duration_s < limit_s:
            return f"{duration_s / unit_s:.{2 if limit_s == 10 else 0}f} {unit}"  # noqa: PLR2004
    return f"{duration_s / 86_400:.0f} d"
