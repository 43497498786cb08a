"""`inferd quotas` against a kernel."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from inferd.cli.main import app
from inferd.testing.kernel import kernel_process
from inferd_client import Client
from inferd_client.claims import memory
from inferd_client.errors import QuotaExceededError


@pytest.mark.e2e
def test_quotas_are_made_listed_and_deleted(tmp_path: Path) -> None:
    """For people and as JSON; a lease beyond one is refused with what to do, and an id may be cut."""
    with kernel_process(tmp_path, environment={"INFERD_BACKENDS": "[]"}) as kernel:

        def inferd(*words: object) -> Result:
            return CliRunner().invoke(app, ["quotas", *map(str, words), "--address", kernel.address])

        def told(*words: object) -> Any:
            return json.loads(inferd(*words, "-o", "json").stdout)

        assert inferd("list").stderr.startswith("no quotas; make one with:")
        assert told("create")["error"]["reason"] == "USAGE"
        quota = told("create", "--tenants", "d*", "--lease-bytes", "1KB", "--device-seconds-per-day", "7200")
        assert (quota["tenants"], quota["lease_bytes"], quota["device_seconds_per_day"]) == ("d*", "1000", 7200.0)
        with Client(kernel.address) as client:
            with pytest.raises(QuotaExceededError, match="has 0 bytes of leased memory"):
                client.create_lease(memory(2000, device_id="fake:0"))
            client.create_lease(memory(600, device_id="fake:0"))
        listed = told("list")
        assert [each["quota_id"] for each in listed["quotas"]] == [quota["quota_id"]]
        assert [(each["tenant"], each["lease_bytes"]) for each in listed["uses"]] == [("default", "600")]
        assert "600 B of 1.0 kB" in inferd("list").stdout
        shown = CliRunner().invoke(app, ["top", "--once", "-o", "json", "--address", kernel.address])
        assert [each["lease_bytes"] for each in json.loads(shown.stdout)["quota_uses"]] == ["600"]
        assert inferd("delete", quota["quota_id"][:6]).exit_code == 0
        assert told("list") == {"quotas": [], "uses": []}
