"""The ways to load a model: with the native library, and in fp32 with numpy. Each says first what it will take."""

from dataclasses import replace

from inferd.plugin import LoadError, MemoryNeed, ReportProgress, TokenLimits, TokenSession
from inferd.plugin.host import count_cores
from inferd_cpu.adapters import base_of
from inferd_cpu.capacity import KvBytes, derive_limits, derive_need
from inferd_cpu.encoder_session import EncoderSession
from inferd_cpu.expert_pages import ExpertPages
from inferd_cpu.native import Native, NativeMissing, Shape
from inferd_cpu.native_adapters import NativeAdapters
from inferd_cpu.native_encoder import (
    EncoderWeights,
    NativeEncoder,
    find_encoder_obstacle,
    make_encoder_shape,
    measure_encoder,
    split_inventory,
)
from inferd_cpu.native_session import (
    NativeSession,
    choose_kv_format,
    make_shape,
    measure_token,
    measure_workspace,
)
from inferd_cpu.native_weights import NativeWeights, find_obstacle
from inferd_cpu.session import CpuSession
from inferd_cpu.source import Source
from inferd_cpu.vision.tower import Tower
from inferd_cpu.weights import find_border, load_weights
from inferd_cpu.wide_layers import read_wide_layers


class ExactLoad:
    """A session in fp32 with numpy.

    Args:
        source: What is to be loaded.
        why_not: Why it is not the native library although it might be; "" where fp32 was asked for.

    Attributes:
        limits: Of the session.
        need: What it takes.
        compute_format: How it computes, for people.

    Raises:
        LoadError: A setting contradicts the model or another setting.
    """

    def __init__(self, source: Source, why_not: str) -> None:
        self._source = source
        self.limits = derive_limits(
            source.request.path,
            source.architecture,
            source.settings,
            vocabulary_size=source.vocabulary_size,
            weights_bytes=source.inventory.size_bytes,
            capacity_bytes=source.request.capacity_bytes,
            border_tokens=find_border(source.architecture, source.inventory),
        )
        self.limits = _keep_whole(self.limits, source)
        need = derive_need(source.architecture, self.limits, weights_bytes=source.inventory.size_bytes)
        self.need = _add_sight(need, source, None, threads=1)
        self.compute_format = f"F32; {why_not}" if why_not else "F32"

    def run(self, progress: ReportProgress) -> TokenSession:
        """Load.

        Raises:
            LoadError: A weight is not a finite number.
        """
        source = self._source
        weights = load_weights(source.file, source.architecture, source.inventory, progress)
        return CpuSession(
            architecture=source.architecture,
            weights=weights,
            limits=self.limits,
            separator=source.separator,
            tower=_raise_tower(source, None, threads=1),
        )


