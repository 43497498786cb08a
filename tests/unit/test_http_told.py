"""What `inferd http` tells once it serves."""

import json
from pathlib import Path

import pytest

from inferd.cli.http import tell
from inferd.cli.output import Format, Output

URL = "http://127.0.0.1:7413"


@pytest.mark.parametrize("keyless", [False, True])
def test_where_the_dashboard_is(*, keyless: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """People and programs are told the dashboard's address, without the key; where it is off, neither is."""
    for dashboard in (True, False):
        for form in (Format.TABLE, Format.JSON):
            tell(Output(form), URL, "unix:/a", Path("/a/http.key"), "", keyless=keyless, dashboard=dashboard)
            told = capsys.readouterr().out
            if form is Format.JSON:
                assert json.loads(told)["dashboard"] == (f"{URL}/dashboard/" if dashboard else None)
            else:
                assert (f"dashboard: {URL}/dashboard/\n" in told) == dashboard
