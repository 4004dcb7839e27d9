"""Who may call what: API keys and their roles, checked before a body is read."""

import hmac
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tuneloop.api import errors
from tuneloop.settings import ApiKey, Role

OPEN_PATHS = frozenset(("/api/v1/ping", "/healthz"))
_INGEST = frozenset(
    f"/api/v1/clickstream/{path}" for path in ("session", "session/events", "session/irrelevant", "sessions/import")
)
_INFERENCE = re.compile(r"/v1/embeddings|/api/v1/models/[^/]+/versions/[^/]+/(embed|rank|predict)")


class Auth:
    """Middleware that lets a request through when its key's role may make it.

    Without keys the service is open to whoever reaches it; then only web pages of other sites are kept from writing
    through the browser of somebody who does.
    """

    def __init__(self, app: ASGIApp, *, keys: Sequence[ApiKey]) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 401 or 403."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        if not self.keys:
            if is_cross_site(scope["method"], headers):
                detail = "pages of other sites may not write here: set TUNELOOP_API_KEYS and send a key"
                return await errors.answer(scope, 403, detail)(scope, receive, send)
            return await self.app(scope, receive, send)
        key = find_key(self.keys, headers.getlist("authorization"))
        if key is None:
            detail = "this needs a valid API key: send `Authorization: Bearer {secret}`"
            response = errors.answer(scope, 401, detail, {"WWW-Authenticate": "Bearer"})
            return await response(scope, receive, send)
        if not may(key.role, scope["method"], scope["path"]):
            detail = f"a key of the role `{key.role}` may not do this"
            return await errors.answer(scope, 403, detail)(scope, receive, send)
        scope.setdefault("state", {}).update(key=key.name, role=key.role)
        return await self.app(scope, receive, send)


def find_key(keys: Sequence[ApiKey], authorization: Sequence[str]) -> ApiKey | None:
    """The key that a request carries; how long it takes does not tell how much of a secret was right."""
    if len(authorization) != 1:
        return None
    scheme, _, secret = authorization[0].partition(" ")
    given = secret.strip().encode("latin-1")  # a header's bytes
    found = [key for key in keys if hmac.compare_digest(key.secret.encode(), given)]
    return found[0] if found and scheme.lower() == "bearer" else None


def may(role: Role, method: str, path: str) -> bool:
    """Whether a role may make a call: `ingest` writes sessions and events, `read` reads and infers."""
    if role == "admin":
        return True
    if role == "ingest":
        return method == "POST" and path in _INGEST
    return method in ("GET", "HEAD") or (method == "POST" and _INFERENCE.fullmatch(path) is not None)


def role_of(scope: Scope) -> Role:
    """The role of a request that was let through; without keys everybody may do everything."""
    role: Role = scope.get("state", {}).get("role", "admin")
    return role


def is_cross_site(method: str, headers: Headers) -> bool:
    """Whether a browser sends this on behalf of a page of another site, and it would change something."""
    return method not in ("GET", "HEAD", "OPTIONS") and headers.get("sec-fetch-site") == "cross-site"
