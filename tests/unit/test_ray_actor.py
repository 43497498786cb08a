"""The actor of a node: an agent in a process of its own, what it is given, and how its end is told."""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from time_limits import LONG_S

from inferd.ray import actor, agent_process
from inferd.ray.actor import AgentActor, Report

ORDERS = (
    "tls:kernel:7411,tls:other:7411",
    "secret-invitation",
    "ray-1",
    {"zone": "a"},
    "-----BEGIN CERTIFICATE-----",
    1 << 30,
)
TELLS = """
import json, os, sys
known = {"stdin": sys.stdin.read(), "argv": sys.argv[1:], "environment": dict(os.environ)}
open(os.environ["INFERD_STATE_DIR"] + "/../told.json", "w").write(json.dumps(known))
print(json.dumps({"epoch": 1}), flush=True)
"""
WAITS = TELLS + "import signal; signal.pause()"
FAILS = TELLS + 'print(json.dumps({"error": {"message": "no such invitation"}})); sys.exit(1)'


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AgentActor]:
    monkeypatch.setenv("INFERD_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("INFERD_CREDENTIAL", "of somebody else")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    found = AgentActor("ray-1", 60.0)
    yield found
    found.end()


def run(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(agent_process, "PROGRAM", (sys.executable, "-c", code))


def until(made: AgentActor, state: str) -> Report:
    """The first report that says so."""
    report = Report(*made.watch(0))
    while report.state != state:
        report = Report(*made.watch(report.number))
    return report


def test_the_invitation_goes_through_a_pipe(made: AgentActor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An agent is given its invitation by stdin: no argument and no variable has it, nor what is of others or Ray."""
    run(monkeypatch, WAITS)
    made.begin(ORDERS)
    until(made, "attached")
    told = json.loads((tmp_path / "ray" / "told.json").read_text())
    assert told["stdin"] == "secret-invitation"
    assert "secret-invitation" not in json.dumps([told["argv"], told["environment"]])
    assert told["argv"][1:] == [
        *(
            "host",
            "--join",
            *("tls:kernel:7411", "--join", "tls:other:7411"),
            "--name",
            "ray-1",
            "--token-file",
            "-",
            "--label",
            "zone=a",
            "-o",
            "json",
        )
    ]
    assert not [each for each in told["environment"] if each.startswith("RAY_") or each == "INFERD_CREDENTIAL"]
    assert int(told["environment"]["INFERD_HOSTS__CACHE_FOLDERS"]) > 1  # nodes of one machine have one data_dir
    assert json.loads(told["environment"]["INFERD_DEVICES__MEMORY_BYTES"]) == {"cpu:0": 1 << 30}
    assert Path(told["environment"]["INFERD_CA_FILE"]).read_text() == "-----BEGIN CERTIFICATE-----"


def test_an_agent_that_ends_is_told_with_the_reason(made: AgentActor, monkeypatch: pytest.MonkeyPatch) -> None:
    """How an agent ended is its code and what it said of it, and it can be begun again."""
    run(monkeypatch, FAILS)
    made.begin(ORDERS)
    assert until(made, "ended").why == "it ended with code 1: no such invitation"
    run(monkeypatch, WAITS)
    made.begin(ORDERS)
    assert until(made, "attached")


def test_nothing_is_left_of_what_is_ended(made: AgentActor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An actor that is ended has ended its agent, removed its files, and begins nothing more."""
    run(monkeypatch, WAITS)
    made.begin(ORDERS)
    until(made, "attached")
    made.end()
    assert until(made, "ended").why == "it was ended"
    assert not (tmp_path / "ray" / "ray-1").exists()
    made.begin(ORDERS)
    assert Report(*made.watch(0)).state == "ended"


def test_an_actor_of_which_nobody_asks_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """When nothing is heard for the leash, the agent ends and what is reserved is given back."""
    monkeypatch.setenv("INFERD_STATE_DIR", str(tmp_path))
    given_back = threading.Event()
    monkeypatch.setattr(actor, "give_back", given_back.set)
    made = AgentActor("ray-1", 0.05)
    assert given_back.wait(LONG_S)
    assert Report(*made.watch(0)).why == "nothing was heard for 0.05 s"


def test_an_agent_is_kept_by_one_process(made: AgentActor) -> None:
    """A second process that asks for an agent is told that it is another one's, as long as that is heard."""
    assert made.beat("first")
    assert made.beat("first")
    assert not made.beat("second")
