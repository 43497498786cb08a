"""Keywords of the clients' methods, and the check that a keyword is one of them."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict, TypeVar

from inferd_client.claims import LeaseOptions
from inferd_client.values import OPTIONS, check_values

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from inferd_api.v1.explanation_pb2 import ExampleSource, TextSpan
    from inferd_api.v1.sampling_pb2 import Grammar
    from inferd_api.v1.task_pb2 import EmbeddingParams
    from inferd_client.claims import Class
    from inferd_client.holding import LeaseRef

DEFAULT_MAX_TOKENS: Final = 512
"""Most tokens of an output where `max_tokens` is not given."""

MaxTokens: TypeAlias = int | Literal["all"]
"""Most tokens of an output; "all" is what the model's context and the kernel hold."""


class DefaultLimitWarning(UserWarning):
    """An output ended because it has as many tokens as the client asks for when it is not told how many."""


class ChatOptions(TypedDict, total=False):
    """Keywords that a conversation has; None is the same as leaving it out.

    They are as in `inferd.v1.ChatPrompt`. `tools` are those of `tools_json` as objects, and `template_variables` what
    the model's chat template sees besides, for example `{"enable_thinking": False}`.
    """

    tools: Sequence[Mapping[str, Any]] | None
    tools_json: str
    template_variables: Mapping[str, Any] | None
    add_generation_prompt: bool | None
    continue_final_message: bool
    parse_control_tokens: bool


class TaskOptions(ChatOptions, total=False):
    """Keywords that every task has; None is the same as leaving it out.

    `timeout_s` is the deadline of the task in seconds; `lease` is the one that it runs under; the others are as in
    `inferd.v1.RunTaskRequest` and `TaskSpec`.
    """

    prefix_cache: bool | None
    adapter: str
    labels: Mapping[str, str]
    priority: Class | None
    lease: LeaseRef | None
    request_id: str
    timeout_s: float | None


class InferOptions(TypedDict, total=False):
    """Keywords of tasks of tensors; None is the same as leaving it out. They are as in `TaskOptions`."""

    labels: Mapping[str, str]
    priority: Class | None
    lease: LeaseRef | None
    request_id: str
    timeout_s: float | None
    detach_on_disconnect: bool


class RunOptions(TaskOptions, total=False):
    """Keywords of `run`, `stream` and `generate`; None is the same as leaving it out.

    Those of sampling are the fields of `inferd.v1.SamplingParams`, where their ranges and defaults are stated.
    `max_tokens` is 512 unless it is given, or what fits where that is less; "all" asks for as many as there can be.
    `output_interval_s` is `output_interval` in seconds, by default 0, but 10 for `generate`.
    """

    max_tokens: MaxTokens | None
    fit_max_tokens: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None
    stop: Sequence[str]
    ignore_eos: bool | None
    min_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    penalty_window: int | None
    dry_multiplier: float | None
    dry_base: float | None
    dry_allowed_length: int | None
    dry_sequence_breakers: Sequence[str]
    dry_window: int | None
    top_n_sigma: float | None
    typical_p: float | None
    xtc_probability: float | None
    xtc_threshold: float | None
    mirostat_tau: float | None
    mirostat_eta: float | None
    logit_bias: Mapping[int, float]
    bad_words: Sequence[str]
    n: int | None
    logprobs: int | None
    prompt_logprobs: int | None
    prompt_logprobs_last: int | None
    prompt_entropies: bool | None
    min_tokens: int | None
    stop_token_ids: Sequence[int]
    echo: bool | None
    grammar: Grammar | None
    embedding: EmbeddingParams | None
    detach_on_disconnect: bool
    output_interval_s: float | None


class ExplainOptions(TypedDict, total=False):
    """Keywords of explanations; None is the same as leaving it out.

    `method` is "leave-one-out", "shapley", "gradients", "attention" or "examples", `unit` "word", "sentence" or
    "message". `spans` are the parts of a prompt to explain by, as pairs of its first byte and the one behind its last;
    of a conversation `TextSpan` messages. `examples` says in which index or dataset the nearest ones are looked for, a
    message `ExampleSource` of `inferd_api.v1.explanation_pb2`. `timeout_s` is the deadline of all. The others are as in
    `inferd.v1.ExplanationSpec`, which states their defaults.
    """

    answer: str | None
    max_answer_tokens: int | None
    against: str | None
    method: str | None
    unit: str | None
    spans: Sequence[TextSpan | tuple[int, int]]
    samples: int | None
    seed: int | None
    random_orders: int | None
    alternatives: int | None
    steps: int | None
    examples: ExampleSource | None
    adapter: str
    priority: Class | None
    lease: LeaseRef | None
    timeout_s: float | None


