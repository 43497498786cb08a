"""`inferd optimize`: what it asks for, and how it tells what was found."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status
from typer.testing import CliRunner, Result

from inferd.cli import main
from inferd_api.v1 import optimize_pb2 as op

Commands = Callable[..., Result]


def measurement(rate: float, loss: float) -> op.Measurement:
    return op.Measurement(
        tokens_per_second=rate,
        first_token_duration=Duration(nanos=50_000_000),
        token_duration=Duration(nanos=10_000_000),
        answer_duration=Duration(nanos=int(1e9 / rate)),
        memory_bytes=int(1e6 * rate),
        perplexity=20 * (1 + loss),
        loss=loss,
        agreement=1 - loss,
        rounds=1,
    )


ORIGINAL = op.Trial(number=1, state=op.TRIAL_STATE_MEASURED, measurement=measurement(100.0, 0.0))
BETTER = op.Trial(
    number=2, state=op.TRIAL_STATE_MEASURED, settings={"kv_format": "i8<&>"}, measurement=measurement(150.0, 0.004)
)
WORSE = op.Trial(
    number=3, state=op.TRIAL_STATE_REJECTED, settings={"quantization": "4bit"}, measurement=op.Measurement(loss=0.2)
)
FULL = op.Trial(number=4, state=op.TRIAL_STATE_NO_ROOM, settings={"kv_format": "f32"}, reason="does not fit cpu:0")
BROKEN = op.Trial(number=5, state=op.TRIAL_STATE_FAILED, settings={"threads": "1"}, error=Status(message="cut off"))
TRIALS = [ORIGINAL, BETTER, WORSE, FULL, BROKEN]


def report(best: op.Trial = BETTER, **more: Any) -> op.OptimizationReport:
    return op.OptimizationReport(
        **{
            "best": best,
            "original": ORIGINAL,
            "settings": best.settings,
            "gain": best.measurement.tokens_per_second / 100.0,
            "trials": TRIALS,
            "text_tokens": 4096,
            "target": op.OPTIMIZATION_TARGET_THROUGHPUT,
            **more,
        }
    )


@pytest.fixture
def inferd(scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Runs `inferd optimize echo` against the scripted kernel, with a text."""
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "none.toml"))
    (tmp_path / "text").write_text("to be or not to be")
    plan = op.OptimizationPlan(knobs=[op.Knob(setting="kv_format", values=["i8", "f32"])], trials=9, trial_model="t")
    scripted.tried[:] = [
        op.OptimizeModelResponse(plan=plan),
        op.OptimizeModelResponse(trial=op.Trial(number=1, state=op.TRIAL_STATE_RUNNING)),
        *(op.OptimizeModelResponse(trial=trial) for trial in TRIALS),
        op.OptimizeModelResponse(report=report()),
    ]
    given = ("--text", str(tmp_path / "text"), "--address", scripted.address)
    return lambda *words: CliRunner().invoke(main.app, ["optimize", "echo", *given, *words])


def test_it_tells_each_trial_and_what_was_found(scripted: Any, inferd: Commands) -> None:
    """Progress on stderr; a table, bars and the conclusion with its cost in quality on stdout; nothing is changed."""
    done = inferd("--target", "throughput", "--quality", "2%", "--agreement", "0.9", "--vary", "kv_format")
    assert done.exit_code == 0, done.output
    (asked,) = scripted.requests
    assert (asked.model, asked.text, asked.target) == ("echo", "to be or not to be", op.OPTIMIZATION_TARGET_THROUGHPUT)
    assert (asked.most_loss, asked.least_agreement, [*asked.vary]) == (0.02, 0.9, ["kv_format"])
    assert not asked.HasField("trials")
    assert "at most 9 trials" in done.stderr
    assert "2/9 kv_format=i8<&>: measured, 150.0 tokens/s, perplexity +0.40%" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["TRIAL", "STATE", "SETTINGS", "TOKENS/S"]
    assert "does not fit cpu:0" in lines[4]
    assert "cut off" in lines[5]
    bars = [line for line in lines if "####" in line]
    assert [(bar.split()[0], bar.count("#")) for bar in bars] == [("2", 40), ("1", 27)]
    assert bars[0].endswith("<- best")
    assert "kv_format=i8<&>: 150.0 tokens/s instead of 100.0 tokens/s, 1.50 times as good" in done.stdout
    assert "(+0.40%), the same likeliest token at 99.6% of 4096 tokens" in done.stdout
    assert lines[-1] == "to have it: inferd models set echo kv_format=i8<&>"


