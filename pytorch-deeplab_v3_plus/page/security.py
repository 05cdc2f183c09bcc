"""Who may talk to the page: requests to its own address, from its own pages, with the token where one is needed."""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")
HEADERS = (
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Gate:
    """Lets a request through to an ASGI application, or answers it with one line and status 403.

    A foreign web page cannot read an answer, but it can send requests, and a name of its own can be made to lead here.
    So `Host` must be the address listened on, which with a token may be any name; `Origin`, where a browser sends it,
    must be the same; and no other site may include what is here. `token` None lets everybody on this machine in.
    """

    def __init__(self, app: Any, address: str, port: int, token: str | None = None) -> None:
        self.app, self.token, self.cookie = app, token, f"rloss-{port}"
        names = {address.lower(), *(LOOPBACK if address in LOOPBACK else ())}
        written = {f"[{name}]" if ":" in name else name for name in names}
        self.hosts = {f"{name}:{port}" for name in written} | (written if port == 80 else set())
        if address in EVERYWHERE:
            self.hosts = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        answer = self._refusal(scope) or self._without_token(scope) or self.app
        return await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin, site = (headers.get(name) for name in (b"host", b"origin", b"sec-fetch-site"))
        if not host or (self.hosts is not None and host.lower() not in self.hosts):
            return _refused(f"expected the host {' or '.join(sorted(self.hosts or ['of this page']))}, found {host}")
        if origin is not None and origin.lower() != f"http://{host.lower()}":
            return _refused(f"expected requests of this page, found one of {origin}")
        opened = headers.get(b"sec-fetch-mode") == "navigate" and scope["method"] == "GET"  # a link that leads here
        if site in ("cross-site", "same-site") and not opened:
            return _refused("expected requests of this page, found one of another site")
        return None

    def _without_token(self, scope: Scope) -> Response | None:
        """Return the answer to a request without the cookie: with the right token the cookie, otherwise a refusal."""
        if self.token is None or self._right(_cookie(scope, self.cookie)):
            return None
        (given,) = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[:1]
        if not self._right(given):
            return _refused("expected the token: open the address that the program has printed")
        answer = RedirectResponse(scope["path"], 303)
        # Not strict: it would not be sent where the link to the token's address is in another page.
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="lax")
        return answer

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


def _refused(line: str) -> Response:
    return JSONResponse({"error": line}, 403)


def _cookie(scope: Scope, name: str) -> str:
    for header, value in scope["headers"]:
        # http.cookies would drop them all where one, of another program, is odd.
        if header == b"cookie" and (found := cookie_parser(value.decode("latin-1")).get(name)):
            return found
    return ""
