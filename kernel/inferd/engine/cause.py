"""What an exception of foreign code says, in one line for a client. The traceback goes to the log."""

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any, Final

from inferd.errors import words_of

OVER_LIMITS: Final = ("too many", "too big", "; max is")
"""How llguidance's errors say that a limit of a grammar was hit."""

_LONGEST = 1000
_MACHINERY = ("<", str(Path(__file__).parents[1]), str(Path(importlib.__file__).parent))


def last_line(error: BaseException) -> str:
    """The last line of the exception's traceback, for example "ValueError: token 9 is outside the vocabulary"."""
    line = traceback.format_exception_only(error)[-1].strip()
    return line.replace(str(error), words_of(error), 1)[:_LONGEST] if isinstance(error, OSError) else line[:_LONGEST]


def placed_line(error: BaseException, owner: Any) -> str:
    """As `last_line`, with the file and line where the error left the code of `owner`, an object of a plugin.

    That is the last line in the package of its class; where there is none, the last one that is not ours.
    """
    module = sys.modules.get(type(owner).__module__)
    file = getattr(module, "__file__", None) or ""
    package, _, rest = type(owner).__module__.partition(".")
    root = getattr(sys.modules.get(package), "__file__", None) or file if rest else file
    own = file if package == "inferd" or root == file else str(Path(root).parent)
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if own and frame.filename.startswith(own)]
    others = [frame for frame in frames if not frame.filename.startswith(_MACHINERY)]
    line = last_line(error)
    for frame in (theirs or others)[-1:]:
        return f"{line} ({frame.filename}:{frame.lineno})"
    return line
