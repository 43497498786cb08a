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
