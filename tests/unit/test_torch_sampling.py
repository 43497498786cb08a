import numpy as np
import pytest

from inferd.engine.token.sampler import BAD_ROW, Sampler
from inferd.sampling import Sampling

torch = pytest.importorskip("torch", reason="torch is not installed: it comes with the extra `torch`")

ROWS, SIZE = 64, 5000

PARAMETERS = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 40},
    {"temperature": 1.3, "top_p": 0.9},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 0.9, "top_k": 100, "top_p": 0.8, "min_p": 0.01},
]


def test_tokens_are_those_of_the_engine() -> None:
    """On the same logits the device chooses the token that the sampler of the engine chooses, for all parameters."""
    from inferd_torch.sampling import choose  # noqa: PLC0415 - needs torch

    rng = np.random.default_rng(1)
    sampler = Sampler(rows=ROWS, vocabulary_size=SIZE)
    for row in range(ROWS):
        sampler.assign(row, Sampling(seed=row, **PARAMETERS[row % len(PARAMETERS)]))
    differing = 0
    for step in range(20):
        logits = rng.normal(0, 3, (ROWS, SIZE)).astype(np.float32)
        positions = np.full(ROWS, step, np.int32)
        sampling = sampler.for_device(positions)
        ours = choose(torch.from_numpy(logits), sampling).numpy()
        differing += int((ours != sampler.choose(logits, positions)).sum())
    # A point that falls between two sums which differ in their last bit may go either way.
    assert differing <= 2


def test_a_row_that_is_not_finite_gets_no_token() -> None:
    """NaN, infinity and a row of nothing give -1, and the rows beside them their tokens."""
    from inferd_torch.sampling import choose  # noqa: PLC0415 - needs torch

    sampler = Sampler(rows=4, vocabulary_size=8)
    for row in range(4):
        sampler.assign(row, Sampling(temperature=row % 2))
    logits = np.zeros((4, 8), np.float32)
    logits[0, 3] = np.nan
    logits[1, 3] = np.inf
    logits[2, :] = -np.inf
    sampling = sampler.for_device(np.zeros(4, np.int32))
    ids = choose(torch.from_numpy(logits), sampling).tolist()
    assert ids[:3] == [BAD_ROW] * 3
    assert ids[3] >= 0


@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_row_is_looked_up_nowhere(parameters: dict[str, float], bad: float) -> None:
    """However a row that is not finite is to be drawn from, no place outside it is looked up: a GPU would be lost."""
    from inferd_torch.sampling import choose  # noqa: PLC0415 - needs torch

    sampler = Sampler(rows=3, vocabulary_size=8)
    for row in range(3):
        sampler.assign(row, Sampling(seed=row, **parameters))
    logits = np.zeros((3, 8), np.float32)
    logits[1, :] = bad
    sampling = sampler.for_device(np.zeros(3, np.int32))
    ids = choose(torch.from_numpy(logits), sampling).tolist()
    assert ids[1] == BAD_ROW
    assert all(0 <= ids[row] < 8 for row in (0, 2))


def test_rows_are_drawn_from_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """With few logits at a time, down to a row, the tokens are those of all at once."""
    from inferd_torch import sampling as chosen  # noqa: PLC0415 - needs torch

    sampler = Sampler(rows=ROWS, vocabulary_size=SIZE)
    for row in range(ROWS):
        sampler.assign(row, Sampling(seed=row, **PARAMETERS[row % len(PARAMETERS)]))
    logits = np.random.default_rng(3).normal(0, 3, (ROWS, SIZE)).astype(np.float32)
    sampling = sampler.for_device(np.zeros(ROWS, np.int32))
    whole = chosen.choose(torch.from_numpy(logits), sampling).tolist()
    for most in (1, 3 * SIZE):
        monkeypatch.setattr(chosen, "DRAWN_LOGITS", most)
        assert chosen.choose(torch.from_numpy(logits), sampling).tolist() == whole


def test_few_are_ranked_as_all_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """With top-k nothing beyond it is sorted, and the tokens are those of a whole sort, among equal weights as well."""
    from inferd.plugin import DeviceSampling  # noqa: PLC0415 - beside torch
    from inferd_torch import sampling as chosen  # noqa: PLC0415 - needs torch

    rng = np.random.default_rng(5)
    logits = torch.from_numpy(rng.integers(-6, 6, (ROWS, 700)).astype(np.float32)) / 2  # most are equal to others
    sampling = DeviceSampling(
        temperatures=rng.uniform(0.5, 1.5, ROWS),
        top_k=rng.integers(1, 700, ROWS),
        top_p=rng.uniform(0.3, 1.0, ROWS),
        min_p=rng.uniform(0, 0.05, ROWS),
        points=rng.uniform(0, 1, ROWS),
    )
    sorts: list[int] = []
    whole_sort = torch.Tensor.sort
    monkeypatch.setattr(torch.Tensor, "sort", lambda self, **how: sorts.append(1) or whole_sort(self, **how))
    few = chosen.choose(logits.clone(), sampling).tolist()
    assert not sorts
    monkeypatch.setattr(chosen, "MOST_RANKED", 0)
    assert chosen.choose(logits.clone(), sampling).tolist() == few
    assert sorts


def test_rows_that_need_their_logits_are_not_left_to_the_device() -> None:
    """A row with rules, or one that tells its probabilities, keeps its logits with the engine."""
    sampler = Sampler(rows=2, vocabulary_size=8)
    sampler.assign(0, Sampling())
    sampler.assign(1, Sampling(logprobs=0))
    assert sampler.keeps(None, 2).tolist() == [False, True]
