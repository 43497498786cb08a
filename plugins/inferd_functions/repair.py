"""Texts that were damaged on their way, mended."""

import re
from typing import Any, Literal

from inferd.plugin import function
from inferd_functions.libraries import library

ftfy = library("ftfy")
SPACES = re.compile(r"[^\S\n]+")
LINES = re.compile(r" ?\n[ \n]*\n ?")
LINE = re.compile(r"[^\n]*\n|[^\n]+")
SUSPECT = re.compile(r"[^\n\t\x20-%\x27-\x7e]")  # what ftfy may mend: anything but plain ASCII, and entities


@function(timeout_s=60)
def clean(
    text: str,
    *,
    unicode: Literal["NFC", "NFKC"] = "NFC",
    quotes: Literal["keep", "straight"] = "keep",
    spaces: Literal["keep", "collapse"] = "keep",
) -> str:
    """Mend a text: letters that were decoded wrongly ("schÃ¶n"), entities of HTML, control characters, ligatures.

    Args:
        text: What is mended.
        unicode: The normal form that it gets; NFKC makes letters of letters in circles and the like.
        quotes: Whether typographic quotation marks become straight ones.
        spaces: Whether runs of white space become one space, and empty lines one.
    """
    mended = _mend(text, normalization=unicode, uncurl_quotes=quotes == "straight")
    if spaces == "keep":
        return mended
    lines = (line.strip() for line in SPACES.sub(" ", mended).split("\n"))
    return LINES.sub("\n\n", "\n".join(lines)).strip()


def _mend(text: str, **how: Any) -> str:
    """What ftfy makes of a text: line by line as it does itself, but for lines in which there is nothing to mend.

    It takes long to find that out of plain ASCII. Of entities it is to know whether a line before has had a tag.
    """
    if SUSPECT.search(text) is None:
        return text
    mended: list[str] = []
    unescape: str | bool = "auto"
    for line in LINE.findall(text):
        mended.append(ftfy.fix_text(line, unescape_html=unescape, **how) if SUSPECT.search(line) else line)
        if "<" in line:  # of a long line ftfy itself sees where: it looks at parts of it
            unescape = False
    return "".join(mended)
