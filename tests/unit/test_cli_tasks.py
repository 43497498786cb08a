"""What `inferd tasks` shows."""

import json
from typing import Any

from typer.testing import CliRunner

from inferd.cli import main
from inferd_api.v1 import task_pb2 as tp


def test_the_list_of_tasks_is_watched(scripted: Any) -> None:
    """`tasks --watch` tells each task as it stands and each change in a line; as JSON, each message of the kernel."""
    command = ["tasks", "--watch", "--tenant", "blue", "--address", scripted.address]
    lines = CliRunner().invoke(main.app, command).stdout.splitlines()
    assert [line.split(" · ")[1:4] for line in lines] == [
        ["t-2", "echo", "running"],
        ["t-1", "echo", "running"],
        ["t-1", "echo", "failed"],
    ]
    assert scripted.tenants[-1] == "blue"
    told = CliRunner().invoke(main.app, [*command, "-o", "json"]).stdout.splitlines()
    first, second = (json.loads(line) for line in told)
    assert (first["anew"], second["forgotten_task_ids"]) == (True, ["t-2"])


def test_a_task_is_left_with_the_kernel(scripted: Any) -> None:
    """`run --detach` creates a task and tells its id alone on stdout; --request-id goes along."""
    command = ["run", "echo", "hi", "--detach", "--request-id", "once", "--max-tokens", "9", "--address"]
    told = CliRunner().invoke(main.app, [*command, scripted.address])
    assert told.stdout == "t-9\n"
    request = scripted.requests[-1]
    assert (request.request_id, request.spec.sampling.max_tokens) == ("once", 9)
    assert [message.content for message in request.spec.chat.messages] == ["hi"]
    document = json.loads(CliRunner().invoke(main.app, [*command, scripted.address, "-o", "json"]).stdout)
    assert document["task_id"] == "t-9"


def test_a_list_of_tasks_has_a_bound_and_states(scripted: Any) -> None:
    """`tasks --limit` tells so many and that there are more, and `--state` asks the kernel for those of a state."""
    command = ["tasks", "--address", scripted.address]
    told = CliRunner().invoke(main.app, [*command, "--limit", "2", "--state", "failed", "--state", "queued"])
    assert [line.split()[0] for line in told.stdout.splitlines()[1:]] == ["t-3", "t-2"]
    assert "there are more than these 2" in told.stderr
    states = [request.states for request in scripted.requests if hasattr(request, "states")]
    assert list(states[-1]) == [tp.TASK_STATE_FAILED, tp.TASK_STATE_QUEUED]
    assert "there are more" not in CliRunner().invoke(main.app, [*command, "--limit", "3"]).stderr
