"""What every request must pass: the right host, the right origin, and a token where the app is open to other machines."""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
COOKIE = "cutaway"
POLICY = ("default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
           "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin"}


class Guard:
    """Refuses what does not come from the app's own pages, and sends the policy that keeps those pages to themselves.

    hosts: the names by which the app may be asked for, so that another name that leads here (DNS rebinding) does not.
    token: what readers must bring, once in the address and then in a cookie; empty for none.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] = LOOPBACK, token: str = ""):
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            given = dict[str, str]()
            for name, value in scope["headers"]:
                if name == b"host" and "host" in given:
                    given["host"] = ""       # two hosts are none
                else:
                    given[name.decode("latin-1")] = value.decode("latin-1")
            why = self._refused(scope, given)
            answer: ASGIApp = PlainTextResponse(why[1] + "\n", why[0]) if why else self.app
            await answer(scope, receive, self._with_headers(scope, send, welcome=not why))

    def _refused(self, scope: Scope, given: dict[str, str]) -> tuple[int, str] | None:
        """The status and the sentence of a refusal."""
        host = given.get("host", "")
        if _name(host) not in self.hosts and not (self.token and "*" in self.hosts):
            return 421, (f"this server answers to {', '.join(sorted(self.hosts))}; the request was for {host[:80]!r}.")
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "pages are read with GET and changed with POST."
        if scope["method"] == "POST" and given.get("origin") not in (f"http://{host}", f"https://{host}"):
            return 403, (f"changes are taken from this app's own pages only; the request's origin was "
                         f"{given.get('origin', 'not said')[:80]!r} and should be 'http://{host}'.")
        if self.token and not self._brings(scope, given):
            return 401, "this server was started with a token; open the address that it printed, which ends in ?token=…"
        return None

    def _brings(self, scope: Scope, given: dict[str, str]) -> bool:
        try:
            kept = SimpleCookie(given.get("cookie", "")).get(COOKIE)
        except CookieError:
            kept = None
        brought = [*parse_qs(scope["query_string"].decode("latin-1")).get("token", []), kept.value if kept else "",
                   given.get("authorization", "").removeprefix("Bearer ")]
        return any(hmac.compare_digest(one.encode(), self.token.encode()) for one in brought)

    def _with_headers(self, scope: Scope, send: Send, welcome: bool) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-cache")
                if self.token and welcome and b"token=" in scope["query_string"]:
                    headers.append("set-cookie", f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/")
            await send(message)
        return sending


def _name(host: str) -> str:
    """A host without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()
