"""What a supervisor does when a process has ended; the processes are not real."""

from collective.taskqueue.worker import supervisor as module
from collective.taskqueue.worker.exits import Exit
from collective.taskqueue.worker.health import Health
from collective.taskqueue.worker.notifier import Notifier
from collective.taskqueue.worker.options import WorkerOptions
from collective.taskqueue.worker.signals import Command
from collective.taskqueue.worker.supervisor import SOON
from collective.taskqueue.worker.supervisor import Supervisor
from selectors import DefaultSelector
import pytest
import signal
import socket
import time


class Child:
    """A process that does what the test says."""

    made: list

    def __init__(self, options):
        self.pid = len(self.made) + 1
        self.made.append(self)
        self.started = self.heard = time.monotonic()
        self.loaded = self.ends = self.killed = self.closed = self.silenced = False
        self.health = Health()
        self.finished = self.failed = 0
        self.exit = None
        self.told = []

    def tell(self, command):
        self.told.append(command)

    def kill(self):
        self.killed, self.exit = True, -9

    def code(self):
        return self.exit

    def close(self):
        self.closed = True


@pytest.fixture
def make(monkeypatch):
    """Make a supervisor with two processes that have loaded Zope."""
    monkeypatch.setattr(Child, "made", [], raising=False)
    monkeypatch.setattr(module, "Child", Child)

    def make(loaded=True, **options):
        supervisor = Supervisor(WorkerOptions(ini="", processes=2, **options), Notifier({}))
        turn(supervisor)
        for child in Child.made:
            child.loaded = loaded
        turn(supervisor)
        return supervisor, Child.made

    return make


def turn(supervisor, *commands):
    """One turn of its loop, without the wait."""
    supervisor._start()
    for command in commands:
        supervisor._obey(command)
    supervisor._bury()
    supervisor._roll()
    supervisor._report()


def test_a_process_that_leaves_without_work_is_replaced_after_a_pause(make):
    """A limit below the size of Zope itself must not start one process after the other."""
    supervisor, made = make()
    made[0].exit, made[0].finished = Exit.REPLACE, 10
    turn(supervisor)
    turn(supervisor)
    assert len(made) == 3
    made[1].exit = Exit.REPLACE
    turn(supervisor)
    turn(supervisor)
    assert len(made) == 3
    assert supervisor._slots[1].due > time.monotonic()


@pytest.mark.parametrize(
    ("code", "burst", "ends"),
    [
        (Exit.CONFIGURATION, False, True),
        (Exit.UNAVAILABLE, False, False),
        (Exit.UNAVAILABLE, True, True),
    ],
)
def test_processes_that_cannot_start(make, code, burst, ends):
    """Without a configuration none ever will; a database may come back, but a burst ends."""
    supervisor, made = make(loaded=False, burst=burst)
    made[0].exit = code
    turn(supervisor)
    assert (made[1].told == [Command.STOP]) is ends
    assert (supervisor._exit_code() == code) is ends


def test_a_configuration_that_has_become_wrong(make):
    """The other process goes on."""
    supervisor, made = make()
    made[0].exit = Exit.CONFIGURATION
    turn(supervisor)
    assert made[1].told == []


def test_a_process_that_does_not_end_is_killed(make, monkeypatch):
    """Ten seconds after the second signal; the exit code tells of the loss."""
    supervisor, made = make()
    turn(supervisor, Command.STOP)
    made[0].exit = Exit.DONE
    turn(supervisor, Command.NOW)
    assert not made[1].killed
    supervisor._killed_at = time.monotonic() - 1
    turn(supervisor)
    turn(supervisor)
    assert made[1].killed
    assert supervisor._ended()
    assert supervisor._exit_code() is Exit.LOST
    assert all(child.closed for child in made)


def test_a_rolling_restart_replaces_one_after_the_other(make):
    """The next one starts when the last one is ready; an old one leaves only then."""
    supervisor, made = make()
    turn(supervisor, Command.LEAVE)
    turn(supervisor)
    assert len(made) == 3
    assert made[0].told == []
    made[2].loaded = True
    turn(supervisor)
    assert made[0].told == [Command.LEAVE]
    assert (len(made), made[1].told) == (4, [])
    made[3].loaded = True
    turn(supervisor)
    assert made[1].told == [Command.LEAVE]
    assert not supervisor._rolling


def test_an_old_process_dies_during_a_rolling_restart(make):
    """Its successor takes its place; no third one is started."""
    supervisor, made = make()
    turn(supervisor, Command.LEAVE)
    made[0].exit = -9
    turn(supervisor)
    supervisor._slots[0].due = 0.0
    turn(supervisor)
    assert len(made) == 3
    made[2].loaded = True
    turn(supervisor)
    assert supervisor._slots[0].child is made[2]


def test_no_restart_while_it_stops(make):
    supervisor, made = make()
    turn(supervisor, Command.STOP, Command.LEAVE)
    made[0].exit = made[1].exit = 0
    turn(supervisor)
    turn(supervisor)
    assert len(made) == 2
    assert supervisor._ended()
    assert supervisor._exit_code() is Exit.DONE


@pytest.mark.parametrize(
    ("loaded", "code", "exits"),
    [
        (True, -signal.SIGTERM, Exit.LOST),
        (True, -signal.SIGKILL, Exit.LOST),
        (False, -signal.SIGKILL, Exit.LOST),
        (False, -signal.SIGTERM, Exit.DONE),
    ],
)
def test_a_stop_while_the_processes_start(make, loaded, code, exits):
    """A service manager signals all processes: one that has no handler yet had no task either."""
    supervisor, made = make(loaded=loaded)
    turn(supervisor, Command.STOP)
    made[0].exit = made[1].exit = code
    turn(supervisor)
    assert supervisor._exit_code() is exits


def test_a_process_that_ends_does_not_keep_the_supervisor_busy(make, monkeypatch):
    """Its socket would be ready at once, again and again, until the process is gone."""
    supervisor, made = make()
    waited = []

    class Selector(DefaultSelector):
        def select(self, timeout):
            waited.append((set(self.get_map()), timeout))
            return []

    monkeypatch.setattr(module.selectors, "DefaultSelector", Selector)
    wakeup, lives, ends = (socket.socket(socket.AF_UNIX) for _ in range(3))
    with wakeup, lives, ends:
        for child, end in zip(made, (lives, ends), strict=True):
            child.socket, child.read = end, lambda: None
        made[1].silenced = True
        supervisor._step(wakeup)
        assert waited == [({wakeup.fileno(), lives.fileno()}, SOON)]
