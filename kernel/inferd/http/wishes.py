"""What requests say of tools, and of how much a model is to think."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from inferd.http.fields import checked, take
from inferd.http.problems import Refusal
from inferd.http.speech import Wish

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
"""Names that tools may have: OpenAI's, and those with dots and slashes that gateways of tools make."""
FIELDS: Final = frozenset({"tools", "tool_choice", "parallel_tool_calls", "reasoning_effort"})
_CHOICES: Final = ("auto", "none", "required")


def read_wish(body: Mapping[str, Any]) -> Wish:
    """What a request says of tools and thoughts.

    Raises:
        Refusal: Not as it must be.
    """
    tools = take(body, "tools", list, "a list of tools", [])
    choice = take(body, "tool_choice", (str, dict), '"auto", "none", "required" or an object that names a tool', "auto")
    choice = "required" if choice == "any" else choice  # as Mistral calls it
    if isinstance(choice, str) and choice not in _CHOICES:
        raise Refusal(
            f'tool_choice is {choice!r}; it must be "auto", "none", "required" or an object', param="tool_choice"
        )
    return Wish(
        tools=tuple(read_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)),
        choice=choice,
        parallel=take(body, "parallel_tool_calls", bool, "true or false", default=True),
        effort=take(body, "reasoning_effort", str, "a word, as low"),
    )


def read_tool(tool: Any, path: str) -> Mapping[str, Any]:
    """A tool that is offered.

    Raises:
        Refusal: It is no function, or not as it must be.
    """
    checked(path, tool, dict, 'an object, as {"type": "function", "function": {"name": "…"}}')
    if tool.get("type", "function") != "function":
        raise Refusal(f"{path}.type is {tool['type']!r}; models here call functions alone", param=f"{path}.type")
    function = checked(f"{path}.function", tool.get("function"), dict, "an object with a name and parameters")
    name = checked(f"{path}.function.name", function.get("name"), str, "the name of a function")
    if not NAME.fullmatch(name):
        where = f"{path}.function.name"
        raise Refusal(f"{where} is {name[:80]!r}; it must be 1 to 128 letters, digits and _ - . : /", param=where)
    parameters = function.get("parameters")
    if parameters is not None:
        checked(f"{path}.function.parameters", parameters, dict, "a JSON schema")
    return {"type": "function", "function": function}
