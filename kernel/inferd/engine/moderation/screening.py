"""Holds what tasks are given and give against rules, in a thread beside the one that computes."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from inferd.core.moderation import ModerationAction as Action
from inferd.core.policy import matches
from inferd.engine.moderation.inputs import end_of, texts_of
from inferd.engine.moderation.inquiry import Asked, Inquiry
from inferd.engine.moderation.outlet import (
    BORDER_CHARS,
    EXCERPT_CHARS,
    MOST_EXCERPT,
    Outlet,
    join_logprobs,
    split_logprobs,
)
from inferd.engine.moderation.output import Flag, Moderated, Question, ScreenedOutput, parts_of, pass_on
from inferd.engine.moderation.screened import Screened
from inferd.engine.token.output import Ended, StepOutput
from inferd.errors import InferdError, ModeratedError, ModerationUnavailableError
from inferd.moderation.folds import warm
from inferd.moderation.rules import On, read_rules
from inferd.moderation.screen import Ruling, search

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.core.task_events import PromptOutput
    from inferd.engine.moderation.outlet import Released
    from inferd.engine.token.intake import Intake
    from inferd.engine.token.submission import Submission
    from inferd.moderation.rules import Rule

WAITING_STEPS: Final = 64
"""Steps that wait to be held against rules; then the engine waits, as it does for a kernel that does not read."""

OWN_TENANTS: Final = "inferd:"
"""How the tenants of the kernel's own tasks begin: probes, trials and classifiers are under no rules."""

WINDOWS_AT_ONCE: Final = 8  # of what a task was given, about which classifiers are asked at once
MOST_WINDOWS: Final = 1024  # of what a task was given, about which one classifier is asked

SEARCH_S: Final = 10.0  # as `moderation.search_s` is by default

MOST_RULINGS: Final = 16  # that are kept ready, by which rules they are of


