"""Signatures of web hooks, by the Standard Webhooks specification."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import base64
import binascii
import hashlib
import hmac


#: Prefix of a secret in its text form.
PREFIX = "whsec_"

#: Seconds by which the clocks of sender and receiver may differ.
TOLERANCE = 300.0


def sign(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three headers that prove which sender the body is from.

    One signature for each secret, so that a receiver can be given a new secret before the
    old one is removed. `timestamp` is in seconds since the epoch.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(_signature(_key(secret), signed) for secret in secrets),
    }


def verify(
    secret: str, headers: Mapping[str, str], body: bytes, now: float, tolerance: float = TOLERANCE
) -> bool:
    """Return whether the sender of the body knows the secret and signed it at about this time.

    For receivers. `headers` has lower-case names; `now` is in seconds since the epoch.
    Raises nothing, whatever the headers are.
    """
    message_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "").split(" ")
    if not (message_id and timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16):
        return False
    if abs(now - int(timestamp)) > tolerance:
        return False
    # Servers decode invalid UTF-8 into surrogates.
    signed = f"{message_id}.{timestamp}.".encode(errors="surrogatepass") + body
    expected = _signature(_key(secret), signed).encode()
    return any(
        hmac.compare_digest(expected, found.encode(errors="surrogatepass")) for found in signatures
    )


def secrets(value: str) -> str:
    """Datatype of zope.conf: secrets separated by blanks; raises `ValueError` for others."""
    for secret in value.split():
        if not 24 <= len(_key(secret)) <= 64:
            raise ValueError("the key of a web hook secret has 24 to 64 bytes")
    return value


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"a web hook secret is {PREFIX} and base64") from None


def _signature(key: bytes, signed: bytes) -> str:
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
