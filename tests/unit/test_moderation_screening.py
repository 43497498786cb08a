"""What the screening shows of tasks, and what it tells of those that it refuses."""

from __future__ import annotations

import queue
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from time_limits import LONG_S

from inferd.core.ids import Tenant
from inferd.core.moderation import ModerationAction
from inferd.core.task_events import Logprobs, PromptOutput
from inferd.engine.moderation import screening
from inferd.engine.moderation.inputs import texts_of
from inferd.engine.moderation.output import Moderated
from inferd.engine.moderation.screening import MOST_WINDOWS, WINDOWS_AT_ONCE, Screening
from inferd.engine.token.output import Ended, StepOutput
from inferd.engine.token.submission import Continuation, SampleSoFar, Share, Submission
from inferd.engine.work import ChatInput, Embedding, Message, TextInput
from inferd.errors import ModerationUnavailableError
from inferd.moderation.rules import Classifier, On, Rule, write_rules
from inferd.plugin.backend import Pooling
from inferd.sampling import Sampling

if TYPE_CHECKING:
    from inferd.engine.moderation.output import ScreenedOutput
    from inferd.engine.work import TaskInput
    from inferd.errors import InferdError

ASKS = Rule(name="asks", on=frozenset({On.INPUT}), classifier=Classifier(model="judge", labels=("bad",)))


class Bench:
    """A screening, and what it sends; each token is one byte."""

    def __init__(self, *rules: Rule, search_s: float = 60) -> None:
        self.sent: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.failed: list[tuple[int, InferdError]] = []
        self._screening = Screening(self.sent.put, lambda handle, error: self.failed.append((handle, error)))
        self._screening.go_by(write_rules(rules), search_s)
        self.hear, self.forget = self._screening.hear, self._screening.forget

    def submit(self, given: TaskInput | str = "hello", **more: Any) -> bool:
        """A task 1 of this comes; whether it is under rules."""
        task_input = TextInput(given) if isinstance(given, str) else given
        submission = Submission(1, task_input, Sampling(), share=Share(tenant=Tenant("t")), **more)
        check = self._screening.submit(submission)
        if check is not None:
            intake: Any = SimpleNamespace(
                pieces=[bytes([n]) for n in range(256)], plain_tokens=lambda text: list(text.encode())
            )
            check(intake)
        return check is not None

    def get(self) -> ScreenedOutput:
        """What is sent next."""
        sent: ScreenedOutput = self.sent.get(timeout=LONG_S)
        return sent

    def step(self, text: str = "", **more: Any) -> ScreenedOutput:
        """What is sent of a step that gives the task this text."""
        ids = list(text.encode())
        some = {"handles": [1], "counts": [len(ids)], "token_ids": ids, "texts": [text]} if ids else {}
        self._screening.deliver(StepOutput(**some, **more, seconds=1))
        return self.get()


def test_a_second_attempt_that_has_told_nothing_is_asked_about_again() -> None:
    """That a prompt was begun elsewhere clears nothing: the classifier is asked, and till then nothing is shown."""
    bench = Bench(ASKS)
    assert bench.submit(continuation=Continuation(samples={}, cached_tokens=0))
    assert [question.text for question in bench.get().questions] == ["hello"]
    assert bench.step("held").texts == []
    bench.hear(1, 1, found=False, failed="")
    assert bench.get().texts == ["held"]


def test_an_attempt_behind_what_was_told_asks_no_more() -> None:
    """What was shown shows that all was cleared."""
    assert not Bench(ASKS).submit(continuation=Continuation(samples={0: SampleSoFar([97])}, cached_tokens=0))


def test_an_embedding_is_not_shown_once_its_input_was_refused() -> None:
    """The verdict came first, the vector behind it: the task ends with the refusal and tells no vector."""
    bench = Bench(ASKS)
    assert bench.submit(embedding=Embedding(pooling=Pooling.LAST))
    bench.get()
    bench.hear(1, 1, found=True, failed="")
    bench.get()
    sent = bench.step(embeddings={1: (1.0, 2.0)}, ended=[Ended(handle=1)])
    assert sent.embeddings == {}
    assert [each.error.reason for each in sent.ended if each.error is not None] == ["MODERATED"]


