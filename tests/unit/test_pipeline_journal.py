"""What is durable of a run, when its process is killed at moments that it cannot know of."""

from pathlib import Path

from pipeline_journal import ordeal


def test_a_run_whose_process_is_killed_gives_the_same(tmp_path: Path) -> None:
    """Killed with SIGKILL five times, a run ends with the digest of an undisturbed one, and no item is done twice."""
    told = ordeal(tmp_path, size_bytes=400_000, kills=5, seed=1, by_writes=3)
    assert (told.kills, told.same, told.twice) == (5, True, 0)