def test_apply_rolls_out_what_was_found(scripted: Any, inferd: Commands) -> None:
    """As `inferd models set` would; where nothing is better there is nothing to roll out."""
    done = inferd("--apply", "-o", "json")
    assert done.exit_code == 0, done.output
    assert (scripted.requests[-1].name, dict(scripted.requests[-1].settings)) == ("echo", {"kv_format": "i8<&>"})
    found = json.loads(done.stdout)
    assert (found["applied_version"], found["gain"], len(found["trials"])) == (1, 1.5, 5)
    scripted.tried[-1] = op.OptimizeModelResponse(report=report(ORIGINAL, ended_early="no time"))
    done = inferd("--apply")
    assert "nothing is better than the model as it is: 100.0 tokens/s" in done.stdout
    assert "no time" in done.stdout
    assert scripted.requests[-1].model == "echo"


@pytest.mark.parametrize("target", [op.OPTIMIZATION_TARGET_LATENCY, op.OPTIMIZATION_TARGET_MEMORY])
def test_other_targets_are_told_in_their_units(scripted: Any, inferd: Commands, target: Any) -> None:
    """The time of an answer, and memory: the shorter and the smaller is the better, with the longer bar."""
    scripted.tried[-1] = op.OptimizeModelResponse(report=report(ORIGINAL, target=target))
    done = inferd()
    first = next(line for line in done.stdout.splitlines() if "####" in line)
    unit, number = ("6.7 ms for an answer", "2") if target == op.OPTIMIZATION_TARGET_LATENCY else ("100 MB", "1")
    assert unit in first
    assert first.split()[0] == number


def test_a_report_is_a_file(inferd: Commands, tmp_path: Path) -> None:
    """An SVG and a page that stand alone, with a dot for each trial that was measured, or the JSON of the report."""
    for ending in ("json", "svg", "html"):
        assert inferd("--report", str(tmp_path / f"r.{ending}")).exit_code == 0
    assert json.loads((tmp_path / "r.json").read_text())["text_tokens"] == 4096
    root = ET.fromstring((tmp_path / "r.svg").read_text())  # noqa: S314 - our own
    titles = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["1: as it is, 100.0 tokens/s, +0.00%", "2: kv_format=i8<&>, 150.0 tokens/s, +0.40%"]
    page = (tmp_path / "r.html").read_text()
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, _: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(page)
    assert (tags.count("tr"), tags.count("circle"), tags.count("svg")) == (6, 2, 1)
    assert "i8&lt;&amp;&gt;" in page
    assert "i8<" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_what_cannot_be_is_refused_before_anything_is_tried(scripted: Any, inferd: Commands, tmp_path: Path) -> None:
    """A part that is none, a file of another kind, a text that is none."""
    (tmp_path / "bytes").write_bytes(b"ok \xff")
    for words, why in (
        (("--quality", "little"), 'write it like "1%"'),
        (("--report", "r.pdf"), "ends on '.pdf'"),
        (("--text", str(tmp_path / "bytes")), "byte 3 is 0xff"),
        (("--target", "size"), "throughput"),
    ):
        done = inferd(*words)
        assert done.exit_code in (1, 2), words
        assert not scripted.requests
        assert why in " ".join(done.output.split()), done.output
