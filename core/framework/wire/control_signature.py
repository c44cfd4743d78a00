"""Signatures of control requests by a secret that clients and workers share.

1. `sign` returns the header that goes with an encoded request; `Signatures.fault` checks it.
2. Signed are the exchange, the time of the sender's clock, a number used once, and the encoded body, which contains the
   command, its arguments, its destination and its reply address.
3. A signature is valid for `VALIDITY` seconds, in either direction: that is how far clocks may differ. Within that time
   each worker takes it once.

Source: HMAC-SHA256 is RFC 2104 with FIPS 180-4.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import Any, Final

from framework.message import Incoming

#: The header of a request with its signature.
SIGNATURE: Final = "signature"
#: Seconds before and after its time in which a signature is taken.
VALIDITY: Final = 60
_PURPOSE: Final = b"control request 1"
#: Characters of the number used once.
_NONCE_LENGTH: Final = 32


def sign(secret: str, exchange: str, body: bytes) -> dict[str, dict[str, Any]]:
    """Return the header that signs a request with the encoded `body`, sent to `exchange` now."""
    when, nonce = int(time.time()), secrets.token_hex(_NONCE_LENGTH // 2)
    return {SIGNATURE: {"time": when, "nonce": nonce, "hmac": _hmac(secret, exchange, when, nonce, body)}}


def _hmac(secret: str, exchange: str, when: int, nonce: str, body: bytes) -> str:
    # No part contains a line break but the last one, so that no other request has the same bytes.
    signed = b"\n".join((_PURPOSE, exchange.encode(), b"%d" % when, nonce.encode(), body))
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


class Signatures:
    """Checks signatures, and remembers those that were used."""

    def __init__(self, secret: str, exchange: str) -> None:
        self._secret = secret
        self._exchange = exchange
        #: When each signature was taken (monotonic seconds), by its number, as long as it may be valid; oldest first.
        self._used: dict[str, float] = {}

    def fault(self, incoming: Incoming) -> str:
        """Return why the request `incoming` is not taken; "" if it is, once."""
        match incoming.headers.get(SIGNATURE):
            case {"time": int(when), "nonce": str(nonce), "hmac": str(given)} if (
                nonce.isascii() and nonce.isalnum() and len(nonce) == _NONCE_LENGTH and given.isascii()
            ):
                pass
            case None:
                return "it is not signed"
            case _:
                return "its signature cannot be read"
        if not hmac.compare_digest(given, _hmac(self._secret, self._exchange, when, nonce, incoming.body)):
            return "its signature is wrong: it was made with another secret, or for something else"
        if abs(time.time() - when) > VALIDITY:
            return f"its signature is too old or from the future: clocks may differ by {VALIDITY} s"
        if nonce in self._used:
            return "its signature was used before"
        now = time.monotonic()
        while self._used and self._used[oldest := next(iter(self._used))] < now - 2 * VALIDITY:
            del self._used[oldest]
        self._used[nonce] = now
        return ""
