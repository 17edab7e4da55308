"""What the page of ``foveal demo`` answers: gradio's server has more routes than the page needs.

Among them are some that fetch what a visitor names from elsewhere, or that write files. Here everything is refused but
what the page asks for.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

READ = re.compile(
    r"/(config|theme\.css|manifest\.json|favicon\.ico)?|/(assets|static|svelte)/.*"
    r"|/gradio_api/(info|queue/data|startup-events|upload_progress|heartbeat/\w+|file=.*)"
)
WRITE = re.compile(r"/gradio_api/(upload|queue/join|cancel|reset)/?")
MAX_MESSAGE = 2**16  # bytes of what is sent that is no picture
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,  # so nothing comes from elsewhere, whatever gradio's pages name
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """An ASGI application that answers what a page needs, and nothing else.

    Args:
        app: that is asked for it.
        hosts: names by which the server is asked, those of other sites being refused, for their name may point here;
            None for any.
        folder: the only one whose files are given.
        max_bytes: of a picture.
    """

    def __init__(self, app: Any, hosts: set[str] | None, folder: str, max_bytes: int):
        self.app, self.hosts, self.folder, self.max_bytes = app, hosts, folder, max_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        status = 403 if scope["type"] != "http" else self.refused(scope)
        if status:
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        await self.app(scope, receive, answer)

    def refused(self, scope: Message) -> int:
        """The status of a request that is refused; 0 for others."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path, method = scope["path"], scope["method"]
        host = re.sub(r":\d+$", "", headers.get("host", ""))
        if self.hosts is not None and host not in self.hosts:
            return 403
        if method in ("GET", "HEAD"):
            if not READ.fullmatch(path):
                return 404
            name = path.partition("/gradio_api/file=")[2]
            return 0 if not name or (name.startswith(self.folder + "/") and ".." not in name.split("/")) else 403
        if method != "POST" or not WRITE.fullmatch(path):
            return 404
        most = self.max_bytes + MAX_MESSAGE if path.startswith("/gradio_api/upload") else MAX_MESSAGE
        length = headers.get("content-length", "")
        if not length.isdecimal():  # sent in pieces, without a word of how many
            return 411
        return 413 if int(length) > most else 0
