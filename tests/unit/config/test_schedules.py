"""Sections of schedules, those of the old clock server, and the same by other sources."""

from collective.taskqueue.config import resolve
from ZConfig import ConfigurationError
import pytest


NIGHTLY = """
<taskqueue />
<taskqueue-schedule nightly>
  cron      30 2 * * *
  timezone  Europe/Berlin
  url       /Plone/@@nightly?days=3
  user      janitor
  user_folder /Plone/acl_users
  host      https://www.example.org
  catch_up  None
  misfire   2h
  overlap   queue
  jitter    30
</taskqueue-schedule>
"""


def schedules_of(load, text, environ=()):
    found = resolve(load(text), dict(environ)).schedules
    return {each.name: each for each in found}


def test_a_section(load):
    (nightly,) = schedules_of(load, NIGHTLY).values()
    assert (nightly.name, nightly.cron, nightly.timezone) == (
        "nightly",
        "30 2 * * *",
        "Europe/Berlin",
    )
    assert (nightly.url, nightly.user) == ("/Plone/@@nightly?days=3", "janitor")
    assert (nightly.user_folder, nightly.host) == ("/Plone/acl_users", "https://www.example.org")
    assert (nightly.catch_up, nightly.misfire, nightly.overlap) == ("none", 7200.0, "queue")
    assert (nightly.jitter, nightly.enabled, nightly.queue) == (30.0, True, "default")
    assert nightly.place.startswith("<taskqueue-schedule nightly> (line ")


def test_two_clock_servers_of_an_old_file(load, caplog):
    """As they were, with a password that is not used any more."""
    text = """
<taskqueue />
<clock-server>
   # plonemaildrop
   method /VirtualHostBase/https/www.example.org:443/Plone/VirtualHostRoot/_vh_cms/@@tick?x=1
   period 60
   user admin
   password secret-of-admin
   host localhost
</clock-server>
<clock-server>
   method /Plone/@@other
   period 3600
</clock-server>
"""
    found = schedules_of(load, text)
    assert list(found) == ["Plone-tick-x-1-60", "Plone-other-3600"]
    one, other = found.values()
    assert (one.url, one.period, one.user) == ("/Plone/@@tick?x=1", 60.0, "admin")
    # What the path says is what the public sees; the old key only named this machine.
    assert (one.host, one.root) == ("https://www.example.org/cms", "/Plone")
    assert (other.url, other.period, other.user, other.host) == ("/Plone/@@other", 3600.0, "", "")
    assert "its password is not used, remove it" in caplog.text
    assert "secret-of-admin" not in caplog.text + repr(found)


VIRTUAL = [
    ("/VirtualHostBase/http/a.org:80/Plone/VirtualHostRoot/", "/Plone", "http://a.org", "/Plone"),
    ("/VirtualHostBase/http/a.org:8080/VirtualHostRoot/x", "/x", "http://a.org:8080", "/"),
    ("/VirtualHostBase/https/a.org/A/B/VirtualHostRoot/x?y", "/A/B/x?y", "https://a.org", "/A/B"),
    (
        "/VirtualHostBase/https/a.org:443/P/VirtualHostRoot/_vh_a/_vh_b/v",
        *("/P/v", "https://a.org/a/b", "/P"),
    ),
]


@pytest.mark.parametrize(("path", "url", "host", "root"), VIRTUAL)
def test_paths_of_virtual_hosting(load, path, url, host, root):
    text = f"<taskqueue />\n<taskqueue-schedule s>\nperiod 1m\nurl {path}\n</taskqueue-schedule>\n"
    (found,) = schedules_of(load, text).values()
    assert (found.url.rstrip("/"), found.host, found.root) == (url, host, root)


WRONG = [
    ("", "it has either cron or period"),
    ("cron @daily\nperiod 60", "it has either cron or period"),
    ("cron 1 2 3", "a cron expression has five fields"),
    ("cron @reboot", "@reboot is no time"),
    ("cron @daily\ntimezone Mars", "no time zone 'Mars'"),
    ("period 0", "more than 0"),
    ("cron @daily\nurl Plone", "is no path from the root of Zope"),
    ("cron @daily\nurl /Plone/../x", "is no path from the root of Zope"),
    ("cron @daily\nurl /Plone/a b", "no blanks"),
    ("cron @daily\nmethod BREW", "method is GET"),
    ("cron @daily\nqueue other", "there is no queue 'other'"),
    ("cron @daily\noverlap jump", "overlap is skip, queue or parallel"),
    ("cron @daily\ncatch_up ever", "catch_up is none, latest or all"),
    ("cron @daily\nhost www.example.org", "begins with http:// or https://"),
    ("cron @daily\nhost https://jane:secret@example.org", "begins with http:// or https://"),
    ("cron @daily\njitter -1", "not negative"),
    ("cron @daily\nenabled perhaps", "neither on nor off"),
    ("cron @daily\ncorn @daily", "do you mean cron"),
    ("cron @daily\nuser jane\nurl https://example.org/hook", "a web hook runs as no user"),
    ("cron @daily\nurl /VirtualHostBase/http/x", "no path of virtual hosting"),
]


