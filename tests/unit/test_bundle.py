import asyncio

import pytest
from time_limits import LONG_S

from inferd.core.ids import InstanceId, TaskId
from inferd.core.task import Outcome, TaskState
from inferd.core.task_events import Finished, Output, Queued, Receipt, Started, TensorOutput
from inferd.errors import StoreUnavailableError
from inferd.runtime import bundle as bundles
from inferd.runtime.bundle import Bundle, Followed
from inferd.runtime.event_budget import EventBudget
from inferd.runtime.event_log import Numbered
from inferd.runtime.stream import TaskStream

INTERVAL_S = 0.01
DONE = Finished(
    Outcome(state=TaskState.SUCCEEDED),
    Receipt(queue_s=0, first_token_s=None, run_s=0, backend="", device="", worker_memory_bytes=0),
)


def stream(text: str = "") -> TaskStream:
    made = TaskStream(TaskId(f"task {text}"), 1 << 20, EventBudget(1 << 30))
    if text:
        made.tell(Output(text, (1,)))
    return made


def given(bundle: Bundle) -> list[tuple[int, str]]:
    """The texts that are there to give, by tag."""
    return [
        (followed.tag, "".join(n.event.text for n in batch if isinstance(n.event, Output)))
        for followed, batch in bundle.collect()[0]
    ]


async def waits_for_its_interval(bundle: Bundle, text: str) -> TaskStream:
    """A stream under tag 1 whose second output is held back by a timer."""
    followed = stream(text)
    bundle.follow(Followed(tag=1, stream=followed, interval_s=INTERVAL_S))
    assert given(bundle) == [(1, text)]
    followed.tell(Output("more", (2,)))
    assert given(bundle) == []
    return followed


async def interval_passes() -> None:
    """Until every timer that was set before has rung."""
    rung = asyncio.Event()
    asyncio.get_running_loop().call_later(2 * INTERVAL_S, rung.set)
    await asyncio.wait_for(rung.wait(), 60)


async def test_who_has_read_all_is_told_the_end_again() -> None:
    """A stream that has ended, followed from behind its last event, gives that one and is left: nobody waits on."""
    bundle, ended = Bundle(), stream("text")
    ended.tell(DONE)
    bundle.follow(Followed(tag=1, stream=ended, after=ended.last_sequence))
    ((followed, batch),), refused = bundle.collect()
    assert (followed.tag, [n.event for n in batch], refused) == (1, [DONE], [])
    assert len(bundle) == 0


async def test_sets_of_tensors_wait_for_an_interval_too() -> None:
    """Behind a set of tensors the next ones are held back by a timer, and given together at the end."""
    bundle, followed = Bundle(), stream()
    followed.tell(TensorOutput(b"a"))
    bundle.follow(Followed(tag=1, stream=followed, interval_s=3600))
    assert [[n.event for n in batch] for _, batch in bundle.collect()[0]] == [[TensorOutput(b"a")]]
    followed.tell(TensorOutput(b"b"))
    assert bundle.collect()[0] == []
    followed.tell(DONE)
    assert [[n.event for n in batch] for _, batch in bundle.collect()[0]] == [[TensorOutput(b"b"), DONE]]


@pytest.mark.parametrize("again", [False, True])
async def test_what_was_left_gives_nothing_when_its_interval_is_over(*, again: bool) -> None:
    """A tag that is left while output waits for its interval gives no more of it, and a new stream under it its own."""
    bundle = Bundle()
    left = await waits_for_its_interval(bundle, "old")
    bundle.leave(1)
    assert not left.listeners
    if again:
        bundle.follow(Followed(tag=1, stream=stream("new")))
        assert given(bundle) == [(1, "new")]
    await interval_passes()
    assert given(bundle) == []
    assert len(bundle) == again


async def test_what_is_followed_anew_gives_its_own_end() -> None:
    """A stream that takes the place of another one under its tag is the only one heard, up to its own end."""
    bundle = Bundle()
    old = await waits_for_its_interval(bundle, "old")
    new = stream("new")
    bundle.follow(Followed(tag=1, stream=new))
    assert not old.listeners
    old.tell(DONE)
    await interval_passes()
    assert given(bundle) == [(1, "new")]
    assert 1 in bundle
    new.tell(DONE)
    assert given(bundle) == [(1, "")]
    assert not len(bundle)


BEGUN = Started(InstanceId("i"), 1)


async def come(bundle: Bundle) -> asyncio.Task[None]:
    """What waits for something to give, begun."""
    waiting = asyncio.create_task(bundle.come())
    for _ in range(3):
        await asyncio.sleep(0)
    return waiting


@pytest.mark.parametrize("told_before", [False, True])
async def test_a_beginning_waits_for_what_comes_behind_it(
    monkeypatch: pytest.MonkeyPatch, *, told_before: bool
) -> None:
    """That a task waits or has begun is no reason to give; with its output, or the end of another, it is given."""
    monkeypatch.setattr(bundles, "MOMENT_S", 3600.0)
    bundle, one, other = Bundle(), stream(), stream("x")
    if told_before:
        one.tell(Queued(0))
    bundle.follow(Followed(tag=1, stream=one))
    if not told_before:
        one.tell(Queued(0))
    one.tell(BEGUN)
    waiting = await come(bundle)
    assert not waiting.done()
    bundle.follow(Followed(tag=2, stream=other))
    await asyncio.wait_for(waiting, 60)
    assert [(f.tag, len(batch)) for f, batch in bundle.collect()[0]] == [(1, 2), (2, 1)]
    one.tell(DONE)
    await asyncio.wait_for(bundle.come(), 60)
    assert [[n.event for n in batch] for _, batch in bundle.collect()[0]] == [[DONE]]


