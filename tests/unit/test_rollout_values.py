"""Probes and steps from the wire: what cannot be is refused with its field, before anything begins."""

import pytest

from inferd.core.rollouts import RolloutLimits
from inferd.errors import InferdError
from inferd.services.rollout_values import kept_probe, read_canary, read_probe, write_probe
from inferd_api.v1 import rollout_pb2 as pb
from inferd_api.v1.task_pb2 import ChatPrompt

LIMITS = RolloutLimits(probe_prompts=2, probe_bytes=200, probe_tokens=40, canary_steps=2)
HALF = pb.CanaryStep(share=0.5)


def prompt(**given: object) -> pb.ProbePrompt:
    return pb.ProbePrompt(**{"prompt": "a", "not_empty": True, **given})  # type: ignore[arg-type] # fields of a prompt


@pytest.mark.parametrize(
    ("prompts", "field"),
    [
        ([], "probe.prompts"),
        ([pb.ProbePrompt(prompt="a")], "probe.prompts[0]"),
        ([prompt(), pb.ProbePrompt(not_empty=True)], "probe.prompts[1].input"),
        ([pb.ProbePrompt(chat=ChatPrompt(), not_empty=True)], "probe.prompts[0].chat.messages"),
        ([prompt(pattern="(")], "probe.prompts[0].pattern"),
        ([prompt(agreement=1.5)], "probe.prompts[0].agreement"),
        ([prompt(most_tokens=41)], "probe.prompts[0].most_tokens"),
        ([prompt(most_time={"seconds": -1})], "probe.prompts[0].most_time"),
        ([prompt()] * 3, "rollouts.probe_prompts"),
        ([prompt(contains=["x" * 300])], "rollouts.probe_bytes"),
    ],
)
def test_a_probe_that_cannot_be_is_refused(prompts: list[pb.ProbePrompt], field: str) -> None:
    """The error names the field of the prompt, or the bound that was hit."""
    with pytest.raises(InferdError) as caught:
        read_probe(pb.Probe(prompts=prompts), LIMITS, "m")
    assert field in {caught.value.field, caught.value.metadata.get("bound")}


@pytest.mark.parametrize(
    ("canary", "field"),
    [
        (pb.Canary(), "canary.steps"),
        (pb.Canary(steps=[pb.CanaryStep()]), "canary.steps[0].share"),
        (pb.Canary(steps=[HALF, HALF]), "canary.steps[1].share"),
        (pb.Canary(steps=[HALF, pb.CanaryStep(share=1.5)]), "canary.steps[1].share"),
        (pb.Canary(steps=[pb.CanaryStep(share=0.5, least_tasks=0)]), "canary.steps[0]"),
        (pb.Canary(steps=[HALF], most_failed=1), "canary.most_failed"),
        (pb.Canary(steps=[HALF], token_ratio=-1), "canary.token_ratio"),
        (pb.Canary(steps=[HALF], most_token={"seconds": 0}), "canary.most_token"),
        (pb.Canary(steps=[HALF] * 3), "rollouts.canary_steps"),
    ],
)
def test_steps_that_cannot_be_are_refused(canary: pb.Canary, field: str) -> None:
    """As above."""
    with pytest.raises(InferdError) as caught:
        read_canary(canary, LIMITS)
    assert field in {caught.value.field, caught.value.metadata.get("bound")}


def test_a_step_that_says_nothing_has_twenty_tasks_and_one_with_a_time_none() -> None:
    """Either ends a step; with both it has to have both."""
    timed = pb.CanaryStep(share=1.0, least_time={"seconds": 3})
    steps = read_canary(pb.Canary(steps=[HALF, timed]), LIMITS).steps
    assert [(step.tasks, step.least_s) for step in steps] == [(20, 0.0), (0, 3.0)]


def test_a_pattern_takes_a_time_that_is_linear_in_the_text() -> None:
    """One at which other engines go back and forth without an end is matched at once; and a probe is kept as it was."""
    given = pb.Probe(prompts=[prompt(pattern="(a+)+$")])
    (read,) = read_probe(given, LIMITS, "m").prompts
    assert read.pattern is not None
    assert read.pattern.search("a" * 50_000 + "b") is None
    assert kept_probe(write_probe(given)) == given