@pytest.mark.parametrize(("lines", "reason"), WRONG)
def test_a_mistake_is_refused_with_its_place(load, lines, reason):
    url = "" if "\nurl " in lines else "url /Plone/@@nightly\n"
    text = f"<taskqueue />\n<taskqueue-schedule nightly>\n{url}{lines}\n</taskqueue-schedule>\n"
    with pytest.raises(ConfigurationError, match=reason) as info:
        load(text)
    assert "<taskqueue-schedule nightly> (line " in str(info.value)
    assert "secret" not in str(info.value)


def test_a_schedule_needs_a_name_and_a_url(load):
    with pytest.raises(ConfigurationError, match="a schedule needs a name"):
        load("<taskqueue />\n<taskqueue-schedule>\nperiod 1\nurl /x\n</taskqueue-schedule>\n")
    with pytest.raises(ConfigurationError, match="there is no url"):
        load("<taskqueue />\n<taskqueue-schedule x>\nperiod 1\n</taskqueue-schedule>\n")
    with pytest.raises(ConfigurationError, match="there is no method"):
        load("<taskqueue />\n<clock-server>\nperiod 1\n</clock-server>\n")


def test_product_config(load):
    text = """
<taskqueue />
<product-config collective.taskqueue>
  schedule.nightly.cron @daily
  schedule.nightly.url /Plone/@@nightly
  schedule.hourly.period 1h
  schedule.hourly.url /Plone/@@hourly
</product-config>
"""
    found = schedules_of(load, text)
    assert {name: (each.cron, each.period) for name, each in found.items()} == {
        "nightly": ("@daily", None),
        "hourly": ("", 3600.0),
    }


def test_a_section_wins_over_product_config(load):
    text = f"""{NIGHTLY}
<product-config collective.taskqueue>
  schedule.nightly.cron @daily
  schedule.nightly.url /Plone/@@other
  schedule.nightly.description Tidies up
</product-config>
"""
    (nightly,) = schedules_of(load, text).values()
    assert (nightly.cron, nightly.url) == ("30 2 * * *", "/Plone/@@nightly?days=3")
    assert nightly.description == "Tidies up"


def test_the_environment_wins(load):
    environ = {"TASKQUEUE_SCHEDULE_NIGHTLY_CRON": "0 3 * * *"}
    assert schedules_of(load, NIGHTLY, environ)["nightly"].cron == "0 3 * * *"
    environ = {"TASKQUEUE_SCHEDULE_NIGHTLY_PERIOD": "10m"}
    nightly = schedules_of(load, NIGHTLY, environ)["nightly"]
    assert (nightly.cron, nightly.period) == ("", 600.0)
    environ = {"TASKQUEUE_SCHEDULE_NIGHTLY_ENABLED": "off"}
    assert not schedules_of(load, NIGHTLY, environ)["nightly"].enabled


def test_what_a_path_of_virtual_hosting_says_stays(load):
    """Another source changes when it is due, and nothing else."""
    path = "/VirtualHostBase/https/a.org:443/Plone/VirtualHostRoot/@@nightly"
    text = NIGHTLY.replace("/Plone/@@nightly?days=3", path).replace("  host", "  # host")
    environ = {"TASKQUEUE_SCHEDULE_NIGHTLY_CRON": "@daily"}
    (nightly,) = schedules_of(load, text, environ).values()
    assert (nightly.url, nightly.host, nightly.root) == (
        "/Plone/@@nightly",
        "https://a.org",
        "/Plone",
    )


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("TASKQUEUE_SCHEDULE_WEEKLY_CRON", "@weekly", "no such schedule .known: nightly"),
        ("TASKQUEUE_SCHEDULE_NIGHTLY_CRON", "@reboot", "@reboot is no time"),
        ("TASKQUEUE_SCHEDULE_NIGHTLY_ENABLED", "perhaps", "neither on nor off"),
    ],
)
def test_a_mistake_in_the_environment(load, name, value, reason):
    with pytest.raises(ConfigurationError, match=reason) as info:
        schedules_of(load, NIGHTLY, {name: value})
    assert name in str(info.value)


def test_two_of_one_name(load):
    text = NIGHTLY + NIGHTLY.replace("<taskqueue />", "")
    with pytest.raises(ConfigurationError, match="another section is named 'nightly'"):
        load(text)
