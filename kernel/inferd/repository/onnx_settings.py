"""What a configuration says of how a model is computed, as settings of the backend for ONNX models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from inferd.errors import InvalidFieldError
from inferd_api.inference import model_config_pb2 as cp

if TYPE_CHECKING:
    from collections.abc import Sequence

PARAMETERS: Final = {
    "intra_op_thread_count": "intra_threads",
    "inter_op_thread_count": "inter_threads",
    "enable_mem_arena": "arena",
    "enable_mem_pattern": "memory_pattern",
    "session.intra_op.allow_spinning": "spinning",
}
"""Settings of inferd by the names that Triton's backend has for them."""
SWITCHES: Final = {"arena", "memory_pattern", "spinning"}
OWN: Final = "inferd."
"""Before the name of a setting of inferd among the parameters."""
LEVELS: Final = {-1: "basic", 1: "extended", 2: "none"}
ACCELERATORS: Final = {"tensorrt": "tensorrt", "openvino": "openvino"}
MOST_DELAY_MS: Final = 60_000
PARTING: Final = ("=", ",", ":")
"""What names in the setting `states` must not have."""


@dataclass(slots=True)
class Computed:
    """How a model is computed.

    Attributes:
        settings: Of the backend, and those that every model has.
        device: On which it is; "" for the one that the kernel chooses.
        notes: What the configuration says and is not obeyed, for people.
    """

    settings: dict[str, str] = field(default_factory=dict)
    device: str = ""
    notes: list[str] = field(default_factory=list)

    def note(self, name: str, why: str) -> None:
        """Something is not obeyed."""
        self.notes.append(f"{name}: {why}")


def computed(config: cp.ModelConfig) -> Computed:
    """How a model of ONNX is computed, as its configuration says it.

    Raises:
        InvalidFieldError: It asks for what cannot be, or contradicts itself.
    """
    made = Computed({"serves": "tensors"})
    _batching(config, made)
    if config.HasField("sequence_batching"):
        _sequences(config, made)
    _instances(config.instance_group, made)
    _optimization(config.optimization, made)
    read_parameters(config, made)
    note_rest(config, made)
    return made


def _batching(config: cp.ModelConfig, made: Computed) -> None:
    """Without dynamic batching each request is computed by itself; without any word the backend finds out."""
    most, choice = config.max_batch_size, config.WhichOneof("scheduling_choice")
    if choice == "dynamic_batching" and most:
        dynamic = config.dynamic_batching
        made.settings["max_batch"] = str(most)
        _waiting(dynamic.preferred_batch_size, dynamic.max_queue_delay_microseconds, most, made)
    elif choice == "sequence_batching":
        sequences = config.sequence_batching
        made.settings["max_batch"] = str(max(1, most))
        oldest = sequences.WhichOneof("strategy_choice") == "oldest"
        delay_us = (sequences.oldest if oldest else sequences.direct).max_queue_delay_microseconds
        _waiting(sequences.oldest.preferred_batch_size, delay_us, max(1, most), made)
    elif most or config.input or config.output:
        made.settings["max_batch"] = "1"
    if queued := config.dynamic_batching.default_queue_policy.max_queue_size:
        made.settings["queued_tasks"] = str(queued)


def _waiting(preferred: Sequence[int], delay_us: int, most: int, made: Computed) -> None:
    wrong = [size for size in preferred if not 0 < size <= most]
    if wrong:
        raise InvalidFieldError(
            f"preferred_batch_size has {wrong[0]}; each must be from 1 to max_batch_size, which is {most}",
            field="config.preferred_batch_size",
        )
    if most == 1:
        return
    if preferred:
        made.settings["preferred_batches"] = ",".join(map(str, sorted(set(preferred))))
    if delay_us > MOST_DELAY_MS * 1000:
        raise InvalidFieldError(
            f"max_queue_delay_microseconds is {delay_us}; it must be at most {MOST_DELAY_MS * 1000}",
            field="config.max_queue_delay_microseconds",
        )
    made.settings["batch_delay_ms"] = f"{delay_us / 1000:g}"


def _sequences(config: cp.ModelConfig, made: Computed) -> None:
    sequences, texts = config.sequence_batching, []
    for place, state in enumerate(sequences.state):
        where = f"sequence_batching.state[{place}]"
        if any(mark in name for name in (state.input_name, state.output_name) for mark in PARTING):
            raise InvalidFieldError(f"{where} has a name with one of {' '.join(PARTING)}", field=f"config.{where}")
        if not (state.input_name and state.output_name):
            raise InvalidFieldError(f"{where} must have an input_name and an output_name", field=f"config.{where}")
        dims = [*([1] if config.max_batch_size == 1 else []), *(size if size >= 0 else 1 for size in state.dims)]
        texts.append(f"{state.input_name}={state.output_name}" + (f":{'x'.join(map(str, dims))}" if dims else ""))
    if texts:
        made.settings["states"] = ",".join(texts)
    if sequences.max_sequence_idle_microseconds:
        made.note("max_sequence_idle_microseconds", "workers.sequence_idle_s of the kernel holds")
    if sequences.oldest.max_candidate_sequences:
        made.note("max_candidate_sequences", "workers.sequences of the kernel holds")
    if sequences.direct.minimum_slot_utilization:
        made.note("minimum_slot_utilization", "a batch is computed once it has waited for its delay")


