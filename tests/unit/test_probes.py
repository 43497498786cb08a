"""A new version answers its probe before it takes any task; what is wrong with an answer is told with both values."""

from dataclasses import replace

import pytest
from rollout_bench import MODEL, SPEC, RolloutBench

from inferd.core import commands, events
from inferd.core.demand import NO_DEMAND
from inferd.core.ids import InstanceId
from inferd.core.model import InstanceState
from inferd.core.probe import PROBE_TENANT, Probe, ProbeAnswer, ProbePrompt, find_miss
from inferd.core.rollout_events import ProbeAnswered
from inferd.core.rollouts import RolloutLimits
from inferd.core.task import FinishReason, TaskState
from inferd.core.version import VersionState
from inferd.errors import BackendFailedError, ModelBusyError
from inferd.errors import WorkerDiedError as Died

PARIS = ProbePrompt(work="capital?", demand=NO_DEMAND, contains=("Paris",))
SHORT = ProbePrompt(work="end?", demand=NO_DEMAND, reason=FinishReason.END_OF_TEXT)
GOOD = ProbeAnswer(text="It is Paris.", token_ids=(1, 2), reason=FinishReason.END_OF_TEXT, first_s=0.1, whole_s=0.2)


class ProbeBench(RolloutBench):
    """A model of which version 1 runs a task, and one of which version 2 is given a probe."""

    def prove(self, probe: Probe, *, need_bytes: int = 100) -> None:
        self.submit("old")
        self.bring_up(1)
        self.tell(events.UpdateModel(MODEL, replace(SPEC, source="/v2", path="/v2"), probe=probe))
        self.measure(2, need_bytes)
        if need_bytes == 100:
            self.load(2)

    @property
    def asked(self) -> list[commands.AskProbe]:
        return [each for each in self.told if isinstance(each, commands.AskProbe)]

    def answer(self, answer: ProbeAnswer = GOOD) -> None:
        asked = self.asked[-1]
        self.tell(ProbeAnswered(asked.instance_id, asked.spec.task_id, answer))

    @property
    def why(self) -> dict[str, str]:
        error = self.model.versions[2].error
        assert error is not None
        return {"reason": error.reason, **error.metadata}


def test_a_version_takes_no_task_before_each_answer_is_as_it_must_be() -> None:
    """The prompts come one after the other, to the new version alone; with the last answer it serves."""
    bench = ProbeBench()
    bench.prove(Probe((PARIS, SHORT)))
    assert bench.states == [VersionState.SERVING, VersionState.PROVING]
    bench.submit("meanwhile")
    assert bench.task("meanwhile").version == 1
    bench.answer()
    assert [(each.instance_id, each.spec.work) for each in bench.asked] == [("m-2", "capital?"), ("m-2", "end?")]
    assert {each.spec.tenant for each in bench.asked} == {PROBE_TENANT}
    assert bench.states == [VersionState.SERVING, VersionState.PROVING]
    bench.answer()
    assert bench.states == [VersionState.RETIRED, VersionState.SERVING]
    bench.submit("after")
    assert bench.task("after").version == 2
    bench.answer()  # what comes late is of no effect
    assert bench.states == [VersionState.RETIRED, VersionState.SERVING]


def test_an_answer_that_is_not_as_it_must_be_changes_nothing_but_says_what_it_is() -> None:
    """The version is FAILED with the number of the prompt, the property and both values; no task has met it."""
    bench = ProbeBench()
    bench.prove(Probe((PARIS, SHORT)))
    bench.answer()
    bench.answer(replace(GOOD, reason=FinishReason.MAX_TOKENS))
    assert bench.states == [VersionState.SERVING, VersionState.FAILED]
    assert bench.why == {
        "reason": "PROBE_FAILED",
        "version": "2",
        "prompt": "2",
        "property": "finish_reason",
        "wanted": "END_OF_TEXT",
        "found": "MAX_TOKENS",
    }
    assert bench.model.instances[InstanceId("m-2")].state is InstanceState.STOPPING
    bench.submit("after")
    assert bench.task("after").version == 1
    assert not bench.failed()


