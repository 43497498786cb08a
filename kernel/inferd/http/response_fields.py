"""Requests of `/v1/responses`: what they ask of the kernel, and the conversation that they go on with. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from inferd.http.chat import HARMLESS
from inferd.http.fields import (
    CHATS,
    SAMPLED,
    TASKS,
    Refused,
    Table,
    check_fields,
    check_option,
    checked,
    flag,
    need,
    read_grammar,
    read_labels,
    read_most,
    read_options,
    read_tier,
    shown,
    take,
)
from inferd.http.messages import read_messages
from inferd.http.problems import Refusal
from inferd.http.streams import dumps
from inferd.http.wishes import read_wish

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.http.speech import Wish

OWN: Final = SAMPLED - {"echo", "grammar", "logprobs", "prompt_logprobs", "fit_max_tokens", "max_tokens", "n", "stop"}
KNOWN: Final = (
    OWN
    | CHATS
    | TASKS
    | HARMLESS
    | {"model", "input", "instructions", "previous_response_id", "stream", "background", "store", "text", "reasoning"}
    | {"max_output_tokens", "metadata", "priority", "service_tier", "top_logprobs", "include", "stream_options"}
    | {"chat_template_kwargs", "tools", "tool_choice", "parallel_tool_calls"}
)
REFUSED: Final[Table] = {
    "conversation": Refused("send previous_response_id, or all of the input"),
    "prompt": Refused("there are no stored prompts; send input"),
    "truncation": Refused("nothing of a conversation is cut; send less", ("disabled",)),
    "max_tool_calls": Refused("this gateway calls no tools"),
    "context_management": Refused("nothing of a conversation is cut; send less"),
}
HOSTED: Final = frozenset(
    {"web_search", "web_search_preview", "file_search", "code_interpreter", "image_generation", "tool_search"}
)
"""Tools that OpenAI runs, by their names without a date: programs offer them to every server, whatever it has."""
DATE: Final = re.compile(r"_\d{4}_\d{2}_\d{2}\Z", re.ASCII)
INCLUDES: Final = frozenset({"message.output_text.logprobs", "reasoning.encrypted_content"})
"""What may be asked for besides; of these the second says nothing, as reasoning is not encrypted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a request asks for.

    Attributes:
        model: Name of the model.
        messages: What is new: instructions apart.
        instructions: What stands before all; "" for nothing.
        previous: Id of the response that it goes on with; "" for none.
        options: Of the task.
        wish: What it says of tools and thoughts.
        stream: Whether the answer comes in pieces.
        background: Whether the task outlives this request.
        store: Whether the response can be read again.
        shown: The fields of the request that the response repeats.
    """

    model: str
    messages: Sequence[Mapping[str, Any]]
    instructions: str
    previous: str
    options: Mapping[str, Any]
    wish: Wish
    stream: bool
    background: bool
    store: bool
    shown: Mapping[str, Any]


def read_request(body: Mapping[str, Any]) -> Wanted:
    """What a request asks for.

    Raises:
        Refusal: It asks for what there is not, or in a wrong way.
    """
    check_fields(body, KNOWN, REFUSED)
    background = flag(body, "background")
    store = bool(take(body, "store", bool, "true or false", default=True))
    if background and not store:
        raise Refusal("background needs store: nobody could read the response", param="store")
    reasoning = take(body, "reasoning", dict, 'an object, as {"effort": "low"}', {})
    check_fields(reasoning, {"effort", "summary", "generate_summary"}, {})
    options = {
        **read_options(body, OWN | CHATS | TASKS),
        **read_most(body, ("max_output_tokens",), "all"),
        **read_tier(body),
        **read_labels(body),
        **_logprobs(body),
        **_variables(body),
    }
    text = take(body, "text", dict, 'an object, as {"format": {"type": "text"}}', {})
    check_fields(text, {"format"}, {"verbosity": Refused("models here have none", ("medium",))})
    form = text.get("format") or {"type": "text"}
    if (grammar := read_grammar({"response_format": form})) is not None:
        options["grammar"] = grammar
    return Wanted(
        model=need(body, "model", str, "the name of a model"),
        messages=read_input(body.get("input")),
        instructions=take(body, "instructions", str, "a text", ""),
        previous=take(body, "previous_response_id", str, "the id of a response", ""),
        options=options,
        wish=_wish(body, reasoning.get("effort")),
        stream=flag(body, "stream"),
        background=background,
        store=store,
        shown={
            **{name: body.get(name) for name in sorted(OWN & body.keys())},
            "background": background,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "metadata": body.get("metadata") or {},
            "model": body.get("model"),
            "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
            "previous_response_id": body.get("previous_response_id"),
            "reasoning": {"effort": reasoning.get("effort"), "summary": None},
            "service_tier": body.get("service_tier") or "default",
            "store": store,
            "text": {"format": form},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": offered(body),
            "truncation": "disabled",
        },
    )


def _logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    include = take(body, "include", list, "a list of texts", [])
    for each in include:
        if checked("include", each, str, "a list of texts") not in INCLUDES:
            raise Refusal(f"include has {shown(each)}; it may have {', '.join(sorted(INCLUDES))}", param="include")
    top = body.get("top_logprobs")
    if top is None and "message.output_text.logprobs" not in include:
        return {}
    check_option("logprobs", top or 0, "top_logprobs")
    return {"logprobs": top or 0}


def offered(body: Mapping[str, Any]) -> list[Any]:
    """The tools of a request, without those that a server runs itself: this one has none, and nobody has to call one.

    What is offered shows in the response's `tools`.
    """
    tools: list[Any] = take(body, "tools", list, "a list of tools", [])
    return [tool for tool in tools if not (isinstance(tool, dict) and _is_hosted(tool.get("type")))]


def _is_hosted(kind: Any) -> bool:
    """Whether a tool is one that OpenAI runs, whose name may have the date of its version behind it."""
    return isinstance(kind, str) and DATE.sub("", kind) in HOSTED


def _wish(body: Mapping[str, Any], effort: Any) -> Wish:
    """Tools are written here without the inner object that chats have."""
    nested = []
    for tool in offered(body):
        if isinstance(tool, dict) and tool.get("type") == "function" and "function" not in tool:
            function = {name: value for name, value in tool.items() if name != "type" and value is not None}
            nested.append({"type": "function", "function": function})
        else:
            nested.append(tool)
    choice = {name: body[name] for name in ("tool_choice", "parallel_tool_calls") if name in body}
    return read_wish({**choice, "tools": nested, "reasoning_effort": effort})


def _variables(body: Mapping[str, Any]) -> dict[str, Any]:
    given = {**(body.get("template_variables") or {})}
    if (said := body.get("chat_template_kwargs")) is not None:
        check_option("template_variables", said, "chat_template_kwargs")
        given.update(said)
    return {"template_variables": given} if given else {}


def read_input(said: Any) -> list[dict[str, Any]]:
    """Messages of an input: a text, or items.

    Raises:
        Refusal: It is none, or has an item of a kind that is not known.
    """
    if isinstance(said, str) and said:
        return [{"role": "user", "content": said}]
    checked("input", said, list, "a text, or a list of items")
    messages: list[dict[str, Any]] = []
    thought = ""
    for index, item in enumerate(said):
        path = f"input[{index}]"
        checked(path, item, dict, 'an object, as {"role": "user", "content": "…"}')
        kind = item.get("type", "message")
        if kind == "message":
            given = {name: value for name, value in item.items() if name != "phase"}
            message = _at(given, path)
        elif kind == "reasoning":
            thought += _thought(item, path)
            continue
        elif kind == "function_call":
            message = _at({"role": "assistant", "content": None, "tool_calls": [_call(item)]}, path)
            if messages and messages[-1]["role"] == "assistant" and not thought:
                messages[-1].setdefault("tool_calls", []).extend(message["tool_calls"])
                continue
        elif kind == "function_call_output":
            output = item.get("output")
            content = output if isinstance(output, (str, list)) else dumps(output)
            message = _at({"role": "tool", "content": content, "tool_call_id": item.get("call_id")}, path)
        else:
            raise Refusal(
                f"{path}.type is {shown(kind)}; items are message, reasoning, function_call and function_call_output",
                code="UNSUPPORTED_INPUT",
                param=f"{path}.type",
            )
        if thought and message["role"] == "assistant":
            message["reasoning_content"], thought = thought, ""
        messages.append(message)
    if not messages:
        raise Refusal("input has no message; it must have at least one", param="input")
    return messages


def _at(message: Mapping[str, Any], path: str) -> dict[str, Any]:
    try:
        return read_messages([message])[0]
    except Refusal as refusal:
        refusal.message = refusal.message.replace("messages[0]", path)
        refusal.param = refusal.param.replace("messages[0]", path)
        raise


def _call(item: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": item.get("name"), "arguments": item.get("arguments") or "{}"}
    return {"id": item.get("call_id") or item.get("id"), "type": "function", "function": function}


def _thought(item: Mapping[str, Any], path: str) -> str:
    texts = []
    for name in ("content", "summary"):
        for part in checked(f"{path}.{name}", item.get(name) or [], list, "a list of parts"):
            checked(f"{path}.{name}", part, dict, "a list of parts, each an object with a text")
            texts.append(take(part, "text", str, "a text", ""))
    return "".join(texts)