class NativeLoad:
    """A session of the native library; attributes and errors as those of `ExactLoad`."""

    def __init__(self, source: Source, native: Native) -> None:
        a, settings = source.architecture, source.settings
        self._native = native
        self._base = base_of(source.file, a)
        quantization = settings["quantization"]
        wide = read_wide_layers(settings["wide_layers"], layers=len(a.layers), quantization=quantization)
        self._weights = NativeWeights(source.file, a, source.inventory, native, quantization=quantization, wide=wide)
        self._source = source
        self._threads = settings["threads"] or source.request.cores or count_cores()
        self._pages_bytes = self._weights.experts_bytes if settings["expert_offload"] else 0
        if settings["expert_offload"] and not self._pages_bytes:
            raise LoadError(_unpaged(source, "the model has no experts"))
        self.limits, self._shape, self.need = self._measure(paged=self._pages_bytes > 0)
        if self._weights.experts_bytes and not self._pages_bytes:
            other = self._measure(paged=True)[-1]
            self.need = replace(self.need, offloaded_bytes=other.total_bytes)
        kv_format = choose_kv_format(native, settings)
        self.compute_format = f"{native.description}, {self._weights.describe()} weights, KV {kv_format}"

    def _measure(self, *, paged: bool) -> tuple[TokenLimits, Shape, MemoryNeed]:
        """What a session can do, its sizes and what it takes; where experts are `paged`, those of one token of them."""
        source, native, weights = self._source, self._native, self._weights
        a, settings, weights_bytes = source.architecture, source.settings, weights.size_bytes
        if paged and a.routing is not None:
            used_bytes = -(-weights.experts_bytes * a.routing.used // a.routing.count)
            weights_bytes -= weights.experts_bytes - used_bytes
        kv = measure_token(native, a, settings)
        limits = derive_limits(
            source.request.path,
            a,
            settings,
            vocabulary_size=source.vocabulary_size,
            weights_bytes=weights_bytes,
            capacity_bytes=source.request.capacity_bytes,
            kv=kv,
            samples=True,
            border_tokens=find_border(a, source.inventory),
        )
        shape = make_shape(native, a, limits, settings, threads=self._threads, feed_biased=weights.feed_biased)
        need = MemoryNeed(
            weights_bytes=weights_bytes,
            kv_bytes=kv.pool(limits),
            workspace_bytes=measure_workspace(native, shape),
            kv_saved_bytes=kv.saved(limits),
            paged_bytes=weights.experts_bytes if paged else 0,
        )
        return _keep_whole(limits, source), shape, _add_sight(need, source, native, threads=self._threads)

    def run(self, progress: ReportProgress) -> TokenSession:
        """Load.

        Raises:
            LoadError: A weight is not a finite number, or memory cannot be had, or the disk has no room for experts.
        """
        weights = self._weights
        pages = ExpertPages(self._source.request.path, self._pages_bytes) if self._pages_bytes else None
        try:
            session = NativeSession(
                self._native,
                self._shape,
                self.limits,
                formats=weights.formats(),
                vector_floats=weights.vector_floats,
                adapters=NativeAdapters(self._base, weights.targets()),
                tower=_raise_tower(self._source, self._native, threads=self._threads),
                axes=self._source.architecture.ropes[0].axes,
                pages=pages,
            )
        except BaseException:
            if pages is not None:
                pages.close()
            raise
        try:
            weights.pack(session.model, progress)
        except BaseException:
            session.close()
            raise
        session.fill_pool()
        return session


def _unpaged(source: Source, why: str) -> str:
    """What is told where experts are to be paged and cannot be."""
    return f"{source.request.path}: setting 'expert_offload' is true, but {why}: leave the setting out"


def _keep_whole(limits: TokenLimits, source: Source) -> TokenLimits:
    """The limits of a model, whose pictures may have tokens that see each other."""
    return replace(limits, whole_pictures=not isinstance(source.sight, str) and source.sight.whole)


def _add_sight(need: MemoryNeed, source: Source, native: Native | None, *, threads: int) -> MemoryNeed:
    """What a model needs with what it sees with."""
    if isinstance(source.sight, str):
        return need
    more = source.sight.measure(native, threads=threads)
    return replace(
        need,
        weights_bytes=need.weights_bytes + more.weights_bytes,
        workspace_bytes=need.workspace_bytes + more.workspace_bytes,
    )


def _raise_tower(source: Source, native: Native | None, *, threads: int) -> Tower | None:
    """What sees pictures, if the model sees any."""
    return None if isinstance(source.sight, str) else source.sight.raise_tower(native, threads=threads)


class EncoderLoad:
    """A session of an encoder, whose layers the native library computes; attributes and errors as of `ExactLoad`."""

    def __init__(self, source: Source, native: Native) -> None:
        a, settings = source.architecture, source.settings
        self._source, self._native = source, native
        inside, self._outside = split_inventory(source.inventory)
        self._weights = EncoderWeights(source.file, a, inside, native, quantization=settings["quantization"])
        weights_bytes = self._weights.size_bytes + 4 * self._outside.parameters
        nothing = KvBytes(0, 0)
        self.limits = derive_limits(
            source.request.path,
            a,
            settings,
            vocabulary_size=source.vocabulary_size,
            weights_bytes=weights_bytes,
            capacity_bytes=source.request.capacity_bytes,
            kv=nothing,
        )
        self._shape = make_encoder_shape(
            a,
            max_tokens=self.limits.max_step_tokens,
            max_length=min(self.limits.context_tokens, self.limits.max_step_tokens),
            threads=settings["threads"] or source.request.cores or count_cores(),
        )
        own_bytes = 4 * self.limits.max_step_tokens * a.width
        self.need = MemoryNeed(
            weights_bytes=weights_bytes,
            kv_bytes=nothing.pool(self.limits),
            workspace_bytes=own_bytes + measure_encoder(native, self._shape),
        )
        self.compute_format = f"{native.description}, {self._weights.describe()} weights"

    def run(self, progress: ReportProgress) -> TokenSession:
        """Load.

        Raises:
            LoadError: A weight is not a finite number, or the memory cannot be had.
        """
        source, weights = self._source, self._weights
        outside = load_weights(source.file, source.architecture, self._outside, lambda part: progress(part / 2))
        encoder = NativeEncoder(
            self._native, self._shape, formats=weights.encoder_formats(), vector_floats=weights.vector_floats
        )
        try:
            weights.pack(encoder.handle, lambda part: progress((1 + part) / 2))
        except BaseException:
            encoder.close()
            raise
        return EncoderSession(source.architecture, outside, encoder, limits=self.limits, separator=source.separator)


Load = ExactLoad | NativeLoad | EncoderLoad


def choose_load(source: Source) -> Load:
    """The native library where it is built and can run the model, unless the settings say otherwise.

    Raises:
        LoadError: The settings demand the library, and it cannot be used; or one contradicts the model or another.
    """
    compute, isa = source.settings["compute"], source.settings["isa"]
    if source.settings["expert_offload"] and compute == "exact":
        raise LoadError(_unpaged(source, "'compute' is 'exact', and only the compiled library pages experts"))
    if compute == "exact":
        return ExactLoad(source, "")
    native, fix = None, "leave the setting out"
    try:
        native = Native(isa)
        find = find_encoder_obstacle if source.architecture.family.encodes else find_obstacle
        why_not = find(source.architecture, source.inventory, native)
    except NativeMissing as missing:
        why_not, fix = str(missing), missing.fix or fix
    if why_not and (compute == "native" or isa != "auto"):
        named = f"'compute' is {compute!r}" if compute == "native" else f"'isa' is {isa!r}"
        raise LoadError(f"{source.request.path}: setting {named}, but {why_not}: {fix}")
    if source.settings["expert_offload"] and (native is None or why_not or source.architecture.family.encodes):
        raise LoadError(_unpaged(source, why_not or "the model is an encoder"))
    if native is None or why_not:
        return ExactLoad(source, f"not native: {why_not}")
    return EncoderLoad(source, native) if source.architecture.family.encodes else NativeLoad(source, native)
