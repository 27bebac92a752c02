"""What Zope makes of a url: which steps it traverses, and which would choose a virtual host."""

from collective.taskqueue.publisher.address import chooses_virtual_host
from collective.taskqueue.publisher.address import forbidden_step
from collective.taskqueue.publisher.address import steps
import pytest


FORBIDDEN = [
    ("/VirtualHostBase/https/evil.example:443/A/VirtualHostRoot/mail_password", "VirtualHostBase"),
    ("//VirtualHostBase/http/evil.example:80/VirtualHostRoot", "VirtualHostBase"),
    ("/%56irtualHostBase/https/evil.example:443/VirtualHostRoot/A", "VirtualHostBase"),
    ("/A/./VirtualHostRoot/view", "VirtualHostRoot"),
    ("/A/../VirtualHostBase/https/evil.example:443/A", "VirtualHostBase"),
    ("/../VirtualHostBase/https/evil.example:443/A", "VirtualHostBase"),
    ("/A%2fVirtualHostRoot%2Fview", "VirtualHostRoot"),
    ("/%2e%2e/A/%2e/VirtualHostRoot", "VirtualHostRoot"),
    ("/A/_vh_cms/view", "_vh_cms"),
    ("/A/%5fvh_", "_vh_"),
    ("/A/x/y/%2e%2e/../VirtualHostRoot?x=1", "VirtualHostRoot"),
    ("/A?VirtualHostBase/https/evil.example:443/A/VirtualHostRoot/x:method=1", "VirtualHostBase"),
    ("/A?%56irtualHostRoot%2Fx%3aaction=1", "VirtualHostRoot"),
    ("/A?:method=x/VirtualHostRoot", "VirtualHostRoot"),
    ("/A?a=1&x/_vh_a:int:default_method=", "_vh_a"),
    ("/A?x/../VirtualHostRoot:method:int=", "VirtualHostRoot"),
    ("/A?:default_action=_vh_x", "_vh_x"),
]
ALLOWED = [
    "/",
    "/A/virtualhostbase",
    "/A/VirtualHostBase;x",
    "/A/VirtualHostBases",
    "/A/%2556irtualHostBase",
    "/A/x_vh_y",
    "/A/_vhx",
    "/A/VirtualHostRoot/../view",
    "/A?path=/VirtualHostBase/https/evil.example:443",
    "/A?VirtualHostRoot=1&VirtualHostRoot:int=1",
    "/A?edit:method=1",
    "https://www.example.org/VirtualHostBase/http/x/VirtualHostRoot",
]


@pytest.mark.parametrize(("url", "step"), FORBIDDEN)
def test_a_step_that_would_choose_the_virtual_host(url, step):
    assert forbidden_step(url) == step


@pytest.mark.parametrize("url", ALLOWED)
def test_a_url_that_chooses_none(url):
    assert forbidden_step(url) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/A/b", ["A", "b"]),
        ("//A//./b/", ["A", "b"]),
        ("/A/../b", ["b"]),
        ("/../../b", ["b"]),
        ("A/%2e", ["A", "%2e"]),
    ],
)
def test_the_steps_of_a_path(path, expected):
    assert steps(path) == expected


def test_steps_that_a_form_has_added():
    assert chooses_virtual_host(["A", "VirtualHostRoot"]) == "VirtualHostRoot"
    assert chooses_virtual_host(["A", "view"]) is None
