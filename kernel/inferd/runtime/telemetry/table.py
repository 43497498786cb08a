"""Every metric by name: what it counts, in which unit, and by which labels. `docs/metrics.md` is written of this table.

Names and units are those of Prometheus. Beside the kernel's own stand those of OpenTelemetry's semantic conventions for
generative AI, as they are exported to Prometheus: dots become underscores and the unit a suffix; their buckets are the
ones that it asks for, with some below them for models that are faster.
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

WAITS_S: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
STEPS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
COMMITS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
COUNTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
FIRST_TOKENS_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)
TOKENS_S: Final = (
    *(0.001, 0.0025, 0.005),  # below those of the convention
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)
REQUESTS_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)

OTHER: Final = "other"
"""The value of a label for all that is not told by name."""
PROVIDER: Final = "inferd"


class Kind(StrEnum):
    """What a metric is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        name: As it stands on the page, of a histogram without what is behind it there.
        unit: Of its value.
        help: What it counts.
        labels: By which; that of a model is the first.
        buckets: Of a histogram, their upper bounds.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _of_model(name: str, unit: str, help_: str, *labels: str, buckets: tuple[float, ...] = ()) -> Metric:
    return Metric(name, Kind.HISTOGRAM if buckets else Kind.COUNTER, unit, help_, ("model", *labels), buckets)


