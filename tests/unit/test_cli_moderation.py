"""`inferd moderation` against a kernel."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from inferd.cli.main import app
from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_client import Client
from inferd_client.errors import ModeratedError


@pytest.mark.e2e
def test_rules_are_made_and_flags_resolved(tmp_path: Path) -> None:
    """For people and as JSON: a rule holds at once, what it finds waits, and an id may be cut."""
    with kernel_process(tmp_path, environment={"INFERD_BACKENDS": "[]"}) as kernel:

        def inferd(*words: object) -> Result:
            return CliRunner().invoke(app, ["moderation", *map(str, words), "--address", kernel.address])

        def told(*words: object) -> Any:
            return json.loads(inferd(*words, "-o", "json").stdout)

        assert inferd("rules", "list").stderr.startswith("no rules; make one with:")
        assert told("rules", "create", "x", "--action", "burn")["error"]["reason"] == "USAGE"
        assert told("rules", "create", "odd", "--word", "odd", "--action", "flag", "--inputs-only")["words"] == ["odd"]
        assert told("rules", "create", "end", "--pattern", "b[ae]d")["patterns"] == ["b[ae]d"]
        assert [rule["name"] for rule in told("rules", "list")["rules"]] == ["end", "odd"]
        with Client(kernel.address) as client:
            client.create_model("fake", str(write_fake_model(tmp_path)))
            assert client.generate("fake", "how odd", max_tokens=3, temperature=0.0).text
            with pytest.raises(ModeratedError) as caught:
                client.generate("fake", "so BAD", max_tokens=3)
        assert caught.value.metadata["rule"] == "end"
        (flag,) = told("flags")["flags"]
        assert (flag["rule"], flag["input"], flag["excerpt"]) == ("odd", True, "how odd")
        assert "how odd" in inferd("flags").stdout
        assert told("resolve", flag["flag_id"][:6], "--dismiss")["state"] == "FLAG_STATE_DISMISSED"
        assert inferd("flags").stderr.startswith("no open flags")
        assert inferd("rules", "delete", "odd").exit_code == 0
