"""Texts that were damaged on their way, mended."""

import re
from typing import Literal

from inferd.plugin import function
from inferd_functions.libraries import library

ftfy = library("ftfy")
SPACES = re.compile(r"[^\S\n]+")
LINES = re.compile(r" ?\n[ \n]*\n ?")


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
    mended: str = ftfy.fix_text(text, normalization=unicode, uncurl_quotes=quotes == "straight")
    if spaces == "keep":
        return mended
    lines = (line.strip() for line in SPACES.sub(" ", mended).split("\n"))
    return LINES.sub("\n\n", "\n".join(lines)).strip()
