"""Lists: the fields of a task that they show, and the tasks of one person."""

from __future__ import annotations

from collective.taskqueue.task import CANCELLED
from collective.taskqueue.task import FAILED
from collective.taskqueue.task import Identity
from collective.taskqueue.task import Progress
from collective.taskqueue.task import QUEUED
from collective.taskqueue.task import RUNNING
from collective.taskqueue.task import SCHEDULED
from collective.taskqueue.task import State
from collective.taskqueue.task import STATES
from collective.taskqueue.task import SUCCEEDED
from collective.taskqueue.testing.contract.base import add_one
from collective.taskqueue.testing.contract.base import assert_consistent
from collective.taskqueue.testing.contract.base import Base
from collective.taskqueue.testing.contract.base import brief_of
from collective.taskqueue.testing.contract.base import bring_to
from collective.taskqueue.testing.contract.base import completed
from collective.taskqueue.testing.contract.base import ids
from collective.taskqueue.testing.contract.base import lose
from collective.taskqueue.testing.contract.base import take
from dataclasses import replace
from typing import Any
import pytest


ORDER: tuple[State, ...] = (SUCCEEDED, FAILED, CANCELLED, RUNNING, SCHEDULED, QUEUED)

JANE = Identity("/Plone/acl_users", "jane")

#: Other users, with names that resemble hers or the name of an index.
OTHERS = (
    Identity("/acl_users", "jane"),
    Identity("/Plone/acl_users", "jane", 1),
    Identity("/Plone/acl_users", "Jane"),
    Identity("/Plone/acl_users", "jane "),
    Identity("/Plone/acl_users", "queued:jane"),
    Identity("/Plone/acl_users", "of:queued:jane"),
    Identity("/Plone/acl_users", "j\N{LATIN SMALL LETTER A WITH DIAERESIS}ne%'\\_\"*"),
    Identity("/Plone/acl_users", "j" * 5000),
)


