"""A Hugging Face Hub on loopback for the real `huggingface_hub` client, with tokens, faults and a log of all it gets.

    with HubServer(users={"ada": "hf_ada"}) as hub:
        hub.add_model("ada/vit-t", "runs/vit-t")
        subprocess.run([...], env={**os.environ, **hub.env(token="hf_ada", cache=tmp_path)})
        assert hub.files("ada/vit-t-beans")["README.md"].startswith(b"---")

By hand: `python tests/hub_server.py --port 8899 --token hf_ada`, then `export HF_ENDPOINT=http://127.0.0.1:8899
HF_HUB_DISABLE_XET=1 HF_TOKEN=hf_ada`. Nothing is stored on disk. Repository names always have a namespace.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hub_routes import Call, Reply, answer
from hub_store import File, Refused, Repo, Store


@dataclass
class Request:
    """One request as it came in, header names in lower case; `status` is the answer, 0 where it was cut instead."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(default=b"", repr=False)
    status: int = 0
    at: float = field(default_factory=time.monotonic, repr=False)


@dataclass
class Fault:
    """What goes wrong with the `nth` and the next `times - 1` requests that fit; see `HubServer.fail`."""

    method: str
    pattern: re.Pattern
    nth: int = 1
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    reset: bool = False
    delay: float = 0.0
    drop_reply: bool = False
    seen: int = 0

    def strikes(self, method: str, path: str) -> bool:
        """Count a request that fits; whether this one is hit."""
        if self.method not in ("*", method) or not self.pattern.search(path):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


