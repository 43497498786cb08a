"""How the dashboard's page reads its stream again and again, in node: without a browser."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from time_limits import LONG_S

from inferd.http.dashboard.pages import FOLDER

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")
BEGIN = """
import { Following } from "./following.mjs";
const reads = [], pauses = [], said = [];
const read = (signal, each) => new Promise((done, failed) => {
  reads.push({ signal, each, done, failed });
  signal.addEventListener("abort", () => failed(new Error("aborted")));
});
const pause = () => new Promise((done) => pauses.push(done));
const following = new Following(read, {
  told: (told) => said.push(told), away: () => said.push("away"), refused: (error) => said.push(error.status),
}, pause);
const turn = () => new Promise((done) => setImmediate(done));
"""


def told_by(folder: Path, script: str) -> Any:
    """What a script of node prints, as JSON."""
    shutil.copy(FOLDER / "following.js", folder / "following.mjs")
    (folder / "script.mjs").write_text(BEGIN + script)
    ran = subprocess.run([str(NODE), "script.mjs"], cwd=folder, capture_output=True, timeout=LONG_S, check=True)
    return json.loads(ran.stdout)


def test_a_login_that_ends_while_the_gateway_is_away(tmp_path: Path) -> None:
    """Who signs out while the stream waits to be read again is not signed in by it; the next has the only stream."""
    told = told_by(
        tmp_path,
        """
        following.begin(); await turn();
        reads[0].failed(new Error("away")); await turn();
        following.end(); following.begin(); await turn();
        pauses[0](); await turn();
        console.log(JSON.stringify({ reads: reads.length, open: !reads[1].signal.aborted, said }));
        """,
    )
    assert told == {"reads": 2, "open": True, "said": ["away"]}


def test_what_comes_of_a_former_stream(tmp_path: Path) -> None:
    """A stream that is begun ends the one before, of which nothing is heard any more; signing out ends both."""
    told = told_by(
        tmp_path,
        """
        following.begin(); await turn();
        following.begin(); await turn();
        reads[0].each("former"); reads[1].each("own");
        const first = reads[0].signal.aborted;
        following.end(); await turn();
        reads[1].each("late");
        console.log(JSON.stringify({ first, second: reads[1].signal.aborted, reads: reads.length, said }));
        """,
    )
    assert told == {"first": True, "second": True, "reads": 2, "said": ["own"]}


def test_a_key_that_is_refused(tmp_path: Path) -> None:
    """A stream that ends is read again behind a pause, one whose key is refused is not."""
    told = told_by(
        tmp_path,
        """
        following.begin(); await turn();
        reads[0].done(); await turn(); pauses[0](); await turn();
        reads[1].failed(Object.assign(new Error("no"), { status: 401 })); await turn();
        console.log(JSON.stringify({ reads: reads.length, pauses: pauses.length, said }));
        """,
    )
    assert told == {"reads": 2, "pauses": 1, "said": ["away", 401]}
