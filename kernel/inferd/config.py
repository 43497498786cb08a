"""The configuration of a kernel: every bound by name, from `config.toml`, `INFERD_…` variables and the command line.

A nested name is joined by two underscores: `INFERD_LIMITS__QUEUED_TASKS=50`. Unknown names are errors. A list is
`INFERD_BACKENDS=cpu,torch`, or JSON.
"""

from pathlib import Path
from typing import Annotated, Any, Self

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from inferd.adapter_settings import Adapters
from inferd.audit_settings import Audit
from inferd.auth_settings import Auth
from inferd.blob_settings import Blobs
from inferd.bundle_settings import Bundles
from inferd.dataset_settings import Datasets
from inferd.environment import Environment
from inferd.evaluation_settings import Evaluate
from inferd.explanation_settings import Explanations
from inferd.federation_settings import Federate
from inferd.folders import config_path, usual_data_dir
from inferd.function_settings import Functions
from inferd.host_settings import Hosts
from inferd.http_settings import Http
from inferd.index_settings import Indexes
from inferd.inference_settings import Inference
from inferd.model_settings import Elastic, Optimize, Prefix, Repository, Rollouts, Watching
from inferd.moderation_settings import Moderation
from inferd.pipeline_settings import Pipelines
from inferd.quota_settings import QuotaSettings
from inferd.ray_settings import Ray
from inferd.sharing import Sharing, sharing_of
from inferd.source_settings import Sources
from inferd.spans import Days, Seconds, Times
from inferd.standby_settings import Standby
from inferd.store_settings import Store, usual_key_file
from inferd.telemetry_settings import Logs, Otel
from inferd.tls_settings import Tls
from inferd.training_settings import Train
from inferd.worker_settings import Workers

DEFAULT_ADDRESS = "127.0.0.1:7411"
LEAST_FRAME_BYTES = 16 << 20
FRAME_MARGIN_BYTES = 64 << 10  # by which a frame can be larger than the message that it is made from