GRAMMARS: Final[Mapping[str, str]] = {
    "json_schema": "json_schema='{…}'",
    "response_format": "json_schema='{…}'",
    "schema": "json_schema='{…}'",
    "regex": "regex='…'",
    "lark": "lark='…'",
    "choice": "choice=Choice(texts=['…'])",
    "choices": "choice=Choice(texts=['…'])",
}
"""How a grammar is written, by names under which it is looked for."""

OTHER_NAMES: Final[Mapping[str, str]] = dict.fromkeys(("ttl", "ttl_s", "expire_time"), "timeout_s")
"""Options by the names that the wire has for what they say."""


def bounded(options: RunOptions) -> RunOptions:
    """The options, with the client's own bound of the output where there is none."""
    if options.get("max_tokens") is not None or options.get("embedding") is not None:
        return options
    return {**options, "max_tokens": max(DEFAULT_MAX_TOKENS, options.get("min_tokens") or 0), "fit_max_tokens": True}


def check_names(given: Iterable[str], known: Collection[str], what: str) -> None:
    """Refuse names that are none of those that are known.

    Raises:
        TypeError: One is not; the message has the nearest known one.
    """
    for name in given:
        if name not in known:
            raise TypeError(f"{what} has no {name!r}; {_hint(name, known)}")


def _hint(name: str, known: Collection[str]) -> str:
    if name in GRAMMARS and "grammar" in known:
        return f"write grammar=Grammar({GRAMMARS[name]}), with Grammar from inferd_client"
    if OTHER_NAMES.get(name) in known:
        return f"did you mean {OTHER_NAMES[name]!r}?"
    near = get_close_matches(name, known, n=1) or [k for k in sorted(known) if k.startswith(name)]
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"


KINDS: Final[Mapping[str, type]] = {
    kind.__name__: kind for kind in (ChatOptions, TaskOptions, InferOptions, RunOptions, ExplainOptions, LeaseOptions)
}
Kind = TypeVar("Kind", bound=type)


def strict(kind: Kind) -> Kind:
    """A class whose public methods refuse wrong names and values at once, not when their result is read."""
    for name, method in list(vars(kind).items()):
        if inspect.isfunction(method) and (name == "__init__" or not name.startswith("_")):
            setattr(kind, name, _checked(method))
    return kind


def _checked(method: Callable[..., Any]) -> Callable[..., Any]:
    known = _keywords(method)
    what = f"{method.__name__.strip('_')}()"
    parameters = list(inspect.signature(method).parameters.values())[1:]  # the first is self
    places = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    several = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), None)
    opened = method.__name__ not in ("__init__", "close")
    needed = {p.name for p in parameters if p.default is inspect.Parameter.empty and p.name in OPTIONS}

    @wraps(method)
    def call(*args: Any, **keywords: Any) -> Any:
        if not keywords.keys() <= known:
            check_names(keywords, known, what)
        given = {**dict(zip(places, args[1:], strict=False)), **keywords}
        for name in needed & given.keys():
            OPTIONS[name].check(name, given[name])
        check_values(given)
        if several:
            OPTIONS[several].check(several, args[1 + len(places) :])
        if opened and args[0] is not None:
            args[0]._check_open()  # noqa: SLF001 - of its own class
        return method(*args, **keywords)

    return call


def _keywords(method: Callable[..., Any]) -> frozenset[str]:
    """What can be given to a method by name: what is unpacked from a `TypedDict` too."""
    names: set[str] = set()
    for parameter in list(inspect.signature(method).parameters.values())[1:]:  # the first is self
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            names |= KINDS[str(parameter.annotation).removeprefix("Unpack[").removesuffix("]")].__annotations__.keys()
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            names.add(parameter.name)
    return frozenset(names)
