"""The names of metrics are such as Prometheus asks for, and each is documented with its unit, type and labels."""

import re
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metric_rows import PAGE, written
from prometheus_client.parser import text_string_to_metric_families

from inferd.core.machine import CoreLimits, KernelMachine
from inferd.engine.token.output import StepOutput
from inferd.runtime.metrics import Metrics
from inferd.runtime.telemetry.figures import Registry
from inferd.runtime.telemetry.table import INSTANCES, METRICS, STEP, WORKER_DEATHS, Kind, Metric
from inferd.worker.frames import step_frame

# As `promtool check metrics` has them, in prometheus/util/promlint/validations.
FORM = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
NO_BASE_UNITS = (
    *("milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "weeks"),
    *("kilobytes", "megabytes", "gigabytes", "kibibytes", "mebibytes", "gibibytes", "bits", "percent", "fahrenheit"),
)
ABBREVIATIONS = ("s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "kib", "mib", "gib", "m", "h", "d", "pct")
TYPES = ("gauge", "counter", "histogram", "summary", "untyped")


def faults(metric: Metric) -> list[str]:
    """What promtool would say of a metric."""
    words = metric.name.split("_")
    found = []
    if not metric.help.strip():
        found.append("no help text")
    if (metric.kind is Kind.COUNTER) != (words[-1] == "total"):
        found.append("counters, and they alone, end in _total")
    if metric.kind is not Kind.HISTOGRAM and words[-1] in {"count", "sum", "bucket"}:
        found.append("_count, _sum and _bucket are of histograms")
    if metric.kind is not Kind.HISTOGRAM and {"le", "quantile"} & {*metric.labels}:
        found.append("le and quantile are of histograms")
    found += [f"{word} is no base unit" for word in words if word in NO_BASE_UNITS]
    found += [f"{word} is an abbreviation" for word in words if word in ABBREVIATIONS]
    found += [f"{word} is a type" for word in words if word in TYPES]
    found += [f"{name} has other signs" for name in (metric.name, *metric.labels) if not FORM.fullmatch(name)]
    return found


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_are_as_promtool_asks_for(metric: Metric) -> None:
    """No metric has a name, a label or a help text that `promtool check metrics` speaks of, and its unit is in it."""
    assert faults(metric) == []
    ends = metric.name.removesuffix("_total")
    if metric.unit in {"seconds", "bytes"}:
        assert ends.endswith(f"_{metric.unit}")
    assert metric.labels == tuple(dict.fromkeys(metric.labels))
    assert [*metric.buckets] == sorted(set(metric.buckets))


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("inferd_steps", Kind.COUNTER, "_total"),
        ("inferd_wait_ms", Kind.GAUGE, "abbreviation"),
        ("inferd_wait_milliseconds", Kind.GAUGE, "base unit"),
        ("inferd:wait", Kind.GAUGE, "other signs"),
        ("inferd_tasksEnded", Kind.GAUGE, "other signs"),
        ("inferd_task_count", Kind.GAUGE, "histograms"),
        ("inferd_task_gauge", Kind.GAUGE, "type"),
    ],
)
def test_the_rules_find_bad_names(name: str, kind: Kind, said: str) -> None:
    """A name that breaks a rule is found by it."""
    assert said in " ".join(faults(Metric(name, kind, "1", "Something")))


def test_every_metric_is_on_the_page_of_the_documentation() -> None:
    """docs/metrics.md has each metric with its type, unit and labels; `tests/arch/metric_rows.py --write` writes it."""
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page)


def test_the_table_and_the_page_of_a_kernel_have_the_same_types() -> None:
    """What the table calls a counter or a histogram is told as one, by the parser of Prometheus' own library."""
    registry = Registry()
    for metric in METRICS:
        if metric.kind is Kind.HISTOGRAM:
            registry.spread(metric).labels(*metric.labels).observe(0.5)
        else:
            registry.count(metric).labels(*metric.labels).inc()
    told = {family.name: family for family in text_string_to_metric_families(registry.page().decode())}
    for metric in METRICS:
        family = told[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        assert {*family.samples[0].labels} - {"le"} == {*metric.labels}


def test_records_that_change_while_they_are_copied_are_read_again() -> None:
    """What Python says of a dict that was changed in the midst of its copy costs another try, and not the page."""
    registry, tries = Registry(), list[int]()

    def read() -> Iterator[Any]:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("dictionary changed size during iteration")
        yield INSTANCES, {("m", "ready"): len(tries)}

    registry.read(read)
    assert b'inferd_instances{model="m",state="ready"} 3' in registry.page()


VALUES = st.lists(st.floats(0, 1e6), max_size=30)
NAMES = st.text(max_size=20)


@given(values=VALUES, more=VALUES, name=NAMES)
def test_a_page_says_what_was_counted(values: list[float], more: list[float], name: str) -> None:
    """Read twice with values between, whatever the label is: the parser of Prometheus' library finds what was told."""
    registry, told = Registry(), list[float]()
    spread, count = registry.spread(STEP).labels(name), registry.count(WORKER_DEATHS).labels(name)
    registry.read(lambda: [(INSTANCES, {(name, "ready"): len(told)})])
    for part in (values, more):
        for value in part:
            spread.observe(value)
            count.inc(value)
        told += part
        found = {
            (sample.name, sample.labels.get("le")): sample
            for family in text_string_to_metric_families(registry.page().decode())
            for sample in family.samples
        }
        assert {sample.labels["model"] for sample in found.values()} == {name}
        for bound in (*STEP.buckets, float("inf")):
            limit = "+Inf" if bound == float("inf") else str(float(bound))
            assert found["inferd_step_seconds_bucket", limit].value == sum(value <= bound for value in told)
        assert found["inferd_step_seconds_count", None].value == len(told)
        assert found["inferd_step_seconds_sum", None].value == pytest.approx(sum(told))
        assert found["inferd_worker_deaths_total", None].value == pytest.approx(sum(told))
        assert found["inferd_instances", None].value == len(told)


def test_sequences_that_lost_their_blocks_are_counted() -> None:
    """What an engine tells of a step adds up by model, on the page that Prometheus reads."""
    metrics, instance = Metrics(KernelMachine(CoreLimits())), Mock(model="m", instance_id="m-1")
    for count in (2, 0, 1):
        metrics.count_step(instance, step_frame(StepOutput(preempted=count)).step)
    assert 'inferd_kv_preemptions_total{model="m"} 3\n' in metrics.registry.page().decode()


def test_pictures_that_were_computed_and_kept_are_counted() -> None:
    """How many pictures towers computed, and how many were kept, adds up by model."""
    metrics, instance = Metrics(KernelMachine(CoreLimits())), Mock(model="m", instance_id="m-1")
    for pictures in ((2, 0), (0, 0), (1, 4)):
        metrics.count_step(instance, step_frame(StepOutput(pictured=pictures)).step)
    page = metrics.registry.page().decode()
    assert 'inferd_pictures_total{model="m",vectors="computed"} 3\n' in page
    assert 'inferd_pictures_total{model="m",vectors="kept"} 4\n' in page
