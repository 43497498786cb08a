"""Settings of the process that keeps agents on the nodes of a Ray cluster."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inferd.spans import Days, Seconds

LABELS = {
    "zone": "ray.io/availability-zone",
    "region": "ray.io/availability-region",
    "gpu": "ray.io/accelerator-type",
    "market": "ray.io/market-type",
    "group": "ray.io/node-group",
}


class Ray(BaseModel):
    """Agents on the nodes of a Ray cluster: which nodes, what each reserves, and when nodes are asked for or let go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cluster: str = Field(
        "",
        description="the cluster, as `inferd serve --hosts`: ray:auto (that of this machine), ray:HOST:PORT (of its "
        "control store), ray://HOST:PORT (of its client server); default: none",
    )
    join: str = Field(
        "",
        description="the address by which agents on the nodes reach the kernel, as tls:host:port; of several with one "
        "store, the same of each, with commas; default: where the kernel listens, if other machines can reach that",
    )
    ca_file: Path | None = Field(
        None,
        description="authorities by which agents check the kernel's certificate; default: $INFERD_CA_FILE of the "
        "kernel, else public ones",
    )
    cpus: float | None = Field(
        None, gt=0, le=4096, description="CPUs that each agent reserves in Ray; default: all that its node has"
    )
    memory_bytes: int | None = Field(
        None,
        ge=64 << 20,
        le=1 << 50,
        description="memory that each agent reserves in Ray, and gives at most of `cpu:0`; default: all that Ray may "
        "give of its node",
    )
    gpus: int | None = Field(
        None, ge=0, le=256, description="GPUs that each agent reserves in Ray, and sees; default: all that its node has"
    )
    resource: str = Field(
        "",
        max_length=63,
        description="a resource of Ray's of which each agent takes 1: only nodes that have it get one; default: "
        "every node",
    )
    labels: dict[str, str] = Field(
        LABELS,
        max_length=24,
        description="labels of hosts, each by the label of its Ray node that it is; or resource:NAME, how much of that "
        "the node has, or resource:NAME: for what follows in a resource's name, as resource:accelerator_type:",
    )
    exclude: tuple[str, ...] = Field(
        (),
        max_length=1000,
        description='nodes that get no agent, by id, name or address, as label=value, or "head"',
    )
    scale: bool = Field(
        False,
        description="whether the number of nodes follows what waits, from `least_nodes` to `most_nodes`: Ray's "
        "autoscaler is asked for more, and idle ones are let go; else every node gets an agent, up to `most_nodes`",
    )
    least_nodes: int = Field(0, ge=0, le=10_000, description="nodes with an agent at least, where `scale` is on")
    most_nodes: int = Field(1000, ge=1, le=10_000, description="nodes with an agent at most")
    tasks_per_node: int = Field(
        32, ge=1, le=1_000_000, description="one more node is asked for each so many tasks and leases that wait"
    )
    ask_after_s: Seconds = Field(5.0, ge=0, description="nodes are asked for once something has waited for so long")
    idle_s: Days = Field(
        300.0, gt=0, description="a node that nothing runs on for so long, while nothing waits, is let go"
    )
    drain_s: Days = Field(
        120.0, ge=0, description="a node that is let go has so long for what runs there; then its agent ends"
    )
    look_s: Seconds = Field(1.0, ge=0.1, le=60, description="time between two looks at the cluster and the kernel")
    start_s: Seconds = Field(120.0, ge=1, description="an agent that is not attached after so long is started anew")
    invite_s: Seconds = Field(
        120.0, ge=1, description="how long the invitation holds that an agent is given, for its own name alone"
    )
    leash_s: Seconds = Field(
        60.0, ge=5, description="an agent of which the process beside the kernel says nothing for so long ends"
    )
    restarts: int = Field(3, ge=0, le=1000, description="times that Ray itself starts the actor of an agent anew")

    @model_validator(mode="after")
    def _check_nodes(self) -> Self:
        if self.least_nodes > self.most_nodes:
            raise ValueError(
                f"ray.least_nodes is {self.least_nodes} and ray.most_nodes is {self.most_nodes}: the least is no more "
                "than the most; raise most_nodes or lower least_nodes"
            )
        return self