def test_what_is_told_of_a_prompt_waits_for_the_verdict_about_it() -> None:
    """Its text is shown with the first output once it is cleared, and not at all where it is refused."""
    for found in (False, True):
        bench = Bench(ASKS)
        assert bench.submit()
        bench.get()
        prompt = PromptOutput("hello", [97])
        assert bench.step("so", prompts={1: prompt}).prompts == {}
        bench.hear(1, 1, found=found, failed="")
        assert bench.get().prompts == ({} if found else {1: prompt})
        assert bench.step(ended=[Ended(handle=1)]).prompts == {}


def test_no_alternatives_are_told_where_words_are_held_back() -> None:
    """What else a token might have been would spell the word, of the output as of the prompt; its own logprob stays."""
    bench = Bench(Rule(name="cut", words=("bomb",), on=frozenset({On.OUTPUT})))
    assert bench.submit()
    likely = Logprobs([120], [-1.0], [98, 120], [-0.5, -1.0])
    sent = bench.step("x", logprobs={0: likely}, prompts={1: PromptOutput("x", [120], likely)})
    assert sent.logprobs == {0: Logprobs([120], [-1.0], [], [])}
    assert sent.prompts[1].logprobs == Logprobs([120], [-1.0], [], [])


@pytest.mark.parametrize(("failed", "spans"), [("", 1), ("late", 0)])
@pytest.mark.parametrize("on", On)
def test_whatever_ends_a_task_is_told(on: On, failed: str, spans: int) -> None:
    """A verdict about its input or its output, or none in time: one event, of no span where nothing was found."""
    bench = Bench(replace(ASKS, on=frozenset({on})))
    assert bench.submit()
    if on is On.INPUT:
        bench.get()
    bench.step("x", ended=[Ended(handle=1)])
    bench.hear(1, 1, found=not failed, failed=failed)
    assert bench.get().moderated == [Moderated(1, 0, "asks", "stop", spans)]


def test_escapes_in_json_hide_nothing() -> None:
    """Keys and strings of calls, tools and variables are looked at as they are read; roles and ids of calls, too."""
    message = Message("bomber", "", tool_call_id="call-9", tool_calls_json='[{"a": "k\\u0069ll", "a": 1}]')
    given = ChatInput((message,), variables_json='{"b\\u006fmb": 1}')
    intake: Any = None
    texts = list(texts_of(given, None, intake))
    assert {"bomber", "call-9", "a\nkill\na", "bomb"} <= set(texts)


def test_classifiers_are_asked_about_some_windows_at_once() -> None:
    """Of the windows of a long prompt some are asked about, then the next; nothing is shown before the last answer."""
    bench = Bench(ASKS)
    windows = 13  # of 400 characters, each with 100 of the one before
    assert bench.submit("x" * (100 + windows * 300))
    asked = list(bench.get().questions)
    assert len(asked) == WINDOWS_AT_ONCE
    assert bench.step("held").texts == []
    for number in range(1, windows + 1):
        bench.hear(1, number, found=False, failed="")
        if number <= windows - WINDOWS_AT_ONCE or number == windows:  # one more is asked about; or all is shown
            sent = bench.get()
            asked += sent.questions
            assert sent.texts == (["held"] if number == windows else [])
    assert "".join(question.text[-300:] for question in asked) == "x" * 300 * windows


def test_a_prompt_of_too_many_windows_is_as_one_without_an_answer() -> None:
    """Its error has both numbers; where the rule is open on failure it goes on, and is flagged."""
    text = "x" * 400 * MOST_WINDOWS
    bench = Bench(ASKS)
    assert bench.submit(text)
    assert bench.get().questions == []
    ((_, error),) = bench.failed
    assert error.reason == "MODERATION_UNAVAILABLE"
    assert f"has 1365 windows of 400 characters, and may have {MOST_WINDOWS}" in error.message
    bench = Bench(replace(ASKS, classifier=Classifier(model="judge", labels=("bad",), open_on_failure=True)))
    assert bench.submit(text)
    assert [flag.rule for flag in bench.get().flags] == ["asks"]
    assert bench.step("shown").texts == ["shown"]