class Limits(BaseModel):
    """Bounds of the kernel. Hitting one is a typed error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: int = Field(20_000, ge=1, description="tasks that have not ended: waiting, suspended and running")
    queued_tasks: int = Field(1000, ge=1, description="tasks that wait, over all models")
    queued_high: int = Field(100, ge=0, description="tasks of class HIGH that wait beyond `queued_tasks`")
    suspended_tasks: int = Field(1000, ge=1, description="tasks that their clients have suspended")
    detached_tasks: int = Field(1000, ge=1, description="tasks that outlive the calls of their clients")
    detached_s: Days = Field(
        86_400.0, gt=0, description="when a detached task expires that has no deadline, in seconds from its detaching"
    )
    input_bytes: int = Field(
        256 << 20, ge=4096, description="inputs of all tasks that have not ended, in bytes of memory"
    )
    retained_tasks: int = Field(1000, ge=1, description="ended tasks that can still be read")
    retention_s: Days = Field(600.0, ge=0, description="how long an ended task can be read, in seconds")
    stream_bytes: int = Field(4 << 20, ge=4096, description="events held for one task, in bytes; then the oldest go")
    events_bytes: int = Field(
        512 << 20,
        ge=4096,
        description="events held for all tasks that have not ended, in bytes; then the one with the most loses half",
    )
    retained_bytes: int = Field(256 << 20, ge=4096, description="events held for all ended tasks, in bytes")
    message_bytes: int = Field(4 << 20, ge=1024, description="largest message accepted, in bytes")
    metadata_bytes: int = Field(16 << 10, ge=1024, description="largest metadata accepted, in bytes")
    prompt_bytes: int = Field(1 << 20, ge=1, description="largest prompt accepted, in bytes of UTF-8")
    chat_messages: int = Field(4096, ge=1, description="messages of one conversation")
    chat_parts: int = Field(8192, ge=1, description="parts of the messages of one conversation, together")
    chat_values: int = Field(
        8192,
        ge=1,
        description="values in the `template_variables` of one conversation, lists and objects in them included",
    )
    tensors: int = Field(256, ge=1, description="tensors that one task is given, and those that it asks for")
    tensor_rank: int = Field(32, ge=0, le=64, description="dimensions of one tensor; numpy has at most 64")
    tensor_elements: int = Field(
        1 << 32, ge=1, le=1 << 48, description="elements of one tensor, as its sizes say that are not 0"
    )
    tensor_strings: int = Field(65_536, ge=1, description="elements of one tensor of texts")
    task_input_bytes: int = Field(
        128 << 20, ge=4096, description="largest upload, so what a task is given beyond its message, in bytes"
    )
    upload_bytes: int = Field(
        256 << 20, ge=4096, description="uploads that are open, in bytes as they state them; a tenant has a share"
    )
    uploads: int = Field(256, ge=1, description="uploads that are open, each a descriptor; a tenant has a share")
    upload_idle_s: Seconds = Field(
        30.0, gt=0, description="an upload of which nothing comes, and that no task names, for so long is given up"
    )
    output_bytes: int = Field(
        32 << 20,
        ge=4096,
        description="largest set of tensors that a task gives at once, in bytes; its events are held to so much beyond "
        "`stream_bytes`",
    )
    call_bytes: int = Field(
        40_000 << 20,
        ge=1024,
        description="most that messages of open calls may take; a larger `message_bytes` lowers the accepted `calls`",
    )
    request_bytes: int = Field(
        256 << 20,
        ge=4096,
        description="requests of all open RunTask calls, in bytes as they came and as they were read",
    )
    max_output_tokens: int = Field(8192, ge=1, description="most output tokens of one task")
    concurrent_streams: int = Field(2000, ge=1, description="calls open at once on one connection; clients hold more")
    connections: int = Field(
        4000, ge=1, description="connections open at once on each address; more are closed as they come"
    )
    connection_idle_s: Seconds = Field(
        30.0,
        gt=0,
        description="a connection without a call for so long is closed; clients open another when they call. "
        "Until then it is one of `connections`, whoever has it",
    )
    handshake_s: Seconds = Field(
        10.0, gt=0, description="a connection that has not begun to speak HTTP/2 (and TLS) after so long is closed"
    )
    calls: int = Field(10_000, ge=1, description="calls open at once over all connections; more are refused")
    calls_per_s: Times = Field(
        4000.0,
        ge=0,
        description="calls that a connection may begin each second, twice as many at once; over a unix socket a "
        "principal, but for `local`; 0 for no bound",
    )
    pending_calls: int = Field(
        20_000,
        ge=1,
        description="calls that have come and are not begun; gRPC ends more as a bare CANCELLED",
    )
    ping_interval_s: Seconds = Field(
        10.0, ge=0, description="a client may send a keepalive ping each so long, with or without calls open"
    )
    models: int = Field(1000, ge=1, description="models known at once")
    model_watchers: int = Field(100, ge=1, description="open WatchModel streams")
    host_watchers: int = Field(100, ge=1, description="open WatchHost streams")
    health_watchers: int = Field(1000, ge=1, description="open streams of grpc.health.v1.Health/Watch")
    metrics_connections: int = Field(
        16,
        ge=1,
        description="connections that read the metrics; for one more the one that asks nothing for longest goes",
    )
    metrics_names: int = Field(
        100, ge=1, description="models, and devices, that the metrics tell by name; of more they are told as `other`"
    )
    metrics_timeout_s: Seconds = Field(
        10.0, gt=0, description="a connection that reads the metrics is closed after so long"
    )
    queries: int = Field(
        100,
        ge=1,
        description="texts that wait to become tokens, or tokens to become text; a tenant and a model have shares",
    )
    frame_bytes: int | None = Field(
        None,
        ge=1024,
        description="largest frame between kernel and worker, in bytes; default: 16 MiB, or what `message_bytes` needs",
    )

    @property
    def frame_limit_bytes(self) -> int:
        """`frame_bytes`, or its default."""
        return self.frame_bytes or max(LEAST_FRAME_BYTES, self.message_bytes + FRAME_MARGIN_BYTES)

    @property
    def text_bytes(self) -> int:
        """Most of the texts of a set of tensors, which fit into a message."""
        return max(self.message_bytes // 2, self.message_bytes - FRAME_MARGIN_BYTES)

    @property
    def accepted_calls(self) -> int:
        """How many of `calls` are accepted, so that a message for each is no more than `call_bytes`."""
        return min(self.calls, max(1, self.call_bytes // self.message_bytes))

    @model_validator(mode="after")
    def _check_frames(self) -> Self:
        least = self.message_bytes + FRAME_MARGIN_BYTES
        if self.frame_limit_bytes < least:
            raise ValueError(
                f"frame_bytes is {self.frame_bytes} and message_bytes is {self.message_bytes}: what comes as a message "
                f"goes to a worker as a frame; leave frame_bytes out, or make it at least {least}"
            )
        return self


class Devices(BaseModel):
    """What may be given of the devices."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reserve: float = Field(0.05, ge=0, lt=1, description="part of a device's memory that is never given")
    memory_bytes: dict[str, int] = Field(
        {},
        description="what may be given of a device, by its name; default: what was free at the start less the reserve",
    )
    measure_s: Seconds = Field(2.0, gt=0, description="time between two measurements of what other programs hold")


