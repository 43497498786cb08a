"""How long an agent waits for a kernel of which nothing is heard."""

from inferd.agent.agent import SILENT_PART, SILENT_SPREAD, silent_most_s
from inferd_api.agent.v1 import agent_pb2 as wire

AGENTS = 200


def test_agents_of_a_silent_kernel_do_not_all_connect_anew_at_once() -> None:
    """Their times are spread over half of the least one, and all within that after which a host is lost."""
    bounds = wire.LinkBounds(beat_s=0.5, detection_s=3.0)
    least_s = bounds.detection_s / SILENT_PART
    drawn = sorted(silent_most_s(bounds) for _ in range(AGENTS))
    assert least_s <= drawn[0] < drawn[-1] <= least_s * (1 + SILENT_SPREAD) < bounds.detection_s
    assert drawn[-1] - drawn[0] > least_s * SILENT_SPREAD / 2


def test_the_spread_leaves_time_before_the_host_is_lost() -> None:
    """With beats so rare that half as much longer would be too late, it is less, down to none."""
    for beat_s, most_s in ((0.8, 2.2), (0.9, 2.1), (1.4, 2.8)):
        bounds = wire.LinkBounds(beat_s=beat_s, detection_s=3.0)
        drawn = [silent_most_s(bounds) for _ in range(AGENTS)]
        assert 2 * beat_s <= min(drawn) <= max(drawn) <= most_s + 1e-9
