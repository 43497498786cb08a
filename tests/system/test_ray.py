"""Ray for real: a kernel whose hosts are nodes of a cluster on this machine, one of which is lost."""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from ray_cluster import RayCluster, ray_cluster

from inferd.cli.ray_state import read_state
from inferd.testing.kernel import FAKE_PLUGIN, KernelProcess, kernel_process, write_fake_model
from inferd_api.v1.host_pb2 import HOST_STATE_READY
from inferd_api.v1.model_pb2 import PlacementRules
from inferd_client import Client

pytest.importorskip("ray", reason="Ray is not installed (make test-system installs it)")

DEADLINE_S = 240.0
LEASH_S = 10.0
log = logging.getLogger(__name__)
AGENT = "inferd.cli.hosting"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    state = tmp_path_factory.mktemp("nodes")
    environment = {"INFERD_PLUGIN_MODULES": json.dumps([FAKE_PLUGIN]), "INFERD_STATE_DIR": str(state)}
    with ray_cluster(environment) as found:
        found.join("one")
        found.join("two")
        yield found


@pytest.fixture
def settings(cluster: RayCluster) -> dict[str, str]:
    chosen = {"cluster": f"ray:127.0.0.1:{cluster.port}", "exclude": '["head"]', "cpus": "1"}
    chosen |= {"memory_bytes": str(256 << 20), "leash_s": f"{LEASH_S}", "look_s": "0.3"}
    return {f"INFERD_RAY__{name.upper()}": value for name, value in chosen.items()}


def until(client: Client, ready: Callable[[], bool], what: str) -> None:
    """Look each time that the kernel tells of its host."""
    deadline = time.monotonic() + DEADLINE_S
    for _ in client.watch_host(interval_s=0.3):
        if ready():
            return
        assert time.monotonic() < deadline, what


def states(client: Client) -> dict[str, int]:
    return {host.host_id: host.state for host in client.list_hosts()}


def agents_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    """The agents among them."""
    return [each for each in processes if AGENT in each.cmdline()]


def all_ended(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs."""
    return psutil.wait_procs([each for each in processes if not is_zombie(each)], timeout=0.5)[1] == []


def is_zombie(process: psutil.Process) -> bool:
    """Whether it has ended, and nobody has asked how."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def test_a_model_serves_on_ray_and_a_lost_node_costs_nothing(
    cluster: RayCluster, settings: dict[str, str], tmp_path: Path
) -> None:
    """Each node but the head is a host; what ran on one that is killed goes on on the other one, to the same end."""
    hosts = {name: cluster.nodes[name].host() for name in ("one", "two")}
    with (
        kernel_process(tmp_path, environment=settings) as kernel,
        Client(kernel.address) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        wanted = dict.fromkeys(hosts.values(), HOST_STATE_READY)
        until(client, lambda: wanted.items() <= states(client).items(), log_of(kernel))
        assert len(states(client)) == 3  # the kernel's own, and not the head's
        labels = {host.host_id: host.labels["group"] for host in client.list_hosts() if host.host_id in wanted}
        assert labels == {host: name for name, host in hosts.items()}

        source = str(write_fake_model(tmp_path, step_s=0.02))
        client.create_model("near", source, placement=PlacementRules(selector={"host": "local"}))
        undisturbed = client.generate("near", "la", max_tokens=400, temperature=0).text
        client.create_model("far", source, placement=PlacementRules(selector={"zone": "here"}))
        running = pool.submit(client.generate, "far", "la", max_tokens=400, temperature=0)
        until(client, lambda: client.get_host().running_tasks == 1, "it does not run")
        device = client.get_model("far").instances[0].device
        killed = next(name for name, host in hosts.items() if host == device.partition("/")[0])
        ran, left = (agents_of(cluster.nodes[name].processes()) for name in (killed, *(hosts.keys() - {killed})))
        assert len(ran) == len(left) == 1
        cluster.kill(killed)
        begun = time.monotonic()
        assert running.result(DEADLINE_S).text == undisturbed
        log.info("a task had its end %.1f s after its node was killed", time.monotonic() - begun)
        until(client, lambda: hosts[killed] not in states(client), log_of(kernel))  # Ray's word: it is known no longer
        log.info("the host of a killed node was forgotten after %.1f s", time.monotonic() - begun)
        until(client, lambda: all_ended(ran), "its agent runs on")
        told = read_state(tmp_path / "state")
        assert told is not None
        assert "ray:" in told.cluster
    assert not all_ended(left)
    deadline = time.monotonic() + DEADLINE_S
    while not all_ended(left):  # nobody asks for them for `ray.leash_s`
        assert time.monotonic() < deadline


def log_of(kernel: KernelProcess) -> str:
    return (kernel.folder / "kernel.log").read_text()[-6000:]


def test_nodes_come_and_go_with_what_waits(settings: dict[str, str], cluster: RayCluster, tmp_path: Path) -> None:
    """Over Ray's client server: no node has an agent until tasks wait, and none once it was idle for its time."""
    scaled = {"cluster": f"ray://127.0.0.1:{cluster.client_port}", "scale": "true", "ask_after_s": "0.5", "idle_s": "5"}
    settings |= {f"INFERD_RAY__{name.upper()}": value for name, value in scaled.items()}
    with kernel_process(tmp_path, environment=settings) as kernel, Client(kernel.address) as client:
        client.create_model("slow", str(write_fake_model(tmp_path, step_s=0.05)))
        tasks = [client.create_task("slow", "la", max_tokens=900, temperature=0) for _ in range(100)]
        until(client, lambda: HOST_STATE_READY in far(client).values(), log_of(kernel))
        for task in tasks:
            client.cancel_task(task.task_id)
        until(client, lambda: not far(client), log_of(kernel))


def far(client: Client) -> dict[str, int]:
    """The hosts that are nodes of Ray's."""
    return {each: state for each, state in states(client).items() if each.startswith("ray-")}
