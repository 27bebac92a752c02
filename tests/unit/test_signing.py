"""Signatures of web hooks: the published vector, and what a receiver must refuse."""

from collective.taskqueue.webhook.signing import secrets
from collective.taskqueue.webhook.signing import sign
from collective.taskqueue.webhook.signing import verify
import pytest


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
MOMENT = 1614265330
BODY = b'{"test": 2432232314}'


def test_the_published_vector():
    """The example of the Standard Webhooks specification."""
    assert sign([SECRET], MESSAGE, MOMENT, BODY) == {
        "webhook-id": MESSAGE,
        "webhook-timestamp": str(MOMENT),
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("secret", [SECRET, OTHER])
def test_either_secret_verifies_while_they_change(secret):
    """A receiver needs to know one of them only."""
    headers = sign([OTHER, SECRET], MESSAGE, MOMENT, BODY)
    assert verify(secret, headers, BODY, MOMENT)


@pytest.mark.parametrize(
    ("change", "body", "now"),
    [
        ({}, BODY + b" ", MOMENT),
        ({"webhook-id": "msg_other"}, BODY, MOMENT),
        ({"webhook-timestamp": str(MOMENT + 1)}, BODY, MOMENT),
        ({"webhook-timestamp": "later"}, BODY, MOMENT),
        ({"webhook-timestamp": "9" * 400}, BODY, MOMENT),
        ({"webhook-signature": "v1,bm90IGl0"}, BODY, MOMENT),
        ({"webhook-signature": ""}, BODY, MOMENT),
        ({"webhook-signature": "v1,ä"}, BODY, MOMENT),
        ({"webhook-signature": "v1,\udcff"}, BODY, MOMENT),
        ({"webhook-id": "\udcff"}, BODY, MOMENT),
        ({}, BODY, MOMENT + 301),
        ({}, BODY, MOMENT - 301),
    ],
)
def test_a_changed_message_is_refused(change, body, now):
    """The body, the id, the time, the signature; and a message that is sent again later."""
    headers = {**sign([SECRET], MESSAGE, MOMENT, BODY), **change}
    assert verify(SECRET, headers, body, now) is False


def test_no_headers_are_no_signature():
    """A call that is not signed at all."""
    assert verify(SECRET, {}, BODY, MOMENT) is False


@pytest.mark.parametrize("secret", ["whsec_short", "whsec_QUJD", "not base64 at all!", "whsec_ä"])
def test_what_is_no_secret_is_refused(secret):
    """When zope.conf is read, not when the first hook is called."""
    with pytest.raises(ValueError, match=r"secret|bytes"):
        secrets(secret)
    assert secrets(SECRET) == SECRET
