"""The desk for language models; see `inferd.worker.desk`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from inferd.engine.moderation.screening import Screening
from inferd.engine.token.keeping import Keeping, Kept
from inferd.engine.token.loop import Loop
from inferd.engine.token.output import Ended, StepOutput
from inferd.errors import UnsupportedInputError
from inferd.plugin import KeepingSession
from inferd.worker.adapters import AdapterDesk
from inferd.worker.frames import answer_frame, read_defaults, read_load, read_submission, step_frame
from inferd_api.worker.v1 import adapter_pb2, ask_pb2, load_pb2, moderation_pb2, prefix_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.engine.activity import Activity
    from inferd.engine.token.intake import Intake
    from inferd.plugin import LoadedModel
    from inferd.shared import Memory
    from inferd.worker.identity import Identity
    from inferd.worker.link import Link

NO_IDENTITY: Final = Kept(why_not="the backend gives no KV blocks out of its sessions, or the files cannot be seen")


class TokenDesk:
    """For a language model."""

    def __init__(
        self, model: LoadedModel, load: load_pb2.Load, link: Link, activity: Activity, identity: Identity | None
    ) -> None:
        _, limits = read_load(load)
        self._link = link
        self._model = model
        self._key = None
        if identity is not None and isinstance(model.session, KeepingSession):
            self._key = identity.key(model.session.kv_layout, model.session.limits)
        self._defaults = read_defaults(load, model.sampling)
        self.engine = Loop(model, limits, self._deliver, activity=activity)
        self._screening = Screening(self._send, self.engine.fail)
        self._adapters = AdapterDesk(self.engine, model.session, link)

    def submit(self, submit: task_pb2.Submit, memories: Sequence[Memory]) -> None:  # noqa: ARG002 - of tensors only
        """Have a task run; one of tensors is refused."""
        try:
            submission = read_submission(submit, self._defaults)
        except UnsupportedInputError as error:
            self._deliver(StepOutput(ended=[Ended(handle=submit.handle, error=error)]))
        else:
            check = self._screening.submit(submission)
            self.engine.submit(submission if check is None else replace(submission, check=check))

    def cancel(self, cancel: task_pb2.Cancel) -> None:
        """Have a task forgotten."""
        self._screening.forget(cancel.handle)
        self.engine.cancel(cancel.handle, again=cancel.again)

    def moderate(self, rules: bytes, search_s: float) -> None:
        """Go by other rules from now on."""
        self._screening.go_by(rules, search_s)

    def hear(self, verdict: moderation_pb2.Verdict) -> None:
        """Take what a classifier says."""
        self._screening.hear(verdict.handle, verdict.number, found=verdict.found, failed=verdict.failed)

    def take(self, reply: ask_pb2.Reply) -> None:
        """No call runs here."""

    def adapt(self, order: adapter_pb2.Adapters | adapter_pb2.LoadAdapter, memories: Sequence[Memory]) -> None:
        """Have these adapters and no others, or hold one whose files are in memories."""
        if isinstance(order, adapter_pb2.Adapters):
            self._adapters.expect(order)
        else:
            self._adapters.load(order, memories)

    def answer(self, query: task_pb2.Query) -> None:
        """Have a question answered, in turn with tasks that are prepared."""
        self.engine.consult(lambda intake: self._answer(query, intake))

    def loaded(self) -> load_pb2.Loaded:
        """What the engine can do."""
        bounds = self.engine.bounds
        return load_pb2.Loaded(
            max_tasks=bounds.rows,
            context_tokens=bounds.sequence_tokens,
            kv_tokens=bounds.kv_tokens,
            block_tokens=0 if bounds.whole_prompts else bounds.block_tokens,
            sampling_defaults=self._model.sampling.numbers,
        )

    def keep(self, order: wire.Stop | prefix_pb2.Keep) -> None:
        """Keep the prefix cache, as far as it may be."""
        if isinstance(order, wire.Stop):
            self._keep(order, self.engine.keeping)
        else:
            self.engine.see_to_prefixes(partial(self._keep, order))

    def _keep(self, order: wire.Stop | prefix_pb2.Keep, keeping: Keeping) -> None:
        kept = NO_IDENTITY
        if self._key is not None:
            kept = keeping.export(self._key, most_bytes=order.keep_bytes, most_s=order.keep_seconds)
        frame = wire.WorkerFrame(kept=prefix_pb2.Kept(tokens=kept.tokens, why_not=kept.why_not))
        self._link.send(frame, () if kept.memory is None else (kept.memory,))

    def adopt(self, memories: Sequence[Memory]) -> None:
        """Have the prefix cache found again that is in the only memory."""
        (memory,) = memories
        if self._key is None:
            self._tell_adopted(NO_IDENTITY)
        else:
            key = self._key
            self.engine.see_to_prefixes(lambda keeping: keeping.take_in(memory, key, self._tell_adopted))

    def _tell_adopted(self, found: Kept) -> None:
        self._link.send(wire.WorkerFrame(adopted=prefix_pb2.Adopted(tokens=found.tokens, why_not=found.why_not)))

    def _answer(self, query: task_pb2.Query, intake: Intake) -> None:
        self._link.send(answer_frame(intake, query))

    def _deliver(self, output: StepOutput) -> None:
        self._screening.deliver(output)

    def _send(self, output: StepOutput) -> None:
        self._link.send(step_frame(output))
