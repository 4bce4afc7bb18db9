"""ASGI middleware: each request is a scope, in the trace that its `traceparent` header names.

    app = memvelope.asgi.ProfileMiddleware(app)

Records where a session runs, which this does not start: `memvelope.Session.start()` when the server
starts does.
"""

from __future__ import annotations

from ._profile import Profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Any]]
    Send = Callable[[Any], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Methods are text of clients: others than these share a name.
_METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)


class ProfileMiddleware:
    """Wraps an ASGI application. Each HTTP request is a scope; lifespan and websockets pass through.

    The scope is entered for each step of the application, so that requests which take turns on one
    thread are told apart. `name` is what the scopes are called, or a function of the ASGI scope that
    says so (a route's template, say; names are bounded in number, so not the path). Without it they
    are called by the method: `http GET`.

    What the application hands to threads or tasks of its own is not made in its steps: open a profile
    there.
    """

    def __init__(self, app: App, name: str | Callable[[Scope], str] | None = None) -> None:
        self.app = app
        self._name = name if callable(name) else (lambda scope: name or _by_method(scope))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        profile = Profile(self._name(scope), traceparent=_traceparent(scope))
        await profile.run(self.app(scope, receive, send))


def _by_method(scope: Scope) -> str:
    method = scope.get("method", "")
    return f"http {method}" if method in _METHODS else "http other"


def _traceparent(scope: Scope) -> bytes | None:
    """The header. Two of them make none that could be read (W3C Trace Context, §3.2)."""
    found = [value for name, value in scope.get("headers", ()) if name == b"traceparent"]
    return b",".join(found) if found else None