class Leases(BaseModel):
    """How capacity is held."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_ttl_s: Days = Field(1.0, gt=0, description="shortest TTL")
    max_ttl_s: Days = Field(3600.0, gt=0, description="longest TTL")
    default_ttl_s: Days = Field(30.0, gt=0, description="TTL of a lease that names none")
    max_wait_s: Days = Field(604_800.0, gt=0, description="longest `wait_timeout`: a week")
    aging_s: Seconds = Field(60.0, gt=0, description="a waiting lease rises by a class each time it has waited so long")
    leases: int = Field(10_000, ge=1, description="leases held or waiting at once")
    retained: int = Field(1000, ge=1, description="ended leases that can still be read")
    watchers: int = Field(1000, ge=1, description="open WatchLease streams")
    keepers: int = Field(1000, ge=1, description="open KeepAliveLeases streams")


class Scheduler(BaseModel):
    """Whose task goes next, and how many a tenant or a model may have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    aging_s: Seconds = Field(
        10.0, gt=0, description="a class that waits gets a turn each time so long for each class above it"
    )
    weights: dict[str, Annotated[Times, Field(ge=0.001)]] = Field(
        {}, description="share of a tenant in what is served; default: 1 for each"
    )
    tenant_share: Times = Field(
        4.0,
        gt=0,
        description="a tenant may have so many times what is still free of the queue, of suspended and detached tasks, "
        "of `limits.tasks`, `limits.input_bytes`, `limits.queries`, `leases.leases` and streams that watch or keep "
        "leases; a model too, of queries",
    )
    tenant_queued: int = Field(1000, ge=1, description="waiting tasks of one tenant")
    tenant_running: int = Field(1000, ge=1, description="running tasks of one tenant on one model")
    suspect_deaths: int = Field(
        2, ge=1, description="a task that was present when so many workers died runs alone in its batch next"
    )
    poison_s: Days = Field(600.0, ge=0, description="a task like one that workers died of is refused for so long")
    tenant_streams: int = Field(1000, ge=1, description="open RunTask, WatchTask and WatchTasks streams of one tenant")
    tenant_calls: int = Field(5000, ge=1, description="calls of one tenant that are open at once")
    kept_quotas: int = Field(1000, ge=1, description="quotas that were made by calls")
    quota_books: int = Field(
        10_000,
        ge=1,
        description="tenants by quota of which is known what they used when they hold nothing; then the oldest go",
    )
    model_queued: int = Field(1000, ge=1, description="waiting tasks of one model")
    model_running: int = Field(10_000, ge=1, description="running tasks of one model, over all its instances")
    headroom: float = Field(
        0.0625, ge=0, lt=1, description="part of a model's places that tenants beyond their share leave to the others"
    )
    preempt: bool = Field(
        True, description="whether tasks take the places of running ones of lower classes: HIGH at once, NORMAL in time"
    )
    low_yields_s: Seconds = Field(
        2.0,
        ge=0,
        description="after so long a waiting task of class NORMAL takes the place of a running one of class LOW",
    )


