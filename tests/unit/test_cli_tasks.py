"""What `inferd tasks` shows."""

import json
from typing import Any

from typer.testing import CliRunner

from inferd.cli import main


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
