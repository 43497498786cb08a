"""A probe: what a new version of a model has to answer, and how, before it takes any task of a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from inferd.core.ids import Tenant
from inferd.core.task import FinishReason
from inferd.errors import InferdError, ProbeFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inferd.core.demand import Demand
    from inferd.core.version import Version

PROBE_TENANT = Tenant("inferd:probe")
"""Whose tasks those of probes are: no client's tenant has a colon, and no quota is about it."""
SHOWN = 200  # characters of an answer that an error tells


class Pattern(Protocol):
    """A pattern that takes a time that is linear in the text."""

    @property
    def pattern(self) -> str:
        """As it was given."""

    def search(self, text: str) -> object | None:
        """Where it is found first; None where it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePrompt:
    """What is asked, and the properties that the answer must have.

    Attributes:
        work: What is asked, for the worker: never looked into.
        demand: What policy has to know of it.
        contains: Texts that must be in the answer.
        pattern: It must be found in the answer.
        not_empty: The answer must have something but white space.
        reason: Why the answer must have ended.
        first_s: Most time until the first token, in seconds.
        whole_s: Most time until the end of the answer, in seconds.
        agreement: Fraction of tokens that must be those of `reference`; 0 for any.
        reference: The answer of the version that serves.
    """

    work: object
    demand: Demand
    contains: tuple[str, ...] = ()
    pattern: Pattern | None = None
    not_empty: bool = False
    reason: FinishReason | None = None
    first_s: float | None = None
    whole_s: float | None = None
    agreement: float = 0.0
    reference: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """What a new version has to answer.

    Attributes:
        prompts: One at least.
        compared: Number of the version that gave the references; None where none is asked for.
    """

    prompts: tuple[ProbePrompt, ...]
    compared: int | None = None

    @property
    def compares(self) -> bool:
        """Whether the version that serves has to answer some of it first."""
        return any(prompt.agreement for prompt in self.prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswer:
    """How a version answered a prompt.

    Attributes:
        text: The answer.
        token_ids: Its tokens.
        reason: Why it ended.
        first_s: How long the first token took, in seconds; None without any.
        whole_s: How long all of it took, in seconds.
        error: Why there is no answer, or not all of one; None where there is.
    """

    text: str = ""
    token_ids: Sequence[int] = ()
    reason: FinishReason = FinishReason.UNSPECIFIED
    first_s: float | None = None
    whole_s: float = 0.0
    error: InferdError | None = None


@dataclass(frozen=True, slots=True)
class Miss:
    """A property that an answer has not: its name in `inferd.v1.ProbePrompt`, what was wanted and what was found."""

    name: str
    wanted: str
    found: str


def agreement(answer: Sequence[int], reference: Sequence[int]) -> float:
    """The fraction of tokens that are the same, up to the first that is another; 1 for two empty answers.

    Behind the first other token both go on from other texts, so that what is the same there says nothing.
    """
    longest = max(len(answer), len(reference))
    same = next((n for n, (a, b) in enumerate(zip(answer, reference, strict=False)) if a != b), None)
    return 1.0 if not longest else (min(len(answer), len(reference)) if same is None else same) / longest


def find_miss(prompt: ProbePrompt, answer: ProbeAnswer) -> Miss | None:
    """The first property that an answer has not; None where it has all."""
    if answer.error is not None:
        return Miss("answer", "an answer", f"{answer.error.reason}: {answer.error.message}")
    return next(_misses(prompt, answer), None)


def _misses(prompt: ProbePrompt, answer: ProbeAnswer) -> Iterator[Miss]:
    said = repr(answer.text[:SHOWN]) + ("…" if len(answer.text) > SHOWN else "")
    if prompt.not_empty and not answer.text.strip():
        yield Miss("not_empty", "more than white space", said)
    for text in prompt.contains:
        if text not in answer.text:
            yield Miss("contains", repr(text[:SHOWN]), said)
    if prompt.pattern is not None and prompt.pattern.search(answer.text) is None:
        yield Miss("pattern", prompt.pattern.pattern[:SHOWN], said)
    if prompt.reason is not None and answer.reason is not prompt.reason:
        yield Miss("finish_reason", prompt.reason.name, answer.reason.name)
    if prompt.first_s is not None and (answer.first_s is None or answer.first_s > prompt.first_s):
        found = "no token" if answer.first_s is None else _ms(answer.first_s)
        yield Miss("most_first_token", f"at most {_ms(prompt.first_s)}", found)
    if prompt.whole_s is not None and answer.whole_s > prompt.whole_s:
        yield Miss("most_time", f"at most {_ms(prompt.whole_s)}", _ms(answer.whole_s))
    if prompt.agreement and (found_share := agreement(answer.token_ids, prompt.reference)) < prompt.agreement:
        tokens = f"of {max(len(answer.token_ids), len(prompt.reference))} tokens"
        yield Miss("agreement", f"at least {prompt.agreement:g}", f"{found_share:.3g} {tokens}")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.4g} ms"


def probe_failed(name: str, version: Version, number: int, miss: Miss) -> ProbeFailedError:
    """Why a version of a model is not rolled out: the answer to the prompt of this number, from 1, has not that."""
    return ProbeFailedError(
        f"version {version.number} of model {name!r} failed prompt {number} of its probe: {miss.name} must be"
        f" {miss.wanted}, and is {miss.found}; the model is as it was",
        metadata={
            "version": str(version.number),
            "prompt": str(number),
            "property": miss.name,
            "wanted": miss.wanted,
            "found": miss.found,
        },
    )