class HubServer:
    """A Hub that listens on 127.0.0.1 from `start()` (or `with`) to `stop()`.

    Args:
        users (`dict[str, str]`, *optional*): user name -> token with the role "write".
        orgs (`dict`, *optional*): organisation -> members, a list (all may write) or a dict member -> role.
        read_tokens (`dict[str, str]`, *optional*): user name -> token with the role "read".
        collections (`bool`, *optional*, defaults to `True`): `False` answers 404 to all of `/api/collections`.
        page_size (`int`, *optional*, defaults to 1000): entries per page of every paginated list.
        port (`int`, *optional*, defaults to 0): 0 takes a free one.

    Attributes:
        requests (`list[Request]`): every request in the order of arrival, bodies and headers raw.
        bytes_received (`int`): body bytes over all requests.
        store (`Store`): repositories, tokens and collections, for tests that look or reach inside.
    """

    def __init__(self, users=None, orgs=None, *, read_tokens=None, collections=True, page_size=1000, port=0):
        self.store = Store(users, read_tokens, orgs)
        self.collections, self.page_size = collections, page_size
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.stopping = threading.Event()
        self._http = _Listener(("127.0.0.1", port), _Handler)
        self._http.hub = self
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def start(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Close the port and wake requests that a fault holds back. A stopped hub cannot be started again."""
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()

    def __enter__(self) -> HubServer:
        return self.start()

    def __exit__(self, *exc_info) -> None:
        self.stop()

    def env(self, token: str | None = None, *, cache: str | Path, **more: str) -> dict[str, str]:
        """Environment for a process that shall talk to this hub only and keep all it writes below `cache`."""
        folders = {"HF_HOME": "", "HF_HUB_CACHE": "hub", "HF_ASSETS_CACHE": "assets", "HF_XET_CACHE": "xet"}
        folders |= {"HF_DATASETS_CACHE": "datasets", "HF_MODULES_CACHE": "modules", "HF_TOKEN_PATH": "token"}
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": token or "",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **{name: str(Path(cache) / folder) for name, folder in folders.items()},
            **more,
        }

    def add_repo(self, kind: str, repo_id: str, files, message="Add files", **options) -> str:
        """Commit files on the server's side and return the commit id; creates the repository where it is missing.

        Args:
            kind (`str`): "model", "dataset" or "space".
            repo_id (`str`): "namespace/name".
            files (`str`, `Path` or `dict[str, bytes | str]`): a folder, or path -> content.
            message (`str`, *optional*): title of the commit.
            **options: fields of a new `Repo`: `private`, `gated`, `granted`, `sdk`, `downloads`, `likes`.
        """
        if not isinstance(files, Mapping):
            root = Path(files)
            files = {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
        with self.store.lock:
            repo = self.store.repos.get((kind, repo_id)) or self.store.create_repo(kind, repo_id, **options)
            tree = dict(repo.at().tree)
            for path, data in files.items():
                data = data.encode() if isinstance(data, str) else data
                tree[path] = File(data, repo.is_lfs(path, len(data), data[:512]))
            return repo.add_commit("main", tree, message, "", repo.namespace).id

    def add_model(self, repo_id: str, files, private=False, gated=False, **options) -> str:
        """`add_repo("model", …)`: a model with its files; returns the commit id."""
        return self.add_repo("model", repo_id, files, private=private, gated=gated, **options)

    def add_dataset(self, repo_id: str, files, private=False, gated=False, **options) -> str:
        """`add_repo("dataset", …)`: a data set with its files; returns the commit id."""
        return self.add_repo("dataset", repo_id, files, private=private, gated=gated, **options)

    def repo(self, repo_id: str, kind: str = "model") -> Repo:
        """A repository as the server holds it; `Refused` where there is none."""
        return self.store.repo(kind, repo_id)

    def files(self, repo_id: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """path -> bytes of all files at a revision, without the Hub's own `.gitattributes`."""
        tree = self.repo(repo_id, kind).at(revision).tree
        return {path: file.data for path, file in tree.items() if path != ".gitattributes"}

    def commits(self, repo_id: str, revision: str = "main", kind: str = "model") -> list:
        """The commits up to a revision, newest first; the last one is the Hub's own "initial commit"."""
        return self.repo(repo_id, kind).log(revision)

    def fail(self, method: str, path_regex: str, nth: int = 1, times: int = 1, **what) -> Fault:
        """Let the `nth` request that fits, and the next `times - 1`, go wrong; returns the fault (`.seen` counts).

        Args:
            method (`str`): HTTP verb or "*".
            path_regex (`str`): searched in path and query as sent, e.g. `r"/commit/main"`.
            nth (`int`, *optional*, defaults to 1): the first request to hit, counted from now.
            times (`int`, *optional*, defaults to 1): how many to hit.
            **what: what goes wrong, from the list below.
            status (`int`, *optional*): answer this instead of acting; with `headers` (`dict`) and `body`
                (`bytes`, `str` or JSON value).
            cut (`int`, *optional*): close the connection after that many bytes of the uploaded body (then nothing is
                done) or, for a request without a body, of the downloaded one.
            reset (`bool`, *optional*): `cut` and `drop_reply` end with TCP RST instead of FIN.
            delay (`float`, *optional*): wait that many seconds first.
            drop_reply (`bool`, *optional*): act, then close the connection without a reply.

        Raises:
            `ValueError`: if nothing is said to go wrong.
        """
        if not any(what.get(key) not in (None, False) for key in ("status", "cut", "delay", "drop_reply")):
            raise ValueError("fail() needs one of status, cut, delay, drop_reply")
        body = what.pop("body", b"")
        if not isinstance(body, bytes):
            body = (body if isinstance(body, str) else json.dumps(body)).encode()
        fault = Fault(method, re.compile(path_regex), nth, times, body=body, **what)
        self.faults.append(fault)
        return fault

    def strike(self, method: str, path: str) -> Fault | None:
        """The fault for this request, the one added first where several fit; all that fit count it."""
        with self.store.lock:
            return next(iter([fault for fault in self.faults if fault.strikes(method, path)]), None)

    @property
    def bytes_received(self) -> int:
        return sum(len(request.body) for request in self.requests)

    def everything_received(self) -> bytes:
        """Every byte that clients sent, for a search: paths, headers, bodies, and what bodies hold in base64.

        The value of `Authorization`, the one place where a token belongs, is left out.
        """
        parts: list[bytes] = []
        for request in self.requests:
            headers = {name: value for name, value in request.headers.items() if name != "authorization"}
            parts += [f"{request.method} {request.path} {headers}".encode(), request.body]
            for encoded in re.findall(rb'"(?:content|sample)": ?"([A-Za-z0-9+/=]*)"', request.body):
                parts.append(base64.b64decode(encoded + b"=" * (-len(encoded) % 4)))
        return b"\n".join(parts)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    hub: HubServer

    def handle_error(self, request, client_address):
        """A client that hangs up is no error of the server; anything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def log_message(self, format, *args):
        """Quiet: `hub.requests` is the log."""

    def serve(self) -> None:
        hub = self.server.hub
        fault = hub.strike(self.command, self.path) or Fault("", re.compile(""))
        request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        hub.requests.append(request)
        if fault.delay:
            hub.stopping.wait(fault.delay)
        has_body = "content-length" in self.headers or "transfer-encoding" in self.headers
        request.body = self.read_body(fault.cut)
        if fault.cut is not None and has_body:
            return self.hang_up(fault.reset)
        if fault.status is not None:
            reply = Reply(fault.status, fault.body, dict(fault.headers))
        else:
            reply = self.reply_to(request)
        if fault.drop_reply:
            return self.hang_up(fault.reset)
        request.status = reply.status
        return self.send(reply, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = serve

    def reply_to(self, request: Request) -> Reply:
        try:
            with self.server.hub.store.lock:
                return answer(Call(self.server.hub, request.method, request.path, self.headers, request.body))
        except Refused as refusal:
            body = json.dumps({"error": refusal.message, **refusal.body}).encode()
            headers = {"Content-Type": "application/json", "X-Error-Message": refusal.message, **refusal.headers}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            return Reply(refusal.status, body, headers)

    def read_body(self, limit: int | None) -> bytes:
        """The request's body, or its first `limit` bytes."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)[:limit]
        length = int(self.headers.get("content-length", 0))
        return self.rfile.read(length if limit is None else min(length, limit))

    def send(self, reply: Reply, fault: Fault) -> None:
        reason = HTTPStatus(reply.status).phrase if reply.status in HTTPStatus._value2member_map_ else ""
        self.send_response_only(reply.status, reason)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, re.sub(r"\s+", " ", str(value)).encode("latin-1", "replace").decode("latin-1"))
        body = b"" if self.command == "HEAD" else reply.body[: fault.cut]
        self.end_headers()
        self.wfile.write(body)
        if fault.cut is not None:
            self.hang_up(fault.reset)

    def hang_up(self, reset: bool) -> None:
        """Close the connection, with TCP RST if `reset`."""
        self.close_connection = True
        if not reset:
            return self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for end in (self.rfile, self.wfile, self.connection):
            end.close()
        self.wfile = io.BytesIO()
        return None


def main(argv: list[str] | None = None) -> int:
    """Serve until interrupted, for trying the client by hand."""
    parser = argparse.ArgumentParser(description="A Hugging Face Hub on loopback; nothing is stored on disk.")
    parser.add_argument("--port", type=int, default=8899)
    parser.add_argument("--user", default="ada")
    parser.add_argument("--token", default="hf_ada_token")
    parser.add_argument("--model", action="append", default=[], metavar="ID=FOLDER", help="a model to begin with")
    options = parser.parse_args(argv)
    hub = HubServer({options.user: options.token}, port=options.port)
    for model in options.model:
        hub.add_model(*model.split("=", 1))
    with hub:
        print(f"export HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1 HF_TOKEN={options.token}", flush=True)
        shown = 0
        try:
            while True:
                time.sleep(0.2)
                for request in hub.requests[shown:]:
                    print(request.status, request.method, request.path, len(request.body), flush=True)
                    shown += 1
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    raise SystemExit(main())
