"""A web page for ./separate.sh; called by ./demo.sh.

Reads   an experiment, videos that visitors upload or record
Writes  a folder for each visitor below a temporary one (utils/page/visitors.py); all of it goes when the server ends
Run     python -m utils.page.server --exp_dir egs/own_video/pretrained

The password, if there is one, is AVSEP_PAGE_PASSWORD of the environment. Whatever the page needs comes from here: gradio's
analytics are off, and those of its routes that nobody needs are closed (utils/page/gate.py).
"""

import hmac
import ipaddress
import logging
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from utils.errors import OptionParser, UsageError, UserError, at_least, run_cli
from utils.page.jobs import ROOT, Line, PageOptions
from utils.page.visitors import Visitors

log = logging.getLogger(__name__)
PASSWORD_NAME = "AVSEP_PAGE_PASSWORD"
_PASSED_ON = ("exp_dir", "frontend_weights", "face_weights", "id")  # to stage 4
_SHORTEST_PASSWORD = 8


def main() -> int:
    """Listen, until the server is ended."""
    args = _parse_args()
    password = os.environ.pop(PASSWORD_NAME, "")  # not for the programs of the jobs
    is_local = _is_loopback(args.host)
    if not is_local and not password:
        raise UsageError(f"--host {args.host} can be reached from other machines: give --password, too")
    if password and len(password) < _SHORTEST_PASSWORD:
        raise UsageError(f"--password: at least {_SHORTEST_PASSWORD} characters")
    listening = _listen(args.host, args.port)
    line = Line()
    visitors = Visitors(line)
    os.environ |= {"GRADIO_TEMP_DIR": str(visitors.uploads), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    tempfile.tempdir = str(visitors.uploads)  # where uploads grow
    import uvicorn  # gradio reads the environment when it is imported

    words = [f"--{name}={value}" for name in _PASSED_ON if (value := getattr(args, name))]
    app = make_app(line, visitors, PageOptions(args.max_minutes, args.max_mb, words), password, is_local)
    port = listening.getsockname()[1]
    log.info("the page is at http://%s:%d/ (Ctrl-C ends it)", f"[{args.host}]" if ":" in args.host else args.host, port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)  # open tabs end with it: no failures
    with suppress(KeyboardInterrupt):  # Ctrl-C is how it is ended
        server.run(sockets=[listening])
    return 0


def make_app(line: Line, visitors: Visitors, options: PageOptions, password: str, is_local: bool):
    """The page as an ASGI application.

    Args:
        line: of the jobs.
        visitors: with their files.
        options: of all jobs.
        password: "" for none.
        is_local: whether it is reached by names of this machine only; requests for another one are refused then, as a page
            elsewhere could have its name point here.
    """
    import gradio
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.responses import FileResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from utils.page.gate import Gate
    from utils.page.layout import CSS, HEAD, THEME, build

    @asynccontextmanager
    async def until_the_end(app: FastAPI) -> AsyncIterator[None]:
        yield
        line.close()
        visitors.close()

    app = FastAPI(lifespan=until_the_end, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/player.js")
    def script() -> FileResponse:
        return FileResponse(ROOT / "utils/page/player.js", headers={"Cache-Control": "no-cache"})

    @app.get("/files/{key}/{name}")
    def file(key: str, name: str, request: Request) -> FileResponse:
        if password and not is_logged_in(request):
            raise HTTPException(401)
        path = visitors.file(key, name)
        if path is None or not path.is_file():
            raise HTTPException(404, "no such file; files are kept for an hour")
        return FileResponse(path, headers={"Cache-Control": "private, no-store"})

    def is_right(_: str, given: str) -> bool:
        return hmac.compare_digest(given.encode(), password.encode())

    login = {"auth": is_right, "auth_message": "Give the password that you were told; any user name will do."}
    gradio.mount_gradio_app(
        app, build(line, visitors, options), path="/", **(login if password else {}),
        max_file_size=options.max_mb << 20, footer_links=[], theme=THEME, css_paths=[CSS], head=HEAD,
        run_history=False, ssr_mode=False, pwa=False, show_error=False, enable_monitoring=False, mcp_server=False,
    )  # fmt: skip
    page = app.routes[-1].app

    def is_logged_in(request: Request) -> bool:
        names = (f"access-token-{page.cookie_id}", f"access-token-unsecure-{page.cookie_id}")
        return any(request.cookies.get(name) in page.tokens for name in names)

    app.add_middleware(Gate)
    if is_local and not password:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", "["])
    return app


def _parse_args():
    parser = OptionParser(prog="demo", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=at_least(0), default=7860, help="0: any that is free")
    parser.add_argument("--max_minutes", type=at_least(1), default=PageOptions.max_minutes, help="longer videos are refused")
    parser.add_argument("--max_mb", type=at_least(1), default=PageOptions.max_mb, help="larger files are refused")
    parser.add_argument("--exp_dir", required=True, help="folder of the experiment")
    parser.add_argument("--frontend_weights", default="", help="where its visual frontend is now")
    parser.add_argument("--face_weights", default="", help="where its face frontend is now")
    parser.add_argument("--id", default="", help="GPU, e.g. 0; cpu; empty: a GPU if there is one")
    return parser.parse_args()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if (getattr(error, "errno", None) or 0) > 0 else error
        raise UserError(f"--host {host} --port {port}: {reason}; choose another address or port") from None


if __name__ == "__main__":
    run_cli(main)