class Identities(Base):
    """A user id is no person: a person is user folder, user id, and a number for reused ids."""

    def test_tasks_of_one_person(self, storage: Any, clock: Any) -> None:
        """In each state, in the order of the state, with pages; no tasks of other persons."""
        expected = dict.fromkeys(STATES, 0)
        tasks = []
        for state in ORDER:
            for user in (OTHERS[0], JANE, OTHERS[1], None):
                tasks.append(bring_to(storage, clock, state, user=user))
            expected[state] += 1
            assert storage.admin.counts(JANE) == expected
        hers = [task for task in tasks if task.user == JANE]
        assert ids(storage.admin.tasks(user=JANE)) == ids(hers)
        assert ids(storage.admin.tasks(None, JANE, 2, 2)) == ids(hers[2:4])
        for state, task in zip(ORDER, hers, strict=True):
            assert ids(storage.admin.tasks(state, JANE)) == [task.id]
            assert storage.admin.tasks(state, JANE, 1) == []
        assert_consistent(storage)

    @pytest.mark.parametrize("other", OTHERS, ids=range(len(OTHERS)))
    def test_one_person_is_not_another(self, storage: Any, other: Identity) -> None:
        """Lists and counts of a person exclude others; those of a user id ignore the folder."""
        task = add_one(storage, user=other)
        assert storage.admin.tasks(user=JANE) == storage.admin.tasks(QUEUED, JANE) == []
        assert storage.admin.counts(JANE) == dict.fromkeys(STATES, 0)
        assert (
            ids(storage.admin.tasks(user=other))
            == ids(storage.admin.tasks(QUEUED, other))
            == [task.id]
        )
        assert storage.admin.counts(other) == {**dict.fromkeys(STATES, 0), QUEUED: 1}
        assert ids(storage.admin.tasks(user=other.id)) == [task.id]
        assert storage.admin.counts(other.id)[QUEUED] == 1
        assert storage.admin.counts("jane")[QUEUED] == (other.id == "jane")
        assert take(storage).task.user == other

    def test_a_user_without_tasks(self, storage: Any) -> None:
        """A task without a user is in the lists of all tasks only."""
        add_one(storage)
        for user in ("", Identity("", "")):
            assert storage.admin.tasks(user=user) == storage.admin.tasks(QUEUED, user) == []
            assert storage.admin.counts(user) == dict.fromkeys(STATES, 0)

    def test_the_tasks_of_a_person_follow_every_change(self, storage: Any, clock: Any) -> None:
        """Delayed, run now, reserved, released, lost, retried, cancelled and removed."""
        task = add_one(storage, user=JANE, due=clock() + 100)
        add_one(storage, user=OTHERS[0], due=clock() + 100)

        def found() -> list[State]:
            assert_consistent(storage)
            assert ids(storage.admin.tasks(user=JANE)) == [task.id]
            return [state for state in STATES if ids(storage.admin.tasks(state, JANE)) == [task.id]]

        assert found() == [SCHEDULED]
        storage.admin.run_now(task.id)
        assert found() == [QUEUED]
        storage.release([take(storage)])
        assert found() == [QUEUED]
        lose(storage, clock)
        assert found() == [RUNNING]
        storage.admin.recover()
        assert found() == [QUEUED]
        lease = take(storage)
        storage.complete(lease, completed(lease, SCHEDULED, due=clock() + 1000))
        assert found() == [SCHEDULED]
        storage.admin.cancel(task.id)
        assert found() == [CANCELLED]
        storage.admin.retry(task.id)
        assert found() == [QUEUED]
        storage.admin.cancel(task.id)
        storage.admin.remove(task.id)
        assert storage.admin.tasks(user=JANE) == []
        assert storage.admin.counts(JANE) == dict.fromkeys(STATES, 0)

    def test_the_key_of_a_person(self, storage: Any) -> None:
        """A task that waits for its key, and one that was replaced, are in the right list."""
        fields: dict[str, Any] = {"key": "k", "on_conflict": "after_running", "user": JANE}
        first, second = add_one(storage, **fields), None
        lease = take(storage)
        second = add_one(storage, **fields)
        assert storage.reserve("consumer", timeout=0) == []
        assert ids(storage.admin.tasks(QUEUED, JANE)) == [second.id]
        third = add_one(storage, **{**fields, "on_conflict": "replace"})
        assert ids(storage.admin.tasks(QUEUED, JANE)) == [third.id]
        assert ids(storage.admin.tasks(CANCELLED, JANE)) == [second.id]
        storage.complete(lease, completed(lease))
        assert ids(storage.admin.tasks(SUCCEEDED, JANE)) == [first.id]
        assert take(storage).task == third

    def test_a_batch_that_failed_is_in_the_lists_of_its_persons(self, storage: Any) -> None:
        """The lists of a person show tasks of a staged batch that was failed."""
        task = add_one(storage)
        failed = replace(task, id="another", user=JANE)
        storage.stage("batch", [failed])
        storage.fail_batch("batch", "the end is unknown")
        assert (
            ids(storage.admin.tasks(FAILED, JANE))
            == ids(storage.admin.tasks(user="jane"))
            == ["another"]
        )
        assert storage.admin.counts(JANE)[FAILED] == 1

    def test_a_list_is_brief(self, storage: Any, clock: Any) -> None:
        """Lists leave out payload, response and history, and have all small fields."""
        task = add_one(storage, user=JANE, payload=b"in" * 1000, description="Ä", max_attempts=9)
        lose(storage, clock)
        storage.admin.recover()
        lease = take(storage)
        storage.report(lease, Progress(1.0, 2.0, "half", clock()))
        response: dict[str, Any] = {"headers": (("A", "b"),), "body": b"out", "truncated": True}
        storage.complete(lease, completed(lease, FAILED, **response))
        status = storage.admin.get(task.id)
        assert (status.task, status.attempts_made, status.status) == (task, 2, 503)
        assert {name: getattr(status, name) for name in response} == response
        assert [attempt.number for attempt in status.attempts] == [1, 2]
        brief = brief_of(status)
        assert (brief.task.payload, brief.attempts, brief.headers, brief.body) == (b"", (), (), b"")
        assert brief.result is None
        assert storage.admin.get(task.id, brief=True) == brief
        lists = [(None, None), (FAILED, None), (None, "jane"), (FAILED, JANE)]
        assert [storage.admin.tasks(*each) for each in lists] == [[brief]] * 4

    def test_how_many_attempts_have_ended(self, storage: Any, clock: Any) -> None:
        """Lost attempts count; a running attempt does not yet, a released one never does."""
        task = add_one(storage)
        made = []

        def look() -> None:
            statuses = (storage.admin.get(task.id), *storage.admin.tasks())
            assert len({status.attempts_made for status in statuses}) == 1
            made.append(statuses[0].attempts_made)

        look()
        lease = take(storage)
        look()
        storage.release([lease])
        look()
        lose(storage, clock)
        look()
        storage.admin.recover()
        look()
        for state in (SCHEDULED, FAILED):
            lease = take(storage)
            look()
            storage.complete(lease, completed(lease, state, due=clock()))
            look()
        storage.admin.retry(task.id)
        look()
        assert made == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]

    @pytest.mark.parametrize("state", [QUEUED, SCHEDULED])
    def test_who_cancels_may_say_why(self, storage: Any, clock: Any, state: State) -> None:
        """The given text is the reason of the state, in the lists as well."""
        task = bring_to(storage, clock, state, user=JANE)
        assert storage.admin.cancel(task.id, "the user jane was deleted") == CANCELLED
        for status in (storage.admin.get(task.id), *storage.admin.tasks(CANCELLED, JANE)):
            assert (status.state, status.reason) == (CANCELLED, "the user jane was deleted")
