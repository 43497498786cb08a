"""Pipelines as people write them, in TOML or JSON, made into what the wire has."""

from __future__ import annotations

import json
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.json_format import ParseDict, ParseError

from inferd_api.v1.function_pb2 import CallInput
from inferd_api.v1.pipeline_pb2 import Pipeline, PipelineCase, PipelineMap, PipelineRetry, PipelineStep
from inferd_api.v1.sampling_pb2 import Grammar, SamplingParams
from inferd_api.v1.task_pb2 import ChatMessage, ChatPrompt, EmbeddingParams, Pooling, TaskSpec
from inferd_client.claims import MOST_SECONDS
from inferd_client.functions import FUNCTION
from inferd_client.options import bounded
from inferd_client.values import with_texts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from os import PathLike

WORKS: Final = ("call", "generate", "embed", "branch")
STEP: Final = ("name", *WORKS, "map", "when", "retry", "timeout_s")
SAMPLING: Final = tuple(field.name for field in SamplingParams.DESCRIPTOR.fields if field.name != "grammar")
GENERATE: Final = ("model", "adapter", "prompt", "system", "user", "messages", "schema", "regex", "choice", *SAMPLING)
POOLINGS: Final = tuple(name.removeprefix("POOLING_").lower() for name in Pooling.keys()[1:])


@with_texts
def declare(declared: Mapping[str, Any]) -> Pipeline:
    """A pipeline of what TOML or JSON says of it; see docs/pipelines.md.

    Raises:
        ValueError: It has what no pipeline has, or lacks what it must have; the message tells where.
    """
    _check(declared, ("name", "output", "steps"), "the pipeline")
    steps = declared.get("steps")
    if not isinstance(steps, list) or not steps:
        raise ValueError("the pipeline has no steps; write them as [[steps]]")
    return Pipeline(
        name=_text(declared, "name", "the pipeline"),
        output=_text(declared, "output", "the pipeline"),
        steps=[_step(each, f"steps[{at}]") for at, each in enumerate(steps)],
    )


def read_declaration(path: str | PathLike[str]) -> Pipeline:
    """A pipeline from a file: JSON where its name ends so, else TOML.

    Raises:
        OSError: It cannot be read.
        ValueError: It is neither, or as `declare`.
    """
    text = Path(path).read_text(encoding="utf-8")
    return declare(json.loads(text) if str(path).endswith(".json") else tomllib.loads(text))


def _check(given: Any, known: Collection[str], what: str) -> None:
    if not isinstance(given, dict):
        raise ValueError(f"{what} is {type(given).__name__}; it must be a table")  # noqa: TRY004 - of a text that was read
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"{what} has {name!r}, which there is not; {hint}")


def _text(given: Mapping[str, Any], name: str, what: str, *, needed: bool = False) -> str:
    value = given.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{what}.{name} is {type(value).__name__}; it must be a text")  # noqa: TRY004 - as above
    if needed and not value:
        raise ValueError(f"{what} has no {name}; give it")
    return value


def _step(given: Any, at: str) -> PipelineStep:
    _check(given, STEP, at)
    at = f"{at} ({given['name']})" if isinstance(given.get("name"), str) else at
    works = [name for name in WORKS if name in given]
    if len(works) != 1:
        raise ValueError(f"{at} has {' and '.join(works) or 'nothing to do'}; give one of {', '.join(WORKS)}")
    step = PipelineStep(name=_text(given, "name", at, needed=True), when=_text(given, "when", at))
    work, what = given[works[0]], f"{at}.{works[0]}"
    if works[0] == "branch":
        step.branch.extend(_branch(work, what))
    else:
        step.task.CopyFrom({"call": _call, "generate": _generate, "embed": _embed}[works[0]](work, what))
    if "map" in given:
        step.map.CopyFrom(_map(given["map"], f"{at}.map"))
    if "retry" in given:
        retry = given["retry"]
        step.retry.CopyFrom(_message(PipelineRetry(), {"count": retry} if _whole(retry) else retry, f"{at}.retry"))
    if "timeout_s" in given:
        seconds = given["timeout_s"]
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
            raise ValueError(f"{at}.timeout_s is {seconds!r}; it must be a number above 0")
        step.timeout.FromNanoseconds(round(min(float(seconds), MOST_SECONDS) * 1e9))
    return step


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _message(message: Any, given: Any, at: str) -> Any:
    """A message of a table that has its fields."""
    _check(given, [field.name for field in message.DESCRIPTOR.fields], at)
    try:
        return ParseDict(given, message)
    except ParseError as error:
        raise ValueError(f"{at}: {error}") from None