def _gen_ai(name: str, help_: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    usual = ("gen_ai_request_model", "gen_ai_operation_name", "gen_ai_provider_name")
    return Metric(f"gen_ai_server_{name}_seconds", Kind.HISTOGRAM, "seconds", help_, (*usual, *labels), buckets)


# Tasks.
TASKS = Metric("inferd_tasks", Kind.GAUGE, "tasks", "Tasks that have not ended", ("state",))
TASKS_SENT = _of_model(
    "inferd_tasks_sent_total", "tasks", "Tasks handed to instances; `again` when they go on", "again"
)
SUSPECTS_SENT = _of_model("inferd_suspects_sent_total", "tasks", "Tasks sent to run alone since workers died of them")
TASKS_STOPPED = _of_model(
    "inferd_tasks_stopped_total",
    "tasks",
    "Tasks stopped to go on later, and why: `preempted` by one of a higher class, `worker_died`, `unloaded`, `client`, "
    "`store`",
    "reason",
)
TASKS_ENDED = _of_model("inferd_tasks_ended_total", "tasks", "Tasks by how they ended", "state")
QUEUE = _of_model(
    "inferd_queue_seconds", "seconds", "Time that a task waited, each time, by its class", "priority", buckets=WAITS_S
)
FIRST_TOKEN = _gen_ai(
    "time_to_first_token",
    "Time from the creation of a task to its first output, of tasks that had any",
    FIRST_TOKENS_S,
)
TOKEN = _gen_ai(
    "time_per_output_token",
    "Time from the first token of a task to its end for each token behind it, of tasks that were never stopped",
    TOKENS_S,
)
REQUEST = _gen_ai(
    "request_duration",
    'Time from the creation of a task to its end; error_type is the reason of its error, "" where it succeeded',
    REQUESTS_S,
    "error_type",
)
INPUT_TOKENS = _of_model("inferd_input_tokens_total", "tokens", "Tokens of prompts, of tasks that have ended")
CACHED_TOKENS = _of_model(
    "inferd_cached_tokens_total", "tokens", "Those of inferd_input_tokens_total that the prefix cache had"
)
OUTPUT_TOKENS = _of_model("inferd_output_tokens_total", "tokens", "Tokens produced")
DRAFTED_TOKENS = _of_model("inferd_drafted_tokens_total", "tokens", "Tokens guessed ahead, of tasks that have ended")
ACCEPTED_TOKENS = _of_model(
    "inferd_accepted_tokens_total", "tokens", "Those of inferd_drafted_tokens_total that were right"
)
STREAM_LAG = Metric(
    "inferd_stream_lag_seconds",
    Kind.HISTOGRAM,
    "seconds",
    "Time from the end of a task until all who followed it had taken that, or gone",
    buckets=WAITS_S,
)

# The engine.
STEP = _of_model("inferd_step_seconds", "seconds", "Time that a step computed", buckets=STEPS_S)
STEP_SEQUENCES = _of_model("inferd_step_sequences", "sequences", "Sequences that a step computed", buckets=COUNTS)
KV_PREEMPTIONS = _of_model(
    "inferd_kv_preemptions_total",
    "preemptions",
    "How often a running sequence lost its KV blocks to others, for want of room, and computes its tokens again",
)
PICTURES = _of_model(
    "inferd_pictures_total",
    "pictures",
    "Pictures in prompts: `computed` by the tower of their model, or `kept` from the last time that they were",
    "vectors",
)
KV_CAPACITY = Metric(
    "inferd_kv_capacity_tokens", Kind.GAUGE, "tokens", "Tokens that fit into KV pools of ready instances", ("model",)
)
KV_USED = Metric(
    "inferd_kv_used_tokens",
    Kind.GAUGE,
    "tokens",
    "Those of inferd_kv_capacity_tokens that tasks hold, in whole blocks; what is cached for others is free",
    ("model",),
)

# Workers, devices and hosts.
INSTANCES = Metric("inferd_instances", Kind.GAUGE, "instances", "Instances of models", ("model", "state"))
WORKERS_STARTED = _of_model("inferd_workers_started_total", "workers", "Workers started")
WORKER_DEATHS = _of_model(
    "inferd_worker_deaths_total",
    "workers",
    "Workers that ended without being told to stop, or were killed for what they did",
)
DEVICE_BYTES = Metric(
    "inferd_device_bytes",
    Kind.GAUGE,
    "bytes",
    "Memory of devices: their `capacity`, and what `instances` and `leases` hold of it",
    ("device", "what"),
)
HOSTS = Metric("inferd_hosts", Kind.GAUGE, "hosts", "Hosts, this one too", ("state",))

# Leases.
LEASES = Metric("inferd_leases", Kind.GAUGE, "leases", "Leases that are held or wait", ("state",))
LEASE_WAIT = Metric(
    "inferd_lease_wait_seconds",
    Kind.HISTOGRAM,
    "seconds",
    "Time from the creation of a lease to its grant",
    buckets=WAITS_S,
)
LEASES_ENDED = Metric("inferd_leases_ended_total", Kind.COUNTER, "leases", "Leases by how they ended", ("state",))

# The store, and other kernels with the same one.
STORE_WRITES = Metric("inferd_store_writes", Kind.GAUGE, "boolean", "1 where the last write was done, else 0")
STORE_FAILURES = Metric("inferd_store_failures_total", Kind.COUNTER, "writes", "Writes that failed")
STORE_COMMIT = Metric(
    "inferd_store_commit_seconds",
    Kind.HISTOGRAM,
    "seconds",
    "Time that a write of what is kept took, its commit too, and its wait for the thread that writes",
    buckets=COMMITS_S,
)
LEADS = Metric("inferd_leads", Kind.GAUGE, "boolean", "1 where this kernel leads, 0 where it stands by")
EPOCH = Metric("inferd_epoch", Kind.GAUGE, "number", "The epoch that this kernel leads, else 0")
OTHER_KERNELS = Metric("inferd_other_kernels", Kind.GAUGE, "kernels", "Other kernels with the same store")

# Clients.
CALLS = Metric(
    "inferd_calls_total",
    Kind.COUNTER,
    "calls",
    'Calls that are over, by method and the reason of their error: "" for none, LEFT where the client left',
    ("method", "reason"),
)

# The kernel itself, and who is told of it.
SPANS_SENT = Metric("inferd_spans_sent_total", Kind.COUNTER, "spans", "Spans of traces that the collector took")
SPANS_DROPPED = Metric(
    "inferd_spans_dropped_total",
    Kind.COUNTER,
    "spans",
    "Spans of traces that it did not take, or that waited behind too many",
)
CPU = Metric("process_cpu_seconds_total", Kind.COUNTER, "seconds", "Processor time of the kernel's process")
RESIDENT = Metric("process_resident_memory_bytes", Kind.GAUGE, "bytes", "Resident memory of the kernel's process")
VIRTUAL = Metric("process_virtual_memory_bytes", Kind.GAUGE, "bytes", "Addresses that the kernel's process has mapped")
OPEN_FDS = Metric("process_open_fds", Kind.GAUGE, "descriptors", "Descriptors that the kernel's process has open")
MAX_FDS = Metric("process_max_fds", Kind.GAUGE, "descriptors", "Descriptors that it may have open")
BEGAN = Metric("process_start_time_seconds", Kind.GAUGE, "seconds", "Unix time at which the kernel's process began")
BUILD = Metric("inferd_build_info", Kind.GAUGE, "boolean", "1, by the version of inferd", ("version",))

METRICS: Final = (
    *(TASKS, TASKS_SENT, SUSPECTS_SENT, TASKS_STOPPED, TASKS_ENDED, QUEUE, FIRST_TOKEN, TOKEN, REQUEST),
    *(INPUT_TOKENS, CACHED_TOKENS, OUTPUT_TOKENS, DRAFTED_TOKENS, ACCEPTED_TOKENS, STREAM_LAG),
    *(STEP, STEP_SEQUENCES, KV_PREEMPTIONS, PICTURES, KV_CAPACITY, KV_USED),
    *(INSTANCES, WORKERS_STARTED, WORKER_DEATHS, DEVICE_BYTES, HOSTS),
    *(LEASES, LEASE_WAIT, LEASES_ENDED),
    *(STORE_WRITES, STORE_FAILURES, STORE_COMMIT, LEADS, EPOCH, OTHER_KERNELS),
    CALLS,
    *(SPANS_SENT, SPANS_DROPPED, BUILD, CPU, RESIDENT, VIRTUAL, OPEN_FDS, MAX_FDS, BEGAN),
)
"""All that a kernel tells, in the order of the documentation."""