def test_a_rule_flags_a_task_once_in_each_direction() -> None:
    """The first place of each rule is what a person looks at; one rule's many leave room for that of another."""
    rules = [Rule(name=word, words=(word,), action=ModerationAction.FLAG) for word in ("alpha", "bomb")]
    bench = Bench(*rules)
    assert bench.submit("alpha alpha alpha bomb")
    assert [(flag.rule, flag.is_input) for flag in bench.get().flags] == [("alpha", True), ("bomb", True)]
    told = bench.step("alpha bomb alpha ").flags + bench.step("bomb alpha bomb. ", ended=[Ended(handle=1)]).flags
    assert sorted((flag.rule, flag.is_input) for flag in told) == [("alpha", False), ("bomb", False)]


@pytest.mark.parametrize("given_up", [True, False])
def test_what_a_task_was_given_is_searched_no_longer_than_somebody_waits(
    monkeypatch: pytest.MonkeyPatch, *, given_up: bool
) -> None:
    """A task that is cancelled, or whose input takes too long, is searched no further; the error has both numbers."""
    bench = Bench(Rule(name="r", words=("bomb",)), search_s=60 if given_up else 1e-9)

    def search(_: Any, text: str, go_on: Any) -> list[Any]:
        if given_up:
            bench.forget(1)
        go_on()
        raise AssertionError(text)

    monkeypatch.setattr(screening, "search", search)
    with pytest.raises(
        ModerationUnavailableError, match="nobody waits" if given_up else r"may for 1e-09 s \(moderation"
    ):
        bench.submit("x" * 100)


def test_a_rule_that_cannot_be_gone_by_refuses_what_it_is_about() -> None:
    """Of its tenants and its side; who calls is told its name, and not what it looks for; that is told and audited."""
    rule = Rule(name="old", patterns=("[a-b]c",), on=frozenset({On.OUTPUT}), unsound="has [a-b]c")
    bench = Bench(rule)
    with pytest.raises(ModerationUnavailableError, match="rule 'old' is about this task") as caught:
        bench.submit()
    assert "[a-b]c" not in caught.value.message
    ended = bench.step(ended=[Ended(handle=1, error=caught.value)])
    assert ended.moderated == [Moderated(1, 0, "old", "stop", 0)]
    assert not Bench(replace(rule, tenants="others")).submit()
    assert not Bench(rule).submit(embedding=Embedding(pooling=Pooling.LAST)), "whose output no rule looks at"


def test_an_input_is_searched_as_it_is_read_and_as_it_is_shown() -> None:
    """An override that turns a word around hides it not, nor do characters that say it and show nothing."""
    intake: Any = None
    texts = list(texts_of(TextInput("a \u202ebmob\u202c \U000e006b\U000e0069ll"), None, intake))
    assert texts[1:] == ["ki", "a bomb\u202c \U000e006b\U000e0069ll"]


def test_what_a_prompt_has_begun_is_cut_of_the_output() -> None:
    """A prompt that is continued, and a last message that is, begin matches; a message that is answered begins none."""
    cut = Rule(name="cut", words=("yellow",), action=ModerationAction.REDACT, on=frozenset({On.OUTPUT}))
    chat = ChatInput((Message("assistant", "so yel"),), continue_final_message=True)
    answered = replace(chat, continue_final_message=False)
    for task_input, shown in ((TextInput("so yel"), "[removed]"), (chat, "[removed]"), (answered, "low")):
        bench = Bench(cut)
        assert bench.submit(task_input)
        assert bench.step("low", ended=[Ended(handle=1)]).texts == [shown]
