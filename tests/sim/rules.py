"""What must hold, whatever happens: each rule by name, so that a test can break it and see that it is noticed."""

from enum import Enum


class Rule(Enum):
    """A rule of the kernel; a run stops at the first event after which one does not hold."""

    ONE_END = "an accepted task gets exactly one terminal event, and no event after it"
    DISPATCH = "nothing is dispatched that has expired, was cancelled or is suspended"
    ONCE = "calls with the same `request_id` make one task, and all are told of it"
    ATTEMPT = "nothing runs twice at a time, or twice under one attempt"
    EXPIRY = "a task with a deadline, and every detached one, ends at the first event at or after its time"
    YIELD = "a class NORMAL waits no longer than `low_yields_s` while one of class LOW runs that had not its turn"
    ALONE = "a task that was present at two deaths of workers is sent to run alone, one at a time on an instance"
    POISON = "no task ends with its worker, but one that it died of while that ran alone"
    PLACES = "an instance has no more tasks than places, and no more kept for leases than there is"
    KEPT = "what an instance keeps for a lease is not given to others"
    IDLE = "no place, memory or core stays free while one waits that may have it"
    STARVATION = "a class passed over for the highest one is served by the second turn after twice the aging"
    ORDER = "capacity goes to the first in line: who passes it takes nothing that it waits for"
    DRAIN = (
        "an instance that the first in a line for memory waits for takes no new tasks, after `drain_s` or if it passed"
    )
    MEMORY = "what is held of a device's memory never exceeds it, nor what it had free when it was given"
    CORES = "what leases hold of a device's cores never exceeds them"
    SHARE = "instances under a lease take no more than it holds"
    EVICTION = "nothing that is leased or runs is evicted, and `min_instances` stay"
    INSTANCES = "a model has no more instances than `max_instances`; only living workers are used"
    EARLY = "a lease never ends before its time"
    LATE = "a lease ends at the first event at or after its time, and an alarm is set for it"
    ENDED = "a lease that has ended stays so, and nothing that hung on it goes on"
    FENCING = "fencing tokens rise, and go with whatever a lease gives"
    BOOKS = "the broker's accounts are those that follow from what was given"
    PLACEMENT = (
        "a model starts on a device that it may use, and does not wait for memory there when it fits another one"
    )
    PLAN = "what a plan says of a load is what the load then does"
    HOST = "nothing comes to a host that is not READY, but what leases have there while it drains"
    EMPTY = "an instance on a host that drains goes as soon as it has nothing to do"
    LOSS = "with a host that is lost go its instances and the leases of what it had, and no task ends with it"
    TOLD = "each change is told, in the order of the tables, and what was told is so"
    BOUND = "no more waits, is suspended, detached or retained than may, and nobody has more than its share of it"
    QUOTA = "what a tenant is given never exceeds a quota that is about it"
    REFUSAL = "every refusal has a reason of the wire API"
    VERSION = (
        "one version of a model serves, and it alone takes new tasks, but those of leases that hold another's part"
    )
    ROLLOUT = "no task ends for a version that could not be rolled out"
    GIVEN_BACK = "when all has ended, everything is free again"


class BrokenRuleError(AssertionError):
    """A rule does not hold."""

    def __init__(self, rule: Rule, what: str) -> None:
        super().__init__(f"{rule.name}: {what} ({rule.value})")
        self.rule = rule