async def test_a_beginning_waits_no_longer_than_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing comes behind it, the beginning of a task is given by itself."""
    monkeypatch.setattr(bundles, "MOMENT_S", INTERVAL_S)
    bundle, one = Bundle(), stream()
    bundle.follow(Followed(tag=1, stream=one, interval_s=3600.0))
    one.tell(BEGUN)
    await asyncio.wait_for(bundle.come(), 60)
    assert [[n.event for n in batch] for _, batch in bundle.collect()[0]] == [[BEGUN]]


class Past:
    """Reads back what a stream holds no more, when it is let."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.pages: list[asyncio.Future[list[Numbered]]] = []

    def __call__(self, after: int, until: int) -> asyncio.Future[list[Numbered]]:
        self.asked.append((after, until))
        self.pages.append(asyncio.get_running_loop().create_future())
        return self.pages[-1]


def kept_elsewhere(events: int) -> tuple[TaskStream, Past]:
    """A stream that has ended, of which only the end is held."""
    made, past = stream(), Past()
    for _ in range(events - 1):
        made.tell(Output("x", (1,)))
    made.tell(DONE)
    made.drop_events()
    made.past = past
    return made, past


async def turns() -> None:
    """As long as others have something to do at once."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_held_no_more_is_read_back_beside_what_others_tell() -> None:
    """Its pages come as they are read, and others are given meanwhile; the end follows from what is held."""
    bundle, other = Bundle(), stream("other")
    ended, past = kept_elsewhere(6)
    bundle.follow(Followed(tag=1, stream=ended))
    bundle.follow(Followed(tag=2, stream=other))
    assert given(bundle) == [(2, "other")]
    await turns()
    assert past.asked == [(0, 5)]
    other.tell(Output("more", (2,)))
    assert given(bundle) == [(2, "more")]
    past.pages[0].set_result([Numbered(2, Output("ab", (1,))), Numbered(3, Output("c", (1,)))])
    await asyncio.wait_for(bundle.come(), LONG_S)
    assert given(bundle) == [(1, "abc")]
    assert given(bundle) == []
    await turns()
    assert past.asked[1:] == [(3, 5)]
    past.pages[1].set_result([Numbered(5, Output("de", (1,)))])
    await asyncio.wait_for(bundle.come(), LONG_S)
    assert given(bundle) == [(1, "de")]
    (((_, last),), _) = bundle.collect()
    assert [numbered.event for numbered in last] == [DONE]
    assert 1 not in bundle


async def test_a_page_is_given_in_as_many_messages_as_it_takes() -> None:
    """What of a page has no room in one message comes with the next, once, and nothing is read back again for it."""
    bundle = Bundle(batch_bytes=400)
    ended, past = kept_elsewhere(6)
    bundle.follow(Followed(tag=1, stream=ended))
    assert given(bundle) == []
    await turns()
    past.pages[0].set_result([Numbered(n, Output(str(n), (1,), n % 2)) for n in range(1, 6)])
    await asyncio.wait_for(bundle.come(), LONG_S)
    texts = [text for _ in range(5) for _, text in given(bundle)]
    assert ("".join(texts), len(past.asked)) == ("12345", 1)
    assert max(map(len, texts)) < 3


async def test_what_cannot_be_read_back_ends_its_tag_and_no_other() -> None:
    """An error of the store is the tag's; one that is left while it is read back is asked for nothing more."""
    bundle = Bundle()
    (failing, past), (left, other) = kept_elsewhere(3), kept_elsewhere(3)
    bundle.follow(Followed(tag=1, stream=failing))
    bundle.follow(Followed(tag=2, stream=left))
    assert given(bundle) == []
    await turns()
    past.pages[0].set_exception(StoreUnavailableError("no answer"))
    bundle.leave(2)
    await asyncio.wait_for(bundle.come(), LONG_S)
    told, refused = bundle.collect()
    assert (told, [(tag, error.reason) for tag, error in refused]) == ([], [(1, "STORE_UNAVAILABLE")])
    assert other.pages[0].cancelled()
    assert len(bundle) == 0


async def test_who_stopped_while_it_is_read_back_is_given_it_later() -> None:
    """A page that comes while its reader wants nothing waits for it."""
    bundle = Bundle()
    ended, past = kept_elsewhere(3)
    bundle.follow(Followed(tag=1, stream=ended))
    assert given(bundle) == []
    await turns()
    bundle.stop(1, stopped=True)
    past.pages[0].set_result([Numbered(2, Output("ab", (1,)))])
    await turns()
    assert given(bundle) == []
    bundle.stop(1, stopped=False)
    assert given(bundle) == [(1, "ab")]
