"""Settings of the HTTP gateway."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from inferd.spans import Days, Seconds

HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:\[\]-]{1,253}$")]
ToolFormat = Literal[
    "command_r", "deepseek_v3", "deepseek_v31", "deepseek_v32", "deepseek_v4", "deepseek_v41", "functionary",
    "functions", "gemma4", "glm", "glm47", "granite", "harmony", "hermes", "kimi_k2", "kimi_k3", "llama3", "llama4",
    "minimax_m2", "mistral", "mistral_v3", "nemotron", "none", "phi4", "qwen3_coder", "seed_oss",
]  # fmt: skip
Origin = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]{0,31}://[^/\s]{1,253}$")]


class Dashboard(BaseModel):
    """The dashboard of the gateway, at /dashboard/."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(True, description="whether it is served")
    browsers: int = Field(64, ge=1, description="pages that are open at once; more are LIMIT_EXCEEDED")
    key_browsers: int = Field(16, ge=1, description="those of them that are of one key and tenant")
    feeds: int = Field(32, ge=1, description="keys and tenants for which the kernel is watched at once")
    linger_s: Days = Field(600.0, ge=0, description="and for so long behind its last page, so that its plots go on")
    interval_s: float = Field(0.1, ge=0.02, le=10, description="least time between two updates of a page")
    poll_s: float = Field(
        1.0, ge=0.2, le=60, description="how often lists are read of which the kernel tells no changes, as of models"
    )
    rows: int = Field(1000, ge=10, le=10_000, description="most rows of a list, of tasks the newest")
    pending_rows: int = Field(
        2000, ge=1, le=20_000, description="changes that wait for a slow page; with more it is sent all as it stands"
    )
    text_chars: int = Field(65_536, ge=100, le=1 << 20, description="most characters of an output at once")


class Http(BaseModel):
    """The gateway by which programs reach the kernel that speak OpenAI's or Ollama's HTTP; a process of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = Field("127.0.0.1:7413", description="host:port where it listens; off the loopback with TLS alone")
    address: str = Field("", description="the kernel's address; default: as every client finds it")
    hosts: tuple[HostName, ...] = Field(
        (), max_length=100, description="names, without ports, by which it may be called besides those it listens on"
    )
    origins: tuple[Origin, ...] = Field(
        (), max_length=100, description="origins whose pages may call it (CORS), as https://chat.example; none else may"
    )
    key_file: Path | None = Field(
        None, description="the key that it makes at its first start, mode 0600; default: http.key in state_dir"
    )
    keyless: bool = Field(
        False,
        description="whether calls without a key may do what the key in `key_file` may, on the loopback alone: every "
        "user and program of this host can call then",
    )
    cert_file: Path | None = Field(None, description="certificate of its server, PEM, with those that lead to it")
    private_key_file: Path | None = Field(None, description="the certificate's key, PEM")
    behind_proxy: bool = Field(
        False,
        description="whether a proxy in front of it says by X-Forwarded-Host how it was called: by a name of `hosts`, "
        "whose pages may call then; where it listens does not depend on it",
    )
    connections: int = Field(4000, ge=1, description="connections open at once; more are closed as they come")
    requests: int = Field(2000, ge=1, description="requests that are answered at once; more are LIMIT_EXCEEDED")
    clients: int = Field(256, ge=1, description="connections to the kernel, one for each key and tenant that calls")
    client_idle_s: Days = Field(300.0, gt=0, description="one that nobody used for so long is closed")
    judged: int = Field(
        32, ge=1, description="keys at once that the kernel is asked about, as it was not yet; more wait for their turn"
    )
    judge_s: Seconds = Field(10.0, gt=0, description="how long a request waits until the kernel knows its key")
    head_s: Seconds = Field(10.0, gt=0, description="time for the head of a request, from its first byte on")
    head_bytes: int = Field(64 << 10, ge=4096, description="largest head of a request, in bytes")
    body_s: Seconds = Field(60.0, gt=0, description="time for the body of a request that is no upload")
    body_bytes: int = Field(16 << 20, ge=1024, description="largest body of a request that is no upload, in bytes")
    body_depth: int = Field(64, ge=4, le=500, description="lists and objects within each other in a body")
    body_lists: int = Field(100_000, ge=1024, description="lists and objects in a body, over all depths")
    body_values: int = Field(
        1_000_000, ge=1000, description="values in a body, and names of fields: what reading it costs depends on them"
    )
    body_silent_s: Seconds = Field(15.0, gt=0, description="a body of which nothing comes for so long is given up")
    bodies_bytes: int = Field(
        512 << 20, ge=1024, description="bytes of all bodies that are under way, uploads too; more are LIMIT_EXCEEDED"
    )
    key_bodies_bytes: int = Field(256 << 20, ge=1024, description="those of them that are of one key and tenant")
    upload_s: Seconds = Field(3600.0, gt=0, description="time for the body of an upload")
    upload_bytes: int = Field(128 << 20, ge=1024, description="largest upload, in bytes")
    idle_s: Seconds = Field(75.0, gt=0, description="a connection between two requests is closed after so long")
    stalled_s: Seconds = Field(
        30.0, gt=0, description="a client that takes nothing of what waits for it for so long is left"
    )
    waiting_bytes: int = Field(64 << 10, ge=1024, description="what waits for one client before its task's events do")
    ping_s: Seconds = Field(15.0, gt=0, description="a stream that is silent for so long sends a comment")
    status_s: Seconds = Field(
        1.0,
        ge=0,
        description="how long a stream waits with its status for the first output: until then errors are statuses",
    )
    drain_s: Seconds = Field(5.0, ge=0, description="from SIGTERM on what is being answered has so long to end")
    inputs: int = Field(2048, ge=1, description="prompts, texts or documents of one request")
    at_once: int = Field(32, ge=1, description="those of them that are tasks at once")
    batches: int = Field(16, ge=1, description="batches of a tenant that run at once")
    batch_lines: int = Field(50_000, ge=1, description="requests of one batch")
    embedding_model: str = Field(
        "", description="makes the vectors of vector stores that name none; default: they are found by words alone"
    )
    token_texts: int = Field(
        300_000, ge=1000, description="texts of tokens that are remembered, over all models, for log probabilities"
    )
    tool_formats: dict[str, ToolFormat] = Field(
        {},
        max_length=1000,
        description="how models write calls of tools, by name of the model, where their chat template does not tell; "
        "docs/http.md lists the formats",
    )
    held_chars: int = Field(
        4096,
        ge=0,
        description="characters of a call's arguments that a stream holds back until the call is whole: one that "
        "breaks off is content then; a longer one goes out as it comes from there on",
    )
    writings: int = Field(64, ge=1, description="models whose chat templates are remembered, for calls of tools")
    dashboard: Dashboard = Field(Dashboard(), description="the page that shows what the kernel does")
