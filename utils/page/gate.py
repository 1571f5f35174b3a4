"""What stands before all routes: only those that the page needs are open, and browsers load nothing from elsewhere."""

import re
from typing import Any

from starlette.responses import PlainTextResponse

_OPEN = re.compile(
    r"/(|config|login|logout|theme\.css|favicon\.ico|manifest\.json|(static|assets|svelte)/.*|player\.js|files/[^/]+/[^/]+|"
    r"gradio_api/(queue/(join|data)|upload|upload_progress|heartbeat/\w+|cancel|startup-events|info|app_id|theme\.css))/?"
)
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        if _OPEN.fullmatch(scope["path"]):
            await self._app(scope, receive, send_with_headers)
        else:
            await PlainTextResponse("not found", 404)(scope, receive, send_with_headers)