def _map(given: Any, at: str) -> PipelineMap:
    return PipelineMap(over=given) if isinstance(given, str) else _message(PipelineMap(), given, at)


def _branch(given: Any, at: str) -> list[PipelineCase]:
    if not isinstance(given, list):
        what = f"{at} is {type(given).__name__}; it must be a list of cases, like {{ when = …, value = … }}"
        raise ValueError(what)  # noqa: TRY004 - as above
    return [_message(PipelineCase(), each, f"{at}[{number}]") for number, each in enumerate(given)]


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def _call(given: Any, at: str) -> TaskSpec:
    _check(given, ("function", "version", "input"), at)
    version = given.get("version", 0)
    if not _whole(version) or version < 0:
        raise ValueError(f"{at}.version is {version!r}; it must be a whole number from 0")
    return TaskSpec(
        model=FUNCTION + _text(given, "function", at, needed=True),
        call=CallInput(version=version, input=_json(given.get("input", {}))),
    )


def _generate(given: Any, at: str) -> TaskSpec:
    _check(given, GENERATE, at)
    spec = TaskSpec(model=_text(given, "model", at, needed=True), adapter=_text(given, "adapter", at))
    ways = [name for name in ("prompt", "user", "messages") if name in given]
    if len(ways) != 1 or ("system" in given and ways != ["user"]):
        raise ValueError(f"{at} must have one of prompt, user (with system beside it if you like) and messages")
    if ways == ["prompt"]:
        spec.prompt = _text(given, "prompt", at, needed=True)
    elif ways == ["user"]:
        system = _text(given, "system", at)
        said = ([ChatMessage(role="system", content=system)] if system else []) + [
            ChatMessage(role="user", content=_text(given, "user", at, needed=True))
        ]
        spec.chat.CopyFrom(ChatPrompt(messages=said))
    else:
        spec.chat.CopyFrom(_message(ChatPrompt(), {"messages": given["messages"]}, at))
    chosen: Any = bounded({name: given[name] for name in SAMPLING if name in given})  # type: ignore[arg-type] # checked by the next
    spec.sampling.CopyFrom(_message(SamplingParams(), dict(chosen), at))
    kinds = [name for name in ("schema", "regex", "choice") if name in given]
    if len(kinds) > 1:
        raise ValueError(f"{at} has {' and '.join(kinds)}; give one of them")
    if kinds == ["schema"]:
        spec.sampling.grammar.CopyFrom(Grammar(json_schema=_json(given["schema"])))
    elif kinds == ["regex"]:
        spec.sampling.grammar.CopyFrom(Grammar(regex=_text(given, "regex", at)))
    elif kinds:
        spec.sampling.grammar.CopyFrom(_message(Grammar(), {"choice": {"texts": given["choice"]}}, at))
    return spec


def _embed(given: Any, at: str) -> TaskSpec:
    _check(given, ("model", "text", "query", "pooling", "normalize"), at)
    pooling = _text(given, "pooling", at)
    if pooling and pooling not in POOLINGS:
        raise ValueError(f"{at}.pooling is {pooling!r}; it must be one of {', '.join(POOLINGS)}")
    embedding = EmbeddingParams(
        pooling=Pooling.Value(f"POOLING_{pooling.upper()}") if pooling else Pooling.POOLING_UNSPECIFIED,
        normalize=given.get("normalize"),
        query=_text(given, "query", at),
    )
    return TaskSpec(
        model=_text(given, "model", at, needed=True), prompt=_text(given, "text", at, needed=True), embedding=embedding
    )
