"""Amounts as people read them."""

UNITS = ("B", "kB", "MB", "GB", "TB")


def size(amount_bytes: float) -> str:
    """Bytes in decimal units: "0.9 GB", "98 MB"."""
    amount, unit = amount_bytes, 0
    while round(amount, 1) >= 900 and unit < len(UNITS) - 1:  # noqa: PLR2004 - from 900 on the next unit reads better
        amount, unit = amount / 1000, unit + 1
    digits = 0 if unit == 0 or amount >= 10 else 1  # noqa: PLR2004 - two digits are enough
    return f"{amount:.{digits}f} {UNITS[unit]}"


def span(duration_s: float) -> str:
    """Seconds as "0.21 s", "12 s", "3 min", "5 h" or "2 d"."""
    for limit_s, unit_s, unit in ((10, 1, "s"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if duration_s < limit_s:
            return f"{duration_s / unit_s:.{2 if limit_s == 10 else 0}f} {unit}"  # noqa: PLR2004
    return f"{duration_s / 86_400:.0f} d"
