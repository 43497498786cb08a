"""The bounds of the runtime."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import structlog

from inferd.config import Limits, Settings
from inferd.core.vigil import WorkerTimes
from inferd.folders import config_path
from inferd.runtime.keeper_times import KeeperTimes
from inferd.runtime.metrics import MOST_NAMES
from inferd.runtime.prefix_files import PrefixFiles
from inferd.runtime.prefixes import NO_PREFIXES, PrefixLimits
from inferd.store.store import Store
from inferd.worker_settings import Workers
from inferd_api.worker.v1 import load_pb2, sandbox_pb2

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverLimits:
    """Bounds of the runtime; see `inferd.config` for what each means."""

    stream_bytes: int
    retained_bytes: int
    events_bytes: int
    frame_bytes: int
    output_bytes: int
    queries: int
    query_timeout_s: float
    engine: load_pb2.EngineLimits
    times: WorkerTimes
    keeper: KeeperTimes
    prefixes: PrefixLimits = NO_PREFIXES
    metrics_names: int = MOST_NAMES


def engine_limits(settings: Settings) -> load_pb2.EngineLimits:
    """Bounds of all engines."""
    limits, workers = settings.limits, settings.workers
    return load_pb2.EngineLimits(
        step_tokens=workers.step_tokens,
        template_timeout_s=workers.template_timeout_s,
        text_timeout_s=workers.text_timeout_s,
        max_output_tokens=limits.max_output_tokens,
        gap_s=workers.max_gap_s,
        draft_tokens=workers.draft_tokens,
        cell_memory_bytes=workers.cell_memory_bytes,
        tensor=tensor_limits(workers, limits),
        picture=load_pb2.PictureLimits(
            pixels=workers.image_pixels,
            kept_bytes=workers.picture_bytes,
            count=workers.pictures,
            audio_s=workers.audio_s,
        ),
        grammar=grammar_limits(workers),
        look=look_limits(workers),
        sandbox=sandbox_limits(settings),
    )


def tensor_limits(workers: Workers, limits: Limits) -> load_pb2.TensorLimits:
    """Bounds of models of tensors."""
    return load_pb2.TensorLimits(
        batch_rows=workers.batch_rows,
        batch_delay_s=workers.batch_delay_s,
        sequences=workers.sequences,
        sequences_per_tenant=workers.sequences_per_tenant,
        sequence_bytes=workers.sequence_bytes,
        all_sequences_bytes=workers.all_sequences_bytes,
        image_pixels=workers.image_pixels,
        audio_s=workers.audio_s,
        sequence_idle_s=workers.sequence_idle_s,
        output_bytes=limits.output_bytes,
        text_bytes=limits.text_bytes,
    )


def grammar_limits(workers: Workers) -> load_pb2.GrammarLimits:
    """Bounds of grammars."""
    return load_pb2.GrammarLimits(
        compile_s=workers.grammar_compile_s,
        step_s=workers.grammar_step_s,
        wait_s=workers.grammar_wait_s,
        most=workers.grammars,
    )


def look_limits(workers: Workers) -> load_pb2.LookLimits:
    """Bounds of looking at a model's file."""
    return load_pb2.LookLimits(
        memory_bytes=workers.look_memory_bytes, cpu_s=workers.look_cpu_s, descriptors=workers.look_descriptors
    )


def sandbox_limits(settings: Settings) -> sandbox_pb2.SandboxLimits:
    """Bounds of the sandboxes of workers."""
    workers, keys = settings.workers, (settings.store_place.key_file, settings.audit.key_file, settings.tls.key_file)
    withheld = (config_path(), settings.data_dir, settings.state_dir, *keys)
    return sandbox_pb2.SandboxLimits(
        mode=f"SANDBOX_MODE_{workers.sandbox.upper()}",  # type: ignore[arg-type] # a name of the enum, as protobuf takes it
        threads=workers.sandbox_threads,
        memory_bytes=workers.sandbox_memory_bytes,
        scratch_bytes=workers.scratch_bytes,
        scratch_files=workers.scratch_files,
        variables=workers.variables,
        roots=[str(each.resolve()) for each in settings.sources.roots],
        withheld=[str(each.resolve()) for each in withheld if each is not None],
    )


def prefix_folder(settings: Settings, store: str) -> Path:
    """Where the prefix caches are that a kernel with this store keeps in files."""
    return settings.data_dir / "prefixes" / sha256(store.encode()).hexdigest()[:32]


def prefix_limits(settings: Settings, store: Store | None) -> PrefixLimits:
    """What may be kept of models that are unloaded: in files of this store, as other kernels may have the folder."""
    prefix, files = settings.prefix, None
    if store is not None and prefix.disk_bytes:
        files = PrefixFiles(prefix_folder(settings, store.name), most_bytes=prefix.disk_bytes, keys=store.keys)
    elif store is not None:
        PrefixFiles(prefix_folder(settings, store.name), most_bytes=0, keys=None).forget_all()  # those of before
    elif prefix.disk_bytes:
        log.warning("prefix.disk_bytes keeps nothing, as there is no store by whose key it would be sealed")
    return PrefixLimits(prefix.keep_bytes, settings.workers.stop_timeout_s, files)