def _instances(groups: Sequence[cp.ModelInstanceGroup], made: Computed) -> None:
    """Instances are calls that one worker computes at once: they share the weights."""
    kinds = {group.kind for group in groups if group.kind != cp.ModelInstanceGroup.KIND_AUTO}
    if len(kinds) > 1:
        raise InvalidFieldError(
            "instance_group has groups of several kinds; a model of inferd is on devices of one kind",
            field="config.instance_group",
        )
    count = sum(group.count or 1 for group in groups if not group.passive)
    if count > 1:
        made.settings["threads"] = str(count)
    gpus = sorted({number for group in groups for number in group.gpus})
    if cp.ModelInstanceGroup.KIND_CPU in kinds:
        made.device = "cpu:0"
    elif gpus or cp.ModelInstanceGroup.KIND_GPU in kinds:
        made.device = f"cuda:{gpus[0] if gpus else 0}"
        if len(gpus) > 1:
            made.note("instance_group.gpus", f"it is on {made.device} alone; declare it with [[models]] for several")
    for name in ("rate_limiter", "secondary_devices", "profile", "host_policy", "passive"):
        if any(name in {field.name for field, _ in group.ListFields()} for group in groups):
            made.note(f"instance_group.{name}", "quotas, leases and priorities of the kernel say who computes when")


def _optimization(policy: cp.ModelOptimizationPolicy, made: Computed) -> None:
    if level := policy.graph.level:
        if level not in LEVELS:
            raise InvalidFieldError(
                f"optimization.graph.level is {level}; it must be -1, 0, 1 or 2",
                field="config.optimization.graph.level",
            )
        made.settings["optimization"] = LEVELS[level]
    accelerators = policy.execution_accelerators
    for each in (*accelerators.gpu_execution_accelerator, *accelerators.cpu_execution_accelerator):
        if each.name not in ACCELERATORS:
            raise InvalidFieldError(
                f"execution accelerator {each.name[:40]!r} is not there; it must be one of {', '.join(ACCELERATORS)}",
                field="config.optimization.execution_accelerators",
            )
        made.settings["provider"] = ACCELERATORS[each.name]
        if each.parameters:
            made.note(f"parameters of the accelerator {each.name}", "it has its own defaults")
    for name in ("cuda", "input_pinned_memory", "output_pinned_memory"):
        if policy.HasField(name):
            made.note(f"optimization.{name}", "the backend decides that")
    for name in ("priority", "gather_kernel_buffer_threshold", "eager_batching"):
        if getattr(policy, name):
            made.note(f"optimization.{name}", "the kernel decides that, by priorities of tasks")


def read_parameters(config: cp.ModelConfig, made: Computed) -> None:
    """Settings among the parameters: those that Triton's backend knows, and inferd's own behind `inferd.`."""
    for name, value in sorted(config.parameters.items()):
        text = value.string_value
        if name.startswith(OWN):
            made.settings[name.removeprefix(OWN)] = text
        elif (ours := PARAMETERS.get(name)) is None:
            made.note(f"parameters[{name[:80]!r}]", "no setting of inferd is like it")
        elif ours in SWITCHES:
            made.settings[ours] = "true" if text.strip() not in {"0", "false"} else "false"
        elif text.strip() not in {"", "0"}:  # which leave it to the runtime there
            made.settings[ours] = text.strip()


def note_rest(config: cp.ModelConfig, made: Computed) -> None:
    """Note what else is said and not obeyed, though nothing that is computed differs by it."""
    why = {
        "model_warmup": "a model is ready once it is loaded",
        "response_cache": "no answer is kept",
        "metric_tags": "metrics are told by the table of docs/metrics.md",
        "model_metrics": "metrics are told by the table of docs/metrics.md",
        "runtime": "backends are those that are installed",
    }
    known = {field.name for field, _ in config.ListFields()}
    made.notes += [f"{name}: {text}" for name, text in why.items() if name in known]
    if any(output.label_filename for output in config.output):
        made.note("label_filename", "the classification extension is not offered")
    queue = config.dynamic_batching.default_queue_policy
    if queue.default_timeout_microseconds or queue.timeout_action or config.dynamic_batching.priority_queue_policy:
        made.note("default_queue_policy, priority_queue_policy", "a request's own timeout holds, and the model's queue")
