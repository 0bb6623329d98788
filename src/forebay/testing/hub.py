"""A stand-in for the Hugging Face Hub: what it answers to huggingface_hub and to range requests, from memory.

It answers as the real one was seen to in the traces and the client's code of 2025 and 2026:
- `/api/{type}s/{repo}/revision/{rev}`, `/tree/{rev}/{folder}` in pages with a `Link`, `/paths-info/{rev}`;
- `/resolve/{rev}/{path}`: a small file by a 307 to `/api/resolve-cache/...` under its commit, with git's hash as ETag;
  a large one (LFS) by a 302 with `X-Linked-ETag`, its SHA-256, to a signed URL of another host, whose ETag is another;
- 401 for what is private or not there when nobody has logged in, 404 and 403 with `X-Error-Code` else.
"""

import asyncio
import hashlib
import json
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote

from aiohttp import web

LFS_BYTES_MIN = 4_096  # smaller files are git's own; the real Hub decides by type and 10 MB
SIGNED = "Signature=s1gned"
_START_WITHIN_S = 30.0


@dataclass
class Repository:
    """A repository with one branch, whose files may be changed."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    commits: int = 1

    @property
    def commit(self) -> str:
        """The hash of the newest commit."""
        return hashlib.sha1(f"commit {self.commits}".encode(), usedforsecurity=False).hexdigest()

    def put(self, path: str, data: bytes) -> None:
        """Commit a file."""
        self.files[path] = data
        self.commits += 1


class HubServer:
    """Runs in a thread while its `with` does; `repositories` by `datasets/org/name` and the like."""

    token = "hf_theTokenOfThisTest"

    def __init__(self, *, page_entries: int = 1_000) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []  # method and path of each
        self.port = 0
        self.fails = 0  # so many answers are 503 from now on
        self._page_entries = page_entries
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hub", daemon=True)
        self._runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> str:
        """What `hf.endpoint` must be."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, str]:
        """The options of a mount of it."""
        return {"hf.endpoint": self.endpoint, "hf.token": self.token}

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(_START_WITHIN_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def stop(self) -> None:
        """Answer no more."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(_START_WITHIN_S)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_route("*", r"/{path:[\s\S]*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        if self.fails > 0:
            self.fails -= 1
            return web.Response(status=503)
        path = request.path.lstrip("/")  # decoded
        raw = request.raw_path.partition("?")[0].lstrip("/")
        if path.startswith("cdn/"):
            return self._from_cdn(request, path.removeprefix("cdn/"))
        if path.startswith("api/resolve-cache/"):
            return self._from_cache(request, path.removeprefix("api/resolve-cache/"))
        if path.startswith("api/"):
            return await self._from_api(request, raw.removeprefix("api/"))
        name, _, rest = path.partition("/resolve/")
        name = name if name.startswith(("datasets/", "spaces/")) else f"models/{name}"
        revision, _, file = rest.partition("/")
        return self._refusal(request, name, revision) or self._resolve(request, name, file)

    def _refusal(self, request: web.Request, name: str, revision: str) -> web.Response | None:
        """None if the repository may be read."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        found = self.repositories.get(name)
        if token and token != self.token:
            return _error(401, "", "Invalid credentials in Authorization header")
        if found is None or (found.private and not token):
            return _error(404, "RepoNotFound", "Repository not found") if token else _error(401, "", "Invalid username")
        if found.gated and not token and "/resolve/" in request.path:
            return _error(401, "GatedRepo", "Access to this repository is restricted")
        if revision not in ("main", found.commit):
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def _resolve(self, request: web.Request, name: str, file: str) -> web.Response:
        repository = self.repositories[name]
        headers = {"X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        data = repository.files.get(file)
        if data is None:
            return _error(404, "EntryNotFound", "Entry not found")
        if _is_large(data):
            sha256 = hashlib.sha256(data).hexdigest()
            headers |= {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
            place = f"http://localhost:{self.port}/cdn/{sha256}?{SIGNED}"
            return web.Response(status=302, headers=headers | {"Location": place})
        place = f"/api/resolve-cache/{quote(name)}/{repository.commit}/{quote(file)}?etag=%22{_blob(data)}%22"
        return web.Response(status=307, headers=headers | {"Location": place})

    def _from_cache(self, request: web.Request, path: str) -> web.Response:
        kind, org, repo, commit, file = path.split("/", 4)
        data = self.repositories[f"{kind}/{org}/{repo}"].files.get(file)
        if data is None:
            return _error(404, "EntryNotFound", "Entry not found")
        return _ranged(request, data, {"ETag": f'"{_blob(data)}"', "X-Repo-Commit": commit})

    def _from_cdn(self, request: web.Request, sha256: str) -> web.Response:
        if request.query_string != SIGNED or "Authorization" in request.headers:  # a token is for the Hub alone
            return web.Response(status=403)
        for repository in self.repositories.values():
            for data in repository.files.values():
                if _is_large(data) and hashlib.sha256(data).hexdigest() == sha256:
                    return _ranged(request, data, {"ETag": '"of-the-cdn-itself"'})
        return web.Response(status=404)

    async def _from_api(self, request: web.Request, raw: str) -> web.Response:
        kind, org, repo, call, revision, *rest = [*map(unquote, raw.split("/")), "", "", ""][:6]
        name = f"{kind}/{org}/{repo}"
        refusal = self._refusal(request, name, revision or "main")
        if refusal is not None:
            return refusal
        repository = self.repositories[name]
        if call in ("", "revision"):
            siblings = [] if "expand" in request.query else [{"rfilename": path} for path in repository.files]
            return web.json_response({"id": f"{org}/{repo}", "sha": repository.commit, "siblings": siblings})
        if call == "paths-info":
            form = await request.post()
            paths = [str(path) for path in form.getall("paths")]
            found = [one for path in paths if (one := _describe(repository, path)) is not None]
            return web.json_response(found)
        if call == "tree":
            return self._tree(request, repository, rest[0])
        return _error(404, "", "Sorry, we can't find the page you are looking for.")

    def _tree(self, request: web.Request, repository: Repository, folder: str) -> web.Response:
        prefix = f"{folder}/" if folder else ""
        below = [path.removeprefix(prefix) for path in repository.files if path.startswith(prefix)]
        if folder and not below:
            return _error(404, "EntryNotFound", f"{folder} does not exist")
        names = {path.partition("/")[0]: "/" in path for path in below}
        ordered = sorted(names, key=lambda name: (not names[name], name))  # folders first
        start = int(request.query.get("cursor", 0))
        page = ordered[start : start + self._page_entries]
        headers = {}
        if start + len(page) < len(ordered):
            more = request.url.update_query(cursor=start + len(page))
            headers["Link"] = f'<{more}>; rel="next"'
        return web.json_response([_describe(repository, prefix + name) for name in page], headers=headers)


def _describe(repository: Repository, path: str) -> dict[str, Any] | None:
    data = repository.files.get(path)
    if data is None:
        is_folder = any(file.startswith(f"{path}/") for file in repository.files)
        return {"type": "directory", "oid": _blob(path.encode()), "size": 0, "path": path} if is_folder else None
    said: dict[str, Any] = {"type": "file", "oid": _blob(data), "size": len(data), "path": path}
    if _is_large(data):
        sha256 = hashlib.sha256(data).hexdigest()
        said |= {"oid": _blob(sha256.encode()), "xetHash": sha256[::-1]}
        said["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
    return said


def _is_large(data: bytes) -> bool:
    return len(data) >= LFS_BYTES_MIN


def _blob(data: bytes) -> str:
    """Git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _ranged(request: web.Request, data: bytes, headers: dict[str, str]) -> web.Response:
    asked = request.http_range
    if asked.start is None:
        return web.Response(body=data, headers=headers)
    stop = min(len(data) if asked.stop is None else asked.stop, len(data))
    if asked.start >= len(data):
        return web.Response(status=416, headers=headers | {"Content-Range": f"bytes */{len(data)}"})
    said = {"Content-Range": f"bytes {asked.start}-{stop - 1}/{len(data)}"}
    return web.Response(status=206, body=data[asked.start : stop], headers=headers | said)


def _error(status: int, code: str, message: str) -> web.Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return web.Response(status=status, body=json.dumps({"error": message}), headers=headers)
