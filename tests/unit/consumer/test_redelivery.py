"""What a consumer does with a redelivered task: by what is at the place of its slot."""

from collective.taskqueue.consumer.redelivery import Before
from collective.taskqueue.consumer.redelivery import COMMITTED
from collective.taskqueue.consumer.redelivery import Found
from collective.taskqueue.consumer.redelivery import look as look_again
from collective.taskqueue.consumer.redelivery import taken
from collective.taskqueue.task import Lease
from collective.taskqueue.task import NO_SLOT
from collective.taskqueue.task import Outcome
from collective.taskqueue.task import Task
from dataclasses import replace
import pytest


DONE = Outcome(200, body=b"done")
SLOT = "1" * 96

PACKED = "a pack may have removed its slot"
BY_ITSELF = "its view had committed by itself before its process was lost"
WITHOUT = "it had no slot when its process was lost"


def look(slots, lease, max_deliveries=3):
    return look_again(slots, lease, max_deliveries)


class Slots:
    """Finds what a test says, or raises it."""

    def __init__(self, found):
        self.found = found
        self.asked = []

    def find(self, reference, task):
        self.asked.append((reference, task.id))
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def lease(lost=1, slot=SLOT, url="/view", once=False, attempt=2):
    task = Task(id="task", queue="default", url=url, once=once)
    return Lease(task, "token", "consumer", attempt, 0, 0.0, slot=slot, lost=lost)


def test_without_slots_it_runs_again(caplog):
    """As in a local queue; with `once` a person decides."""
    assert look(None, lease()) == Before()
    assert look(None, lease(lost=0, once=True)) == Before()
    assert look(None, lease(once=True)).outcome.verdict == "discard"
    assert caplog.messages == []


def test_lost_too_often_it_does_not_run():
    """It was delivered to find out whether it has committed."""
    before = look(Slots(Found()), lease(lost=3))
    assert before.outcome == Outcome(None, "its process was lost 3 times", verdict="discard")
    before = look(Slots(Found(True, True, DONE)), lease(lost=3))
    assert before.outcome.ok
    hook = lease(lost=3, url="https://example.org/")
    assert look(Slots(Found()), hook).outcome.verdict == "discard"


def test_what_has_committed_ends_as_it_did(caplog):
    before = look(Slots(Found(True, True, DONE)), lease())
    assert before == Before(replace(DONE, drops_slot=True, note=COMMITTED), drops_slot=True)
    assert caplog.messages == [f"task task: {COMMITTED}, not run again"]


def test_what_has_not_committed_runs_with_the_same_slot(caplog):
    slots = Slots(Found())
    assert look(slots, lease()) == Before(slot=SLOT)
    assert (slots.asked, caplog.messages) == ([(SLOT, "task")], [])


def test_a_taken_place_is_exchanged(caplog):
    """Another object is there, so the lost process has not committed: it is not in doubt."""
    assert look(Slots(Found(is_there=True)), lease(once=True)) == Before(taken(), drops_slot=True)
    assert (taken().verdict, taken().retry_after) == ("postpone", 0.0)
    assert caplog.messages == []


#: What is in doubt: what was found, more about the lease, the reason, and what runs without `once`.
IN_DOUBT = [
    (Found(may_be_packed=True), {}, PACKED, Before(slot=SLOT)),
    (Found(True, may_be_packed=True), {}, PACKED, Before(taken(), drops_slot=True)),
    (Found(True, True, None), {}, BY_ITSELF, Before(drops_slot=True)),
    (ValueError("odd"), {}, "its slot is damaged (odd)", Before(drops_slot=True)),
    (Found(), {"slot": NO_SLOT}, WITHOUT, Before(drops_slot=True)),
]


@pytest.mark.parametrize(("found", "more", "why", "runs"), IN_DOUBT)
def test_what_is_in_doubt_runs_again_and_is_logged(found, more, why, runs, caplog):
    assert look(Slots(found), lease(**more)) == runs
    assert caplog.messages == [f"task task: {why}, it runs again and may be done twice"]


@pytest.mark.parametrize(("found", "more", "why", "runs"), IN_DOUBT)
def test_what_is_in_doubt_fails_with_once(found, more, why, runs, caplog):
    before = look(Slots(found), lease(once=True, **more))
    assert before.outcome.verdict == "discard"
    assert before.outcome.reason == f"{why}, so it may have been done; a person has to decide"
    # Somebody who retries it wants it to run.
    assert before.drops_slot
    assert caplog.messages == []


@pytest.mark.parametrize("found", [Found(may_be_packed=True), Found(True, may_be_packed=True)])
def test_without_a_loss_a_pack_is_no_doubt(found, caplog):
    """Every earlier attempt was completed: its outcome is known."""
    before = look(Slots(found), lease(lost=0, once=True))
    assert before.outcome in (None, taken())
    assert caplog.messages == []
    assert look(Slots(found), lease(lost=0, slot=None, once=True)) == Before()


def test_a_database_that_cannot_be_read_is_waited_for():
    """Not even a task with `once` is lost by an outage."""
    before = look(Slots(OSError("down")), lease(once=True))
    assert before.outcome.verdict == "postpone"
    assert not before.drops_slot
    assert "OSError" in before.outcome.reason


def test_a_web_hook_has_no_slot(caplog):
    """It is called again."""
    slots = Slots(AssertionError())
    assert look(slots, lease(url="https://example.org/")) == Before()
    assert (slots.asked, caplog.messages) == ([], [])
