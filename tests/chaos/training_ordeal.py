"""A training is killed at random moments, again and again: its losses and its result are those of the undisturbed one.

A process has the session alone: it goes on from the last checkpoint that is whole, as the engine does, and is killed
while it loads, computes a step or writes a checkpoint. Prints progress, then one JSON line:

    python tests/chaos/training_ordeal.py MODEL ROWS --kills 20 --steps 80
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

from inferd.core.training import TrainingMethod
from inferd.plugin import TrainingRecipe, TrainRequest
from inferd_torch.backend import TorchBackend
from inferd_torch.training import loading

RECIPE = TrainingRecipe(
    method=TrainingMethod.LORA, batch=4, accumulate=2, learning_rate=1e-3, most_tokens=64, dropout=0.1, seed=3
)


def train(model: Path, rows: Path, folder: Path, *, steps: int, every: int) -> None:
    """Be the process that is killed: tell each step; a checkpoint gets its name when it is whole."""
    count = sum(1 for _ in rows.open())
    recipe = replace(RECIPE, epochs=steps * RECIPE.batch / max(count - max(round(count * RECIPE.held), 1), 1))
    request = TrainRequest(
        path=model, rows=rows, held=None, recipe=recipe, device="cpu:0", capacity_bytes=8 << 30, cores=1
    )
    session = TorchBackend().train(request, lambda _: None)
    done = max((int(each.name) for each in folder.glob("[0-9]*") if each.name.isdecimal()), default=0)
    if done:
        session.restore(folder / str(done))
    print(f"loaded {done} {session.steps}", flush=True)
    for step in range(done + 1, session.steps + 1):
        told = session.step()
        print(f"step {step} {told.loss.hex()}", flush=True)
        if step % every == 0:
            part = folder / "part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            session.save(part)
            part.rename(folder / str(step))
    shutil.rmtree(folder / "result", ignore_errors=True)
    (folder / "result").mkdir()
    session.export(folder / "result")
    print("done", flush=True)


class Child:
    """A process that trains, and what it told: a fork of this one, which has imported all and computed nothing."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.losses: dict[int, str] = {}
        reads, writes = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(reads)
            os.dup2(writes, 1)
            code = 1
            try:
                train(options.model, options.rows, folder, steps=options.steps, every=options.every)
                code = 0
            finally:
                os._exit(code)
        os.close(writes)
        self._told = os.fdopen(reads)

    def read(self, most: int = sys.maxsize) -> bool:
        """Read until it has told so many lines; whether it is done."""
        for _ in range(most):
            line = self._told.readline().split()
            if not line:
                raise SystemExit("a process ended by itself")
            if line[0] == "done":
                return os.waitpid(self._pid, 0)[1] == 0
            self._keep(line)
        return False

    def kill(self) -> None:
        """End it as a crash would; what it told meanwhile is kept."""
        os.kill(self._pid, signal.SIGKILL)  # it is no other's yet: nobody has waited for it
        for line in map(str.split, self._told):
            self._keep(line)
        os.waitpid(self._pid, 0)

    def _keep(self, line: list[str]) -> None:
        if len(line) == 3 and line[0] == "step":  # a line may be cut
            self.losses[int(line[1])] = line[2]


def digest(folder: Path) -> str:
    """Of what was trained."""
    hashed = hashlib.sha256()
    for file in sorted((folder / "result").glob("*.safetensors")):
        hashed.update(file.read_bytes())
    return hashed.hexdigest()


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--every", type=int, default=1, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    assert loading  # torch and transformers, which take seconds
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as held:
        whole, killed = Path(held) / "whole", Path(held) / "killed"
        whole.mkdir()
        killed.mkdir()
        began = time.monotonic()
        reference = Child(options, whole)
        reference.read(1)
        loading_s = time.monotonic() - began
        assert reference.read()
        step_s = (time.monotonic() - began - loading_s) / options.steps  # with the checkpoint
        told: dict[int, set[str]] = {}
        moments = {"loading": 0, "steps": 0}
        moment = threading.Event()  # that never comes: a wait is a delay
        for number in range(options.kills):
            child = Child(options, killed)
            loads = rng.random() < 0.2
            if loads:
                moment.wait(rng.uniform(0, loading_s))
            elif child.read(2 + rng.randint(0, 2 * max(options.steps // options.kills - 2, 0))):
                raise SystemExit(f"it was done before kill {number + 1}; raise --steps ({options.steps})")
            else:
                moment.wait(rng.uniform(0, step_s))
            child.kill()
            moments["loading" if loads else "steps"] += 1
            for step, loss in child.losses.items():
                told.setdefault(step, set()).add(loss)
            print(f"kill {number + 1}: {len(told)} of {options.steps} steps were told", file=sys.stderr, flush=True)
        last = Child(options, killed)
        assert last.read()
        for step, loss in last.losses.items():
            told.setdefault(step, set()).add(loss)
        same_losses = told == {step: {loss} for step, loss in reference.losses.items()}
        same_weights = digest(whole) == digest(killed)
        found = {
            "kills": options.kills,
            "moments": moments,
            "steps": options.steps,
            "same_losses": same_losses,
            "same_weights": same_weights,
            "sha256": digest(killed),
            "load": os.getloadavg()[0],
        }
        print(json.dumps(found))
        if not (same_losses and same_weights):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
