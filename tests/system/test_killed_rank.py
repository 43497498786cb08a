"""A model over two ranks, in a kernel of its own: served, and gone on with when a rank ends in the middle of a stream.

Two ranks import a framework each, twice here: that is what the seconds go for, and nothing less has real ranks in a
real worker with its sandbox.
"""

from pathlib import Path

import psutil
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import tiny_networks as tiny

from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_client import Client

pytestmark = [pytest.mark.e2e]

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
TOKENS = 160
CUT_AT = 20
WALLS = ("Seccomp", "Seccomp_filters", "NoNewPrivs", "CapEff", "CapPrm", "CapBnd")


def expected(folder: Path) -> list[int]:
    """What transformers makes of the prompt, in one process."""
    import torch  # noqa: PLC0415 - behind the check that it is there

    network = tiny.write_network("llama", folder, num_attention_heads=8, num_key_value_heads=4, head_dim=8)
    network.generation_config.eos_token_id = None
    given = network.generate(torch.tensor([PROMPT]), do_sample=False, max_new_tokens=TOKENS)
    return [int(token) for token in given[0, len(PROMPT) :]]


def find_rank(kernel: KernelProcess) -> psutil.Process:
    """The process of rank 1: of those that the worker has forked, the one that has a framework."""
    (worker,) = [
        child for child in psutil.Process(kernel.pid).children() if "inferd.worker" in " ".join(child.cmdline())
    ]
    return max(worker.children(), key=lambda child: child.memory_info().rss)


def walls(pid: int) -> dict[str, str]:
    """What keeps a process in, as the system tells of it: filters of calls, capabilities, what it may become."""
    lines = (line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {line[0]: line[1] for line in lines if line[0] in WALLS}


def test_a_killed_rank_ends_the_instance_and_its_tasks_go_on(tmp_path: Path) -> None:
    """The stream over two ranks, one of which is killed half-way, is that of one process; the log names the rank.

    It had the walls of its worker.
    """
    folder = tmp_path / "tiny-0.1"
    wanted = expected(folder)
    with kernel_process(tmp_path / "kernel") as kernel, Client(kernel.address) as client:
        client.create_model("tiny", source=str(folder), backend="torch", settings={"ranks": "2"})
        tokens: list[int] = []
        killed = 0
        for event in client.run("tiny", PROMPT, temperature=0.0, max_tokens=TOKENS, ignore_eos=True):
            tokens += event.output.token_ids
            if not killed and len(tokens) >= CUT_AT:
                rank = find_rank(kernel)
                killed = rank.pid
                assert walls(rank.pid) == walls(rank.ppid())
                rank.kill()
        assert tokens == wanted
        said = "".join(log.read_text() for log in (tmp_path / "kernel").rglob("*.log"))
        assert f"rank 1 of 2 (process {killed}) was ended by signal 9 (SIGKILL)" in said
