"""Programs that a model has written are run with tests, each in a process of its own, which is thrown away.

A package of its own: the kernel offers it only where `evaluate.code` is on, as whoever may call it runs what they like
within the bounds of a call.
"""

import re
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel

from inferd.plugin import function, hookimpl

FENCED = re.compile(r"```(?:[Pp]ython|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
MOST_WHY = 500  # characters


class Ran(BaseModel):
    """What came of a program: whether its tests passed, and why not."""

    passed: bool
    why: str = ""


def program_of(prompt: str, answer: str) -> str:
    """The program in an answer: its first block of code, or what goes on with the prompt where there is none."""
    block = FENCED.search(answer)
    return prompt + answer if block is None else block.group(1)


@function(timeout_s=10, memory_bytes=256 << 20, internal=True)
def evaluation_program(answer: str, tests: str, prompt: str = "") -> Ran:
    """Run a program, Python, and then its tests: it passes where nothing is raised.

    Args:
        answer: What a model wrote; of a text with blocks of code the first one counts.
        tests: Python, run behind it where its names are known.
        prompt: What the model was given, where the program goes on with that.
    """
    names: dict[str, Any] = {"__name__": "program"}
    try:
        exec(compile(program_of(prompt, answer), "program", "exec"), names)  # noqa: S102 # nosec B102 - what it is for
        exec(compile(tests, "tests", "exec"), names)  # noqa: S102 # nosec B102 - likewise
    except MemoryError:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a program raises, it has not passed
        return Ran(passed=False, why="".join(traceback.format_exception_only(error)).strip()[:MOST_WHY])
    return Ran(passed=True)


@hookimpl
def inferd_functions() -> Iterable[Callable[..., Any]]:
    """The function by which programs are run."""
    return (evaluation_program,)
