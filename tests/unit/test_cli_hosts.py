"""`inferd hosts`, `inferd logs` and selectors of models against a kernel."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from inferd.cli.main import app
from inferd.testing.kernel import kernel_process, write_fake_model


@pytest.mark.e2e
def test_hosts_are_listed_and_told_what_operators_want(tmp_path: Path) -> None:
    """For people and as JSON: a host is cordoned, drained and resumed, a wrong selector is told, logs are read."""
    with kernel_process(tmp_path, environment={"INFERD_BACKENDS": "[]"}) as kernel:

        def inferd(*words: object) -> Result:
            return CliRunner().invoke(app, [*map(str, words), "--address", kernel.address])

        def told(*words: object) -> Any:
            return json.loads(inferd(*words, "-o", "json").stdout)

        (host,) = told("hosts")["hosts"]
        assert (host["host_id"], host["state"]) == ("local", "HOST_STATE_READY")
        model = write_fake_model(tmp_path, "m")
        error = told("models", "add", model, "--selector", "hosst=local")["error"]
        assert (error["reason"], "did you mean 'host'" in error["message"]) == ("INVALID_FIELD", True)
        added = told("models", "add", model, "--selector", "host=local", "--apart")
        assert added["placement"] == {
            "selector": {"host": "local"},
            "strategy": "PLACEMENT_STRATEGY_SPREAD",
            "apart": True,
        }
        assert "host=local, no two on one host" in inferd("show", "m").stdout
        assert inferd("load", "m").exit_code == 0
        listed = inferd("hosts").stdout
        assert "READY" in listed.upper()
        assert "m" in told("hosts", "show", "local")["models"]
        assert "gets no new instances; it has 1 instance" in inferd("hosts", "cordon", "local").stdout
        assert "local takes instances again" in inferd("hosts", "resume", "local").stdout
        assert told("hosts", "drain", "local")["drained"]
        assert told("hosts", "rm", "local")["error"]["reason"] == "INVALID_FIELD"
        assert inferd("hosts", "resume", "local").exit_code == 0
        assert inferd("logs", "m-1").exit_code == 0
        assert told("logs", "nobody-1")["error"]["reason"] == "INVALID_FIELD"
