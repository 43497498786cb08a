"""Text from elsewhere, made safe to show: a terminal obeys some characters, and a reader does not see others.

Model output, names, errors and logs may hold escape sequences that move the cursor, write to the clipboard (OSC 52) or
answer in the user's place, and marks that turn the order of what is read around (Trojan Source, CVE-2021-42574).
"""

import re

CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, and C1, whose CSI is an escape of one character
ORDERS = "\u061c\u202a-\u202e\u2066-\u2069"  # marks that change the order of what is read
PARTS = "\ud800-\udfff"  # surrogates: halves of characters, and bytes of paths that are no UTF-8
OBEYED = re.compile(f"[{CONTROLS}{ORDERS}{PARTS}]")
UNESCAPED = re.compile(f"[\x7f-\x9f{ORDERS}{PARTS}]")  # what JSON does not escape by itself


def visible(text: str) -> str:
    r"""The text with each character that a terminal would obey as "\x1b" or "\u202e"; tabs and newlines stay."""
    return OBEYED.sub(_escape, text.replace("\r\n", "\n"))


def visible_line(text: str) -> str:
    """As `visible`, on one line."""
    return visible(text).replace("\n", " ").replace("\t", " ")


def visible_json(text: str) -> str:
    """The same JSON, with all that a terminal would obey escaped."""
    return UNESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 - two digits hold as much


class VisibleStream:
    """Text that comes in pieces, made visible piece by piece: a line may end between two of them."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """What can be shown of it now."""
        text = self._held + text
        self._held = "\r" if text.endswith("\r") else ""
        return visible(text.removesuffix("\r") if self._held else text)

    def end(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return visible(held)
