"""Settings of other hosts: how their agents are attached, watched and bounded."""

from pydantic import BaseModel, ConfigDict, Field

from inferd.spans import Days, Seconds

CONNECTIONS = 3  # of an agent: for what is about its host, for frames, and for files that it fetches


class Hosts(BaseModel):
    """Other hosts than the kernel's own, each with an agent that connects to the kernel."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: dict[str, str] = Field({}, description="labels of the kernel's own host, by which models choose it")
    most: int = Field(1000, ge=0, description="other hosts that are known at once, lost ones too; 0 lets none join")
    detection_s: Seconds = Field(
        3.0, gt=0, description="a host of which nothing is heard for so long is lost: its tasks go on elsewhere"
    )
    beat_s: Seconds = Field(0.5, gt=0, description="kernel and agent tell each other so often that they live")
    grace_s: Seconds = Field(
        30.0,
        gt=0,
        description="an agent without its kernel keeps its workers for so long; it goes on trying after that",
    )
    return_s: Seconds = Field(
        5.0,
        ge=0,
        description="so long after its start a kernel has tasks wait for a model that was known before and whose hosts "
        "have not joined again; then they are refused",
    )
    answer_s: Seconds = Field(
        20.0,
        gt=0,
        description="an agent that does not say for so long that a worker has ended is taken for lost; starts "
        "that it does not answer, and streams that it does not open, are given up",
    )
    window_bytes: int = Field(
        1 << 20,
        ge=64 << 10,
        le=1 << 30,
        description="frames of a worker, or of a host, that are on their way at most before they are acknowledged",
    )
    held_bytes: int = Field(
        64 << 20,
        ge=1 << 20,
        le=1 << 40,
        description="frames to a worker that wait at most for a slow or broken connection; for more the worker ends",
    )
    gather_s: Seconds = Field(
        0.1,
        ge=0,
        le=0.5,
        description="where what workers of other hosts tell takes too much of the kernel's time, their agents gather "
        "tokens for so long at most, and send those of several steps at once; 0: never",
    )
    memory_bytes: int = Field(
        1 << 30, ge=1 << 20, le=1 << 40, description="most memory of tensors that goes with one frame to or from a host"
    )
    fetches: int = Field(16, ge=1, description="hosts that are given files of models at once; others wait in a line")
    fetch_line: int = Field(10_000, ge=0, description="hosts that wait in that line; more are told to ask again later")
    fetch_idle_s: Seconds = Field(
        60.0, gt=0, description="a host that takes nothing of the files that it is given for so long has to ask again"
    )
    gives: int = Field(
        3,
        ge=1,
        le=64,
        description="hosts to which another one gives files of models at once (inferd host --serve-files), by the "
        "configurations of the kernel and of that host's agent",
    )
    peer_wait_s: Seconds = Field(
        120.0,
        ge=0,
        description="a host waits so long for another one that has a model, or is about to; then the kernel gives it",
    )
    cache_bytes: int = Field(
        256 << 30,
        ge=0,
        le=1 << 60,
        description="of an agent's configuration: files of models that its kernel gave it and it keeps; then those go "
        "that were not used for longest",
    )
    calls: int = Field(
        20_000,
        ge=1,
        description="calls of agents that are open at once, beside `limits.calls`: of each host one, one for each of "
        "its workers, and one while it fetches",
    )
    host_calls: int = Field(1000, ge=1, description="calls of one host that are open at once")
    connections: int | None = Field(
        None,
        ge=0,
        description="connections for agents, open at once on each address beyond `limits.connections`; default: three "
        "for each host of `most`",
    )
    cache_folders: int = Field(
        1,
        ge=1,
        le=256,
        description="of an agent's configuration: agents that keep such files below one `data_dir`, each in a folder "
        "of its own with so many bytes; one more is refused",
    )
    invite_s: Days = Field(3600.0, gt=0, description="how long an invitation of a host holds that names no time")
    invite_most_s: Days = Field(604_800.0, gt=0, description="how long it holds at most: a week")
    invite_uses: int = Field(1000, ge=1, description="hosts that one invitation may be for at most")

    @property
    def connections_limit(self) -> int:
        """`connections`, or its default."""
        return CONNECTIONS * self.most if self.connections is None else self.connections
