"""Hugging Face: data sets, models and spaces of the Hub, read at a branch, a tag or a commit.

Names and versions come from the Hub's API through huggingface_hub, bytes by range requests from where the Hub sends
them.  A version is the file's content: the SHA-256 of a large file, git's hash of a small one.  The Hub tells it with
each answer, so no read needs a look before or after, and a branch may move at any time.

*Callers*: threads of `TreeStore`.  *Locks*: none but those of the HTTP client, which all mounts share.  *Invariants*:
bytes are given only if the answer's version and range are what was asked for.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import httpx2
from huggingface_hub import HfApi, hf_hub_url, set_client_factory
from huggingface_hub.errors import HfUriError, HFValidationError
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # re-exported without saying so
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    parse_hf_uri,
)

from forebay.config.settings import Settings
from forebay.errors import FsError, Invalid, NotFound, StaleVersion
from forebay.stores import hub_errors
from forebay.stores.base import Capabilities, Opened
from forebay.stores.named_options import OptionNames, flag
from forebay.stores.ranges import check_range, range_header, total_bytes
from forebay.stores.s3_listing import version_of
from forebay.stores.tree import THREADS, Entry, Tree, TreeStore
from forebay.types import Buffer, ByteRange, FolderMeta, ObjectMeta

USUAL_ENDPOINT = "https://huggingface.co"
SILENCE_S = 30.0  # a call whose answer says nothing for as long is given up; huggingface_hub would wait for ever
_FORM = "hf://datasets/ORG/NAME, hf://datasets/ORG/NAME@REVISION/folder, hf://ORG/MODEL"
_LIBRARY = "forebay"  # in the User-Agent
_TYPES = ("model", "dataset", "space")

_OPTIONS = OptionNames(
    "Hugging Face",
    prefixes=("hf", "huggingface", "hub", "fsspec"),
    names={
        "hf.token": ("hubtoken", "apitoken", "accesstoken"),
        "hf.endpoint": ("endpointurl",),
        "hf.anonymous": ("anon",),
    },
)


def _limit(request: httpx2.Request) -> None:
    request.extensions["timeout"] = httpx2.Timeout(SILENCE_S).as_dict()


def _make_client() -> httpx2.Client:
    limits = httpx2.Limits(max_connections=4 * THREADS, max_keepalive_connections=THREADS)
    return httpx2.Client(follow_redirects=True, limits=limits, event_hooks={"request": [_limit]})


set_client_factory(_make_client)


def open_url(scheme: str, rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    """`hf://datasets/org/name@revision/folder`; see `forebay.stores.registry`."""
    given = _OPTIONS.read(options)
    try:
        place = parse_hf_uri(f"hf://{rest.rstrip('/')}")
    except (HfUriError, HFValidationError):  # its text repeats the URL, which may hold what should not be there
        raise Invalid(f"the URL names no repository of the Hub; write {_FORM}") from None
    if place.type not in _TYPES:
        raise Invalid(f"Forebay reads models, datasets and spaces of the Hub, and no {place.type}s; write {_FORM}")
    anonymous = flag("hf.anonymous", given.get("hf.anonymous"), default=False)
    if anonymous and "hf.token" in given:
        raise Invalid("hf.anonymous=true and hf.token exclude each other; leave one of them out")
    endpoint = given.get("hf.endpoint", "").rstrip("/") or None
    if endpoint is not None and (not endpoint.startswith(("http://", "https://")) or "@" in endpoint):
        raise Invalid("hf.endpoint must be like https://hub.example.com, without a user or a token")
    token = False if anonymous else given.get("hf.token")
    tree = HubTree(endpoint, token, place.type, place.id, place.revision or "main", place.path_in_repo or "")
    return Opened(TreeStore(tree, deadline_s=settings.store_deadline_s), "")


class HubTree(Tree):
    """A folder of a repository at a revision.  See the module."""

    absences_are_sure = True  # the Hub tells a missing file from a missing repository or revision

    def __init__(
        self, endpoint: str | None, token: str | bool | None, kind: str, repo: str, revision: str, folder: str
    ) -> None:
        self._api = HfApi(endpoint=endpoint, token=token, library_name=_LIBRARY)
        self._token = token  # None: HF_TOKEN, or who has logged in; False: none
        self._kind = kind
        self._repo = repo
        self._revision = revision
        self._folder = folder.strip("/")
        self.location = f"hf://{kind}s/{repo}@{revision}/{self._folder}".rstrip("/")
        if self._api.endpoint != USUAL_ENDPOINT:
            self.location += f"@{self._api.endpoint}"
        self.capabilities = Capabilities(writable=False, multipart=False, folders=True)

    def stat(self, key: str) -> ObjectMeta | FolderMeta:
        """See `Tree.stat`."""
        path = self._path(key)
        with self._translated(key):
            if not path:
                self._api.repo_info(
                    self._repo,
                    revision=self._revision,
                    repo_type=self._kind,
                    timeout=SILENCE_S,
                    expand="sha",  # else it would send the name of every file
                )
                return FolderMeta(0)
            found = self._api.get_paths_info(self._repo, [path], revision=self._revision, repo_type=self._kind)
        if not found:
            raise NotFound(f"{self.location}: no such file: {key!r}", path=key)
        return _meta(key, found[0])

    def entries(self, key: str) -> Iterable[Entry]:
        """See `Tree.entries`; the Hub sends 1,000 at a time."""
        path = self._path(key)
        with self._translated(key):
            found = self._api.list_repo_tree(
                self._repo, path or None, revision=self._revision, repo_type=self._kind, recursive=False, expand=False
            )
            names = [(one.path.rpartition("/")[2], one) for one in found]
        return [Entry(name, _meta(f"{key}/{name}".removeprefix("/"), one)) for name, one in names]

    def chunks(self, key: str, span: ByteRange | None, version: str | None, chunk_bytes: int) -> Iterator[Buffer]:
        """See `Tree.chunks`: one request, and one more where the Hub sends it elsewhere."""
        url = hf_hub_url(
            self._repo, self._path(key), repo_type=self._kind, revision=self._revision, endpoint=self._api.endpoint
        )
        headers = build_hf_headers(token=self._token, library_name=_LIBRARY) | range_header(span)
        with self._translated(key), get_session().stream("GET", url, headers=headers) as response:
            status = response.status_code
            told = _version_told(response)
            if version is not None and told is not None and told != version:
                raise StaleVersion(f"{self.location}: {key!r} has another version by now", path=key)
            if not response.is_success:
                response.read()
                hf_raise_for_status(response)
            if told is None:
                raise Invalid(f"{self.location}: {key!r}: {self._api.endpoint} does not tell versions", path=key)
            total = total_bytes(self.location, key, status, response.headers)
            check_range(self.location, key, status, response.headers, span, total)
            yield from response.iter_raw(chunk_bytes)

    def _path(self, key: str) -> str:
        return f"{self._folder}/{key}".strip("/")

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Turn the library's errors into ours."""
        try:
            yield
        except FsError:
            raise
        except hub_errors.ERRORS as error:
            raise hub_errors.translate(error, self.location, self._api.endpoint, key) from None


def _meta(key: str, found: RepoFile | RepoFolder) -> ObjectMeta | FolderMeta:
    if isinstance(found, RepoFolder):
        return FolderMeta(0)
    version = found.lfs.sha256 if found.lfs is not None else found.blob_id
    return ObjectMeta(key, found.size, 0, version)


def _version_told(response: httpx2.Response) -> str | None:
    """The version that the Hub names in its own answers; what it sends us to may have ETags of another kind."""
    answers = [*response.history, response]
    for answer in answers:
        if "X-Linked-ETag" in answer.headers:
            return version_of(answer.headers["X-Linked-ETag"], 0, 0)
    for answer in answers:
        if "ETag" in answer.headers and "X-Repo-Commit" in answer.headers:
            return version_of(answer.headers["ETag"], 0, 0)
    last = response.headers.get("ETag")
    return version_of(last, 0, 0) if last and response.is_success else None