@pytest.mark.parametrize(
    ("ends", "why"),
    [
        ("late", "PROBE_FAILED"),
        ("raises", "PROBE_FAILED"),
        ("dies", "WORKER_DIED"),
        ("unloaded", "MODEL_BUSY"),
    ],
)
def test_a_version_that_gives_no_answer_has_failed(ends: str, why: str) -> None:
    """Too late, an error, a death and an unloading each end the rollout with their reason; the old version serves."""
    bench = ProbeBench(limits=RolloutLimits(probe_s=5.0))
    bench.prove(Probe((PARIS,)))
    match ends:
        case "late":
            bench.now = 5.1
            bench.tell(events.Tick())
        case "raises":
            bench.answer(ProbeAnswer(error=BackendFailedError("a tensor is missing")))
        case "dies":
            bench.tell(events.WorkerExited(InstanceId("m-2"), Died("gone")))
        case _:
            bench.tell(events.UnloadModel(MODEL, force=False, instance_id=InstanceId("m-2")))
    assert bench.states == [VersionState.SERVING, VersionState.FAILED]
    assert bench.why["reason"] == why
    bench.submit("after")
    assert (bench.task("after").version, bench.task("after").state) == (1, TaskState.RUNNING)
    assert not bench.failed()


def test_where_the_old_had_to_go_it_comes_again_for_what_waits() -> None:
    """A version for which the old one was drained fails its probe: the tasks that wait get the old one, and end."""
    bench = ProbeBench(memory_bytes=1000)
    bench.prove(Probe((PARIS,)), need_bytes=950)
    bench.submit("waits")
    bench.end("old")
    bench.exit(1)
    bench.load(2)
    assert bench.states == [VersionState.SERVING, VersionState.PROVING]
    bench.answer(replace(GOOD, text="It is Lyon."))
    bench.exit(2)
    bench.bring_up(3)
    assert (bench.task("waits").version, bench.task("waits").state) == (1, TaskState.RUNNING)


def test_what_another_version_answered_is_no_reference() -> None:
    """A probe that compares with a version that has ceased to serve is refused, and nothing is begun."""
    bench = ProbeBench()
    with pytest.raises(ModelBusyError, match="try again"):
        bench.tell(events.UpdateModel(MODEL, replace(SPEC, source="/v2"), probe=Probe((PARIS,), compared=7)))
    assert bench.states == [VersionState.SERVING]


class Anywhere:
    """A pattern that finds one text."""

    pattern = "P.ris"

    def search(self, text: str) -> object | None:
        return "Paris" in text or None


@pytest.mark.parametrize(
    ("wanted", "answer", "miss"),
    [
        ({"not_empty": True}, {"text": " \n"}, ("not_empty", "more than white space", r"' \n'")),
        ({"contains": ("is", "Rome")}, {}, ("contains", "'Rome'", "'It is Paris.'")),
        ({"pattern": Anywhere()}, {"text": "Rome"}, ("pattern", "P.ris", "'Rome'")),
        ({"first_s": 0.05}, {}, ("most_first_token", "at most 50 ms", "100 ms")),
        ({"first_s": 0.05}, {"first_s": None}, ("most_first_token", "at most 50 ms", "no token")),
        ({"whole_s": 0.15}, {}, ("most_time", "at most 150 ms", "200 ms")),
        ({"agreement": 0.6, "reference": (1, 3)}, {}, ("agreement", "at least 0.6", "0.5 of 2 tokens")),
        ({"agreement": 0.6, "reference": (1, 2, 3, 4)}, {}, ("agreement", "at least 0.6", "0.5 of 4 tokens")),
        ({"agreement": 0.5, "reference": (1, 3), "pattern": Anywhere(), "whole_s": 0.2}, {}, None),
        ({"agreement": 1.0}, {"token_ids": ()}, None),
    ],
)
def test_each_property_is_told_with_both_values(
    wanted: dict[str, object], answer: dict[str, object], miss: tuple[str, str, str] | None
) -> None:
    """What was wanted and what was found, in the units of people; nothing where all is as it must be."""
    prompt = ProbePrompt(work=None, demand=NO_DEMAND, **wanted)  # type: ignore[arg-type] # as the table says
    found = find_miss(prompt, replace(GOOD, **answer))  # type: ignore[arg-type] # as above
    assert (None if found is None else (found.name, found.wanted, found.found)) == miss
