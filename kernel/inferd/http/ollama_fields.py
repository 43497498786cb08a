"""Requests in Ollama's words: what they ask of the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from inferd.http.fields import (
    SAMPLED,
    Refused,
    Table,
    check_fields,
    checked,
    flag,
    read_most,
    read_options,
    shown,
    take,
)
from inferd.http.messages import read_messages
from inferd.http.problems import Refusal
from inferd.http.streams import dumps
from inferd_client import Grammar

if TYPE_CHECKING:
    from collections.abc import Mapping

RENAMED: Final = {"repeat_penalty": "repetition_penalty"}
"""Options of Ollama's that the kernel calls otherwise."""
LAST: Final = "repeat_last_n"
"""How many tokens the penalties look at: -1 is all there are, 0 none."""
MIROSTAT: Final = "mirostat"
"""Which of its versions chooses; 0 is none."""
_TAU: Final = "mirostat_tau"
_NO_PENALTIES: Final = {"repetition_penalty": 1, "frequency_penalty": 0, "presence_penalty": 0}
OWN: Final = SAMPLED - {"echo", "grammar", "logprobs", "prompt_logprobs", "fit_max_tokens", "max_tokens", "n"}
OF_LOADING: Final = frozenset(
    {"num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap", "use_mlock", "low_vram", "numa"}
    | {"num_keep", "f16_kv", "vocab_only"}
)
"""How a model is loaded is said where it is created; what a task needs, the kernel gives it."""
REFUSED: Final[Table] = {
    "tfs_z": Refused("it is not offered", (1, 0)),
    "penalize_newline": Refused("penalties know no line feeds", (True, False)),
}
LATEST: Final = ":latest"


def read_model(body: Mapping[str, Any]) -> str:
    """The name of a model, in either of the fields that have it.

    Raises:
        Refusal: There is none.
    """
    name = body.get("model") or body.get("name")
    if not name:
        raise Refusal("model is missing; it must be the name of a model", param="model")
    return str(checked("model", name, str, "the name of a model")).removesuffix(LATEST)


def read_task(body: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a task.

    Raises:
        Refusal: One is wrong, or not offered.
    """
    given = take(body, "options", dict, "an object of options", {})
    check_fields(given, OWN | RENAMED.keys() | OF_LOADING | {"num_predict", LAST, MIROSTAT}, REFUSED)
    named = {RENAMED.get(name, name): value for name, value in given.items()}
    if (last := take(given, LAST, int, "a whole number from -1 on")) is not None:
        named |= _NO_PENALTIES if last == 0 else {"penalty_window": 0 if last == -1 else last}
    version = take(given, MIROSTAT, int, "0 or 2", 0)
    if version not in (0, 2):
        raise Refusal(f"{MIROSTAT} is {version}; it must be 0 or 2", param=MIROSTAT)
    if version:
        named.setdefault(_TAU, 5.0)
    else:
        named.pop(_TAU, None)
    most = named.get("num_predict")
    endless = most is None or (isinstance(most, int) and most < 0)
    options = {**read_options(named, OWN), **read_most({} if endless else named, ("num_predict",), "all")}
    if (form := body.get("format")) not in (None, ""):
        options["grammar"] = _grammar(form)
    thinks = body.get("think")
    if thinks is not None:
        checked("think", thinks, (bool, str), "true, false or a word as low")
        effort = {"reasoning_effort": thinks} if isinstance(thinks, str) else {}
        options["template_variables"] = {"enable_thinking": bool(thinks), **effort}
    return options


def _grammar(form: Any) -> Grammar:
    if form == "json":
        return Grammar(json_schema='{"type":"object"}')
    if isinstance(form, dict):
        return Grammar(json_schema=dumps(form))
    raise Refusal(f'format is {shown(form)}; it must be "json" or a JSON schema', param="format")


def read_talk(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a chat; none where a model is only to be loaded.

    Raises:
        Refusal: One is not as it must be.
    """
    said = take(body, "messages", list, "a list of messages", [])
    messages = []
    for index, message in enumerate(said):
        checked(f"messages[{index}]", message, dict, 'an object, as {"role": "user", "content": "…"}')
        given = {name: value for name, value in message.items() if value not in (None, [], "")}
        given.setdefault("content", "")
        images, thought = given.pop("images", []), given.pop("thinking", None)
        if (tool := given.pop("tool_name", None)) is not None:
            given["name"] = tool
        if thought is not None:
            given["reasoning_content"] = thought
        messages.append(_with_images(given, images, f"messages[{index}]"))
    return read_messages(messages) if messages else []


def read_prompt(body: Mapping[str, Any]) -> str | list[dict[str, Any]]:
    """What is to be continued: messages for the model's template, or a text as it stands; "" for nothing.

    Raises:
        Refusal: It is not as it must be.
    """
    prompt = take(body, "prompt", str, "a text", "")
    system = take(body, "system", str, "a text", "")
    if flag(body, "raw"):
        return str(prompt)
    if not prompt:
        return ""
    before = [{"role": "system", "content": system}] if system else []
    user = _with_images({"role": "user", "content": prompt}, body.get("images") or [], "")
    return read_messages([*before, user])


def _with_images(message: dict[str, Any], images: Any, path: str) -> dict[str, Any]:
    if not images:
        return message
    where = f"{path}.images" if path else "images"
    checked(where, images, list, "a list of images in base64")
    given = [checked(where, each, str, "a list of images in base64") for each in images]
    urls = [each if each.startswith("data:") else f"data:image/*;base64,{each}" for each in given]
    parts = [{"type": "image_url", "image_url": url} for url in urls]
    return {**message, "content": [*parts, {"type": "text", "text": message["content"]}]}  # in Ollama's order