class Screening:
    """Lets through what rules allow.

    `submit`, `forget` and `hear` come from the thread that reads the link, `deliver` from the one that computes, and
    what submissions are given is looked at where they are prepared. All else is done by `run`, in a thread of its own,
    which is begun with the first rules. Without a task under rules nothing passes through it.

    Args:
        send: Sends what a step produced.
        fail: Ends a task of the engine with an error; its `Ended` follows.
    """

    def __init__(self, send: Callable[[StepOutput], None], fail: Callable[[int, InferdError], None]) -> None:
        self._send = send
        self._fail = fail
        self._rules: tuple[Rule, ...] = ()
        self._search_s = SEARCH_S
        self._rulings: dict[tuple[int, ...], Ruling] = {}  # by the ids of the rules, which they keep
        self._making = threading.Lock()
        self._screened: dict[int, Screened] = {}
        self._items: queue.Queue[Callable[[ScreenedOutput], None]] = queue.Queue()
        self._room = threading.BoundedSemaphore(WAITING_STEPS)
        self._thread: threading.Thread | None = None

    def go_by(self, written: bytes, search_s: float = SEARCH_S) -> None:
        """Hold tasks that come from now on against these rules; those that are here keep theirs.

        Args:
            written: The rules.
            search_s: How long what a task was given may be searched.
        """
        self._search_s = search_s
        self._rules = tuple(read_rules(written)) if written else ()
        if self._rules and self._thread is None:
            self._thread = threading.Thread(target=self.run, name="screening", daemon=True)
            self._thread.start()
        if any(rule.words for rule in self._rules):
            self._items.put(lambda _: warm())

    def submit(self, submission: Submission) -> Callable[[Intake], None] | None:
        """A task comes. What is to be called where it is prepared, which raises where it is refused; None for nothing.

        Its rules are those of now, until it ends or goes to another worker. What it was given is looked at again where
        it has told nothing yet: only what was told shows that all have answered.
        """
        tenant = submission.share.tenant
        if not self._rules or tenant.startswith(OWN_TENANTS):
            return None
        about = [rule for rule in self._rules if matches(rule.tenants, tenant)]
        cleared = submission.continuation is not None and bool(submission.continuation.samples)
        inputs = () if cleared else tuple(rule for rule in about if On.INPUT in rule.on)
        outputs = tuple(rule for rule in about if On.OUTPUT in rule.on) if submission.writes else ()
        if not inputs and not outputs:
            return None
        screened = self._screened[submission.handle] = Screened(submission, inputs, outputs)
        return partial(self._prepare, screened)

    def forget(self, handle: int) -> None:
        """A task has ended elsewhere; the kernel takes nothing more of it."""
        if (screened := self._screened.get(handle)) is not None:
            screened.given_up = True
            self._items.put(lambda _: self._drop(handle))

    def hear(self, handle: int, number: int, *, found: bool, failed: str) -> None:
        """A classifier has answered, or not."""
        self._items.put(lambda output: self._hear(output, handle, number, found=found, failed=failed))

    def deliver(self, output: StepOutput) -> None:
        """Let a step's output through, as far as it may be shown."""
        if not self._screened and not self._items.unfinished_tasks:
            self._send(output)
            return
        self._room.acquire()
        self._items.put(lambda shown: self._take(output, shown))

    def run(self) -> None:
        """See to what comes, for as long as the process lives."""
        while True:
            item = self._items.get()
            shown = ScreenedOutput()
            try:
                item(shown)
                if not shown.empty:
                    self._send(shown)
            except ConnectionError:
                return  # the kernel is gone, and so will be this process
            finally:
                self._items.task_done()

    # Where a submission is prepared.

    def _prepare(self, screened: Screened, intake: Intake) -> None:
        """Hold what a task is given against rules, and have ready what its output is held against.

        Raises:
            ModeratedError: It is refused.
            ModerationUnavailableError: A rule cannot be gone by; or that takes too long, or nobody waits for it.
        """
        screened.intake = intake
        screened.check_rules()
        if screened.outputs:
            screened.ruling = self._ruling(screened.outputs)
        if not screened.inputs:
            return
        submission = screened.submission
        ruling = self._ruling(screened.inputs)
        asking = [rule for rule in screened.inputs if rule.classifier is not None]
        texts = list(texts_of(submission.task_input, submission.embedding, intake))
        go_on = screened.leash(self._search_s)
        for text in texts:
            self._check(screened, ruling, text, go_on)
        if asking or screened.flags:
            self._items.put(lambda output: self._ask_of_inputs(output, screened, asking, texts))

    def _check(self, screened: Screened, ruling: Ruling, text: str, go_on: Callable[[], None]) -> None:
        for start, end, number in search(ruling, text, go_on):
            rule = ruling.rules[number]
            if rule.action is not Action.FLAG:
                raise _refusal(rule, On.INPUT)
            if all(flag.rule != rule.name for flag in screened.flags):
                excerpt = text[max(0, start - EXCERPT_CHARS) : end + EXCERPT_CHARS][:MOST_EXCERPT]
                screened.flags.append(Flag(screened.submission.handle, rule.name, excerpt, is_input=True))

    def _ruling(self, rules: tuple[Rule, ...]) -> Ruling:
        key = tuple(map(id, rules))
        with self._making:
            found = self._rulings.get(key)
            if found is None:
                if len(self._rulings) >= MOST_RULINGS:
                    self._rulings.clear()
                found = self._rulings[key] = Ruling(rules)
            return found

    # In the thread of `run`.

    def _ask_of_inputs(
        self, output: ScreenedOutput, screened: Screened, asking: Sequence[Rule], texts: Sequence[str]
    ) -> None:
        """Ask classifiers about what a task was given; until they have answered nothing is shown of it."""
        output.flags += screened.flags
        beyond: list[tuple[Rule, str]] = []
        for rule in asking:
            if rule.classifier is None:
                continue
            size = rule.classifier.window_chars
            places = [range(0, max(1, len(text) - size // 4), max(1, size - size // 4)) for text in texts]
            if (count := sum(map(len, places))) > MOST_WINDOWS:
                why = f"what the task was given has {count} windows of {size} characters, and may have {MOST_WINDOWS}"
                beyond.append((rule, why))
                continue
            for text, starts in zip(texts, places, strict=True):
                screened.unasked.extend((rule, text[at : at + size]) for at in starts)
        self._ask_more(output, screened)
        for rule, why in beyond:
            self._hear_of_input(output, screened, rule, found=False, failed=why)

    def _ask_more(self, output: ScreenedOutput, screened: Screened) -> None:
        """Ask about the next windows of what a task was given: some at once, as an answer may take only so long."""
        if screened.error is not None:
            screened.unasked.clear()
        while screened.unasked and len(screened.inputs_open) < WINDOWS_AT_ONCE:
            rule, window = screened.unasked.popleft()
            screened.inputs_open.add(self._question(output, screened, rule, window, (0, None)))

    def _question(
        self, output: ScreenedOutput, screened: Screened, rule: Rule, text: str, about: tuple[int, Asked | None]
    ) -> int:
        """Ask about a text: of what a task was given, or `about` a window of a sample."""
        number = screened.asked = screened.asked + 1
        screened.questions[number] = (*about, rule)
        output.questions.append(Question(screened.submission.handle, about[0], number, rule.name, text))
        return number

    def _drop(self, handle: int) -> None:
        self._screened.pop(handle, None)

    def _take(self, output: StepOutput, shown: ScreenedOutput) -> None:
        self._room.release()
        shown.prefills, shown.begun_prompts = output.prefills, output.begun_prompts
        shown.alone, shown.seconds = output.alone, output.seconds
        shown.batch_size, shown.kv_tokens, shown.preempted = output.batch_size, output.kv_tokens, output.preempted
        shown.pictured = output.pictured
        for handle, prompt in output.prompts.items():
            self._take_prompt(handle, prompt, shown)
        several = bool(output.samples)
        ends = {(end.handle, end.sample): end for end in output.sample_ends}
        ended = {each.handle: each for each in output.ended}
        for handle, sample, ids, text, place in parts_of(output):
            screened = self._screened.get(handle)
            logprobs = output.logprobs.get(place)
            if screened is None:
                pass_on(shown, (handle, sample), ids, text, logprobs=logprobs, several=several)
                continue
            end = ends.pop((handle, sample), None)
            if end is not None:
                screened.ends[sample] = end
            final = end is not None or (screened.samples == 1 and handle in ended)
            if screened.error is None:
                likely = () if logprobs is None else split_logprobs(logprobs, top=not screened.hides)
                released = self._outlet(screened, sample).push(ids, text, logprobs=likely, final=final)
                self._show(shown, screened, sample, released)
            else:
                self._fail(handle, screened.error)  # it was not there yet when it was to end
        for handle, vector in output.embeddings.items():
            screened = self._screened.get(handle)
            if screened is not None and (screened.inputs_open or screened.error is not None):
                screened.embedding = vector  # `_conclude` shows it, or not
            else:
                shown.embeddings[handle] = vector
        shown.sample_ends += ends.values()
        for each in ended.values():
            self._end(shown, each)

    def _take_prompt(self, handle: int, prompt: PromptOutput, shown: ScreenedOutput) -> None:
        screened = self._screened.get(handle)
        if screened is not None and screened.hides and prompt.logprobs is not None:
            prompt = replace(prompt, logprobs=join_logprobs(split_logprobs(prompt.logprobs, top=False)))
        if screened is None or not (screened.inputs_open or screened.error):
            shown.prompts[handle] = prompt
        else:
            screened.prompt = prompt

    def _outlet(self, screened: Screened, sample: int) -> Outlet:
        found = screened.outlets.get(sample)
        if found is None:
            found = screened.outlets[sample] = self._make_outlet(screened, sample)
            found.held = bool(screened.inputs_open)
        return found

    def _make_outlet(self, screened: Screened, sample: int) -> Outlet:
        submission, intake, ruling = screened.submission, screened.intake, screened.ruling
        if intake is None:
            raise RuntimeError("a task that was never prepared has an output")
        if ruling is None:
            ruling = self._ruling(())
        told = () if submission.continuation is None else submission.continuation.samples.get(sample)
        asks = any(rule.classifier is not None for rule in ruling.rules)
        return Outlet(
            ruling,
            intake.pieces,
            encode=intake.plain_tokens,
            stop=submission.sampling.held_by,
            told=told.token_ids if told else (),
            begun=end_of(submission.task_input, intake, most_chars=BORDER_CHARS) if screened.outputs else "",
            inquiry=Inquiry(ruling) if asks else None,
        )

    def _end(self, shown: ScreenedOutput, ended: Ended) -> None:
        screened = self._screened.get(ended.handle)
        if screened is None:
            shown.ended.append(ended)
            return
        screened.ended, refused = ended, ended.error
        if isinstance(refused, ModeratedError | ModerationUnavailableError) and screened.error is None:  # not begun
            found = isinstance(refused, ModeratedError)
            rule = refused.metadata.get("rule", "")
            shown.moderated.append(Moderated(ended.handle, 0, rule, Action.STOP.name.lower(), int(found)))
        if ended.error is None and screened.error is None and screened.submission.writes:
            for sample in range(screened.samples):
                if sample in screened.outlets and sample not in screened.closed:
                    self._show(shown, screened, sample, self._outlet(screened, sample).push((), "", final=True))
        self._conclude(shown, screened)

    def _hear(self, output: ScreenedOutput, handle: int, number: int, *, found: bool, failed: str) -> None:
        screened = self._screened.get(handle)
        if screened is None or (question := screened.questions.pop(number, None)) is None:
            return
        sample, asked, rule = question
        if asked is None:
            screened.inputs_open.discard(number)
            self._hear_of_input(output, screened, rule, found=found, failed=failed)
        elif screened.error is None:
            self._show(output, screened, sample, screened.outlets[sample].hear(asked, found=found, failed=failed))
        self._conclude(output, screened)

    def _hear_of_input(
        self, output: ScreenedOutput, screened: Screened, rule: Rule, *, found: bool, failed: str
    ) -> None:
        opens = rule.classifier is not None and rule.classifier.open_on_failure
        if (found and rule.action is Action.FLAG) or (failed and opens):
            output.flags.append(Flag(screened.submission.handle, rule.name, failed, is_input=True))
        elif (found or failed) and screened.error is None:
            output.moderated.append(_ended_by(rule, screened.submission.handle, 0, found=found))
            self._stop(screened, _refusal(rule, On.INPUT, failed))
        self._ask_more(output, screened)
        if not screened.inputs_open and screened.error is None:
            if screened.prompt is not None:
                output.prompts[screened.submission.handle] = screened.prompt
            for sample, outlet in screened.outlets.items():
                outlet.held = False
                self._show(output, screened, sample, outlet.push((), ""))

    def _show(self, output: ScreenedOutput, screened: Screened, sample: int, released: Released) -> None:
        """Show what an outlet released; ask what it wants to know."""
        handle, outlet = screened.submission.handle, screened.outlets[sample]
        for asked in outlet.asks():
            rule = self._rule_of(screened, asked)
            self._question(output, screened, rule, asked.text, (sample, asked))
        closes = released.closed and screened.samples > 1
        if released.token_ids or released.text or released.computed or closes:
            place = len(output.handles)
            pass_on(
                output,
                (handle, sample),
                released.token_ids,
                released.text,
                logprobs=join_logprobs(released.logprobs),
                several=screened.samples > 1,
            )
            if released.computed is not None:
                output.computed[place] = released.computed
        stopped = released.stopped
        for name, spans in released.spans.items():
            cut = spans - (stopped is not None and name == stopped.name and not released.failed)
            if cut:
                output.moderated.append(Moderated(handle, sample, name, Action.REDACT.name.lower(), cut))
        if stopped is not None:
            output.moderated.append(_ended_by(stopped, handle, sample, found=not released.failed))
        self._flag(output, screened, released)
        if released.closed:
            screened.closed.add(sample)
            if (end := screened.ends.get(sample)) is not None:
                output.sample_ends.append(end)
        if stopped is not None:
            self._stop(screened, _refusal(stopped, On.OUTPUT, released.failed))

    @staticmethod
    def _flag(output: ScreenedOutput, screened: Screened, released: Released) -> None:
        """Tell of what a person is to look at, once for each rule."""
        for each in released.flagged:
            if each.rule not in screened.flagged:
                screened.flagged.add(each.rule)
                output.flags.append(Flag(screened.submission.handle, each.rule, each.excerpt, is_input=False))

    @staticmethod
    def _rule_of(screened: Screened, asked: Asked) -> Rule:
        return screened.outputs[asked.rule]

    def _stop(self, screened: Screened, error: InferdError) -> None:
        if screened.error is None:
            screened.error = error
            self._fail(screened.submission.handle, error)

    def _conclude(self, output: ScreenedOutput, screened: Screened) -> None:
        """Tell the end of a task once all that comes before it was told."""
        ended = screened.ended
        if ended is None:
            return
        if screened.error is not None and ended.error is None:
            ended = Ended(handle=ended.handle, error=screened.error, usage=ended.usage)
        elif ended.error is None and (screened.inputs_open or len(screened.closed) < len(screened.outlets)):
            return
        if screened.embedding is not None and ended.error is None:
            output.embeddings[ended.handle] = screened.embedding
        output.ended.append(ended)
        self._drop(ended.handle)


def _ended_by(rule: Rule, handle: int, sample: int, *, found: bool) -> Moderated:
    """That a rule ends a task: for what it found, or for want of an answer, of which there are no spans."""
    return Moderated(handle, sample, rule.name, Action.STOP.name.lower(), int(found))


def _refusal(rule: Rule, on: On, failed: str = "") -> InferdError:
    facts = {"rule": rule.name, "on": on.value}
    where = "what the task was given" if on is On.INPUT else "the output"
    if failed:
        asked = "" if rule.classifier is None else rule.classifier.model
        message = f"rule {rule.name!r} asks {asked!r} about {where}, which gave no answer: {failed}"
        return ModerationUnavailableError(message, metadata={**facts, "classifier": asked, "cause": failed})
    return ModeratedError(f"rule {rule.name!r} does not allow {where}", metadata=facts)