class Settings(BaseSettings):
    """All settings of a kernel."""

    model_config = SettingsConfigDict(
        env_prefix="INFERD_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    listen: tuple[str, ...] = Field(
        (),
        description="addresses: unix:/path, host:port of the loopback, or with TLS tls:host:port and mtls:host:port; "
        "default: the socket of this user",
    )
    metrics_listen: str | None = Field(
        None,
        description="host:port of the loopback where Prometheus reads /metrics, or tls:host:port, where it needs a key;"
        " empty for nowhere; default: 127.0.0.1:7412, or another port where that is taken, as `inferd serve` says",
    )
    socket_mode: str = Field(
        "0600",
        pattern="^0?[0-7]{3}$",
        description="permissions of a unix socket, octal; where others may use it than the kernel's user, calls need a "
        "ticket (see docs/security.md) or a key",
    )
    socket_group: str = Field(
        "", description="a group of this host that may use unix sockets, too; default place: /run/inferd/inferd.sock"
    )
    data_dir: Path = Field(default_factory=usual_data_dir, description="models")
    state_dir: Path = Field(
        default_factory=lambda: platformdirs.user_state_path("inferd"), description="logs of workers"
    )
    backends: tuple[str, ...] | None = Field(
        None, description="plugins that may be used; default: all that are installed"
    )
    plugin_modules: tuple[str, ...] = Field((), description="modules loaded as plugins besides the installed ones")
    plugin_timeout_s: Seconds = Field(20.0, gt=0, description="longest time of the discovery of one plugin")
    failpoints: tuple[str, ...] = Field(
        (), description="where this kernel is made to fail, for tests: name=count*action(arg)"
    )
    drain_s: Seconds = Field(
        5.0,
        ge=0,
        description="from SIGTERM on nothing new is taken, and tasks that run have so long to end; kept ones go on "
        "with the next kernel, others end with SHUTTING_DOWN",
    )
    core_dumps: bool = Field(
        False,
        description="whether the kernel and its workers may leave cores when they crash: they hold what tasks say, and "
        "credentials",
    )
    limits: Limits = Limits()
    workers: Workers = Workers()
    devices: Devices = Devices()
    leases: Leases = Leases()
    scheduler: Scheduler = Scheduler()
    elastic: Elastic = Elastic()
    rollouts: Rollouts = Rollouts()
    watched: Watching = Watching()
    repository: Repository = Repository()
    prefix: Prefix = Prefix()
    adapters: Adapters = Adapters()
    optimize: Optimize = Optimize()
    evaluate: Evaluate = Evaluate()
    train: Train = Train()
    federate: Federate = Federate()
    explanations: Explanations = Explanations()
    store: Store = Store()
    standby: Standby = Standby()
    blobs: Blobs = Blobs()
    bundles: Bundles = Bundles()
    datasets: Datasets = Datasets()
    indexes: Indexes = Indexes()
    auth: Auth = Auth()
    audit: Audit = Audit()
    sources: Sources = Sources()
    tls: Tls = Tls()
    hosts: Hosts = Hosts()
    moderation: Moderation = Moderation()
    functions: Functions = Functions()
    pipelines: Pipelines = Pipelines()
    ray: Ray = Ray()
    http: Http = Http()
    inference: Inference = Inference()
    logs: Logs = Logs()
    otel: Otel = Otel()
    models: tuple[Any, ...] = Field(
        (), description="models that are declared, each as `inferd.model_declarations` says; a wrong one is left out"
    )
    quotas: QuotaSettings = Field((), description="how much tenants may use")

    @model_validator(mode="after")
    def _check_adapters(self) -> Self:
        adapters, limit = self.adapters, self.hosts.memory_bytes
        if "file_bytes" in adapters.model_fields_set and adapters.file_bytes > limit:
            raise ValueError(
                f"adapters.file_bytes is {adapters.file_bytes} and hosts.memory_bytes is {limit}: the files of an"
                f" adapter go to a worker in one frame; make the first at most {limit}, or the second larger"
            )
        return self

    @property
    def sharing(self) -> Sharing:
        """Who may use unix sockets.

        Raises:
            InvalidFieldError: There is no such group.
        """
        return sharing_of(self.socket_mode, self.socket_group)

    @property
    def store_place(self) -> Store:
        """`store`, with the URL and the file of its key that it has by default."""
        url = self.store.url or f"sqlite:{self.state_dir / 'kernel.sqlite'}"
        key_file = self.store.key_file or usual_key_file(config_path().parent, self.state_dir)
        return self.store.model_copy(update={"url": url, "key_file": key_file})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line over environment over file."""
        return init_settings, Environment(settings_cls), TomlConfigSettingsSource(settings_cls, config_path())
