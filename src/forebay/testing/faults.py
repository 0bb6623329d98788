"""What may go wrong between an HTTP client and its server, as values, and scripts that say when.  Pure.

A fault may change the request on its way (`ask`), keep it from the server (`reaches_server`), and change the answer on
its way back or how it is sent (`spoil`).  Two kinds give bytes that nothing in an answer could tell from the right
ones: `Flip`, and `Short` of an answer that is not asked for by its range.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

BEFORE_HEADERS = -1  # a place in an answer; 0 is after its headers, n after n bytes of its body

Ending = Literal["keep", "close", "reset", "stall"]
"""Of a connection, after an answer: go on, end in order, end by a reset, or be silent until the client ends it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked."""

    method: str
    target: str  # path and query, as they were sent
    headers: Mapping[str, str]  # names in lower case
    body: bytes = b""
    at_s: float = 0.0  # when it had come, by the monotonic clock


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back, and how."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)  # no Content-Length: the one that fits the body
    body: bytes = b""
    late_s: float = 0.0  # before its first byte
    bytes_per_s: float = 0.0  # of the body; 0: no limit
    stop: int | None = None  # where `ending` comes; None: at the end
    ending: Ending = "keep"
    is_chunked: bool = False

    def with_headers(self, changes: Mapping[str, str]) -> "Answer":
        """Other headers; an empty value leaves one out."""
        lower = {name.lower() for name in changes}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in lower}
        return replace(self, headers=kept | {name: value for name, value in changes.items() if value})

    @property
    def length(self) -> int:
        """The Content-Length that it announces."""
        said = next((value for name, value in self.headers.items() if name.lower() == "content-length"), None)
        return len(self.body) if said is None else int(said)


class Fault:
    """Nothing goes wrong: what the others start from."""

    reaches_server: bool = True

    def ask(self, request: Request) -> Request:
        """The request as it reaches the server."""
        return request

    def spoil(self, answer: Answer) -> Answer:
        """The answer as it is sent to the client."""
        return answer


@dataclass(frozen=True)
class Late(Fault):
    """The answer begins after so many seconds."""

    seconds: float

    def spoil(self, answer: Answer) -> Answer:
        """See `Fault.spoil`."""
        return replace(answer, late_s=self.seconds)


@dataclass(frozen=True)
class Trickle(Fault):
    """The body comes at so many bytes per second."""

    bytes_per_s: float

    def spoil(self, answer: Answer) -> Answer:
        """See `Fault.spoil`."""
        return replace(answer, bytes_per_s=self.bytes_per_s)


@dataclass(frozen=True)
class Refuse(Fault):
    """An error instead of the answer; with `reaches_server`, of a request that the server did carry out."""

    status: int
    code: str = ""  # S3's word for it
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None  # None: S3's form of an error, if there is a code
    reaches_server: bool = False

    def spoil(self, answer: Answer) -> Answer:
        """See `Fault.spoil`."""
        said = f"<Error><Code>{self.code}</Code><Message>scripted</Message></Error>" if self.code else ""
        return Answer(self.status, dict(self.headers), said.encode() if self.body is None else self.body)


@dataclass(frozen=True)
class Cut(Fault):
    """The connection ends in order at that place of the answer, or by a reset."""

    at: int
    by_reset: bool = False
    reaches_server: bool = True

    def spoil(self, answer: Answer) -> Answer:
        """See `Fault.spoil`."""
        return replace(answer, stop=self.at, ending="reset" if self.by_reset else "close")


def reset(at: int = BEFORE_HEADERS, *, reaches_server: bool = True) -> Cut:
    """The connection is reset at that place of the answer."""
    return Cut(at, by_reset=True, reaches_server=reaches_server)


@dataclass(frozen=True)
class Stall(Fault):
    """Nothing more comes after that place of the answer."""

    at: int = BEFORE_HEADERS
    reaches_server: bool = True

    def spoil(self, answer: Answer) -> Answer:
        """See `Fault.spoil`."""
        return replace(answer, stop=self.at, ending="stall")


@dataclass(frozen=True)
class Short(Fault):
    """The body lacks its last bytes, and its end looks right: by a Content-Length that fits, or the last chunk."""

    by: int
    is_chunked: bool = False

    def spoil(self, answer: Answer) -> Answer:
        """See `Fault.spoil`."""
        short = replace(answer, body=answer.body[: -self.by], is_chunked=self.is_chunked)
        return short.with_headers({"Content-Length": ""})


@dataclass(frozen=True)
class WrongLength(Fault):
    """The Content-Length is off by so many bytes; the body is right, and the connection ends after it."""

    by: int

    def spoil(self, answer: Answer) -> Answer:
        """See `Fault.spoil`."""
        said = answer.with_headers({"Content-Length": str(max(0, answer.length + self.by))})
        return replace(said, ending="close")


@dataclass(frozen=True)
class Flip(Fault):
    """The lowest bit of one byte of the body is another."""

    at: int  # from the end of the body and round, if it is negative or too large

    def spoil(self, answer: Answer) -> Answer:
        """See `Fault.spoil`."""
        if not answer.body:
            return answer
        at = self.at % len(answer.body)
        return replace(answer, body=answer.body[:at] + bytes([answer.body[at] ^ 1]) + answer.body[at + 1 :])


@dataclass(frozen=True)
class OtherRange(Fault):
    """The server is asked for bytes so much further on than the client asked for; None: for all of them.

    Only where requests are not signed, as for `OtherTarget`.
    """

    by: int | None

    def ask(self, request: Request) -> Request:
        """See `Fault.ask`."""
        headers = dict(request.headers)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.pop("range", ""))
        if asked is not None and self.by is not None:
            headers["range"] = f"bytes={int(asked[1]) + self.by}-{int(asked[2]) + self.by}"
        return replace(request, headers=headers)


@dataclass(frozen=True)
class OtherTarget(Fault):
    """The server is asked for another object, whatever its version."""

    target: str

    def ask(self, request: Request) -> Request:
        """See `Fault.ask`."""
        headers = {name: value for name, value in request.headers.items() if name != "if-match"}
        return replace(request, target=self.target, headers=headers)


@dataclass(frozen=True)
class OtherHeaders(Fault):
    """Some headers of the answer are others; an empty value leaves one out."""

    headers: tuple[tuple[str, str], ...]

    def spoil(self, answer: Answer) -> Answer:
        """See `Fault.spoil`."""
        return answer.with_headers(dict(self.headers))


@dataclass(frozen=True)
class OtherBody(Fault):
    """These bytes, with a length that fits them."""

    body: bytes

    def spoil(self, answer: Answer) -> Answer:
        """See `Fault.spoil`."""
        return replace(answer, body=self.body).with_headers({"Content-Length": ""})


@dataclass(frozen=True)
class Together(Fault):
    """Several faults of one request and its answer, in order."""

    faults: tuple[Fault, ...]

    def ask(self, request: Request) -> Request:
        """See `Fault.ask`."""
        for fault in self.faults:
            request = fault.ask(request)
        return request

    def spoil(self, answer: Answer) -> Answer:
        """See `Fault.spoil`."""
        for fault in self.faults:
            answer = fault.spoil(answer)
        return answer


@dataclass(frozen=True, slots=True)
class Rule:
    """Which requests meet a fault."""

    fault: Fault
    method: str = ""  # "": any
    target: str = ""  # a regular expression, found anywhere in path and query
    chance: float = 1.0
    times: int | None = None  # so often at most; None: without end

    def fits(self, request: Request) -> bool:
        """Is it about that request?"""
        return self.method in ("", request.method) and re.search(self.target, request.target) is not None


class Script:
    """Rules, of which the first that fits and whose chance comes is taken.

    Chance depends on the seed, the request, and how often it was asked before, but not on what others ask meanwhile:
    so the same requests meet the same faults in every run, in whatever order they come.
    """

    def __init__(self, *rules: Rule, seed: int = 0) -> None:
        self._rules = rules
        self._seed = seed
        self._asked: Counter[tuple[str, str, str]] = Counter()
        self._taken: Counter[int] = Counter()

    def choose(self, request: Request) -> Fault | None:
        """What shall go wrong with a request; None: nothing."""
        name = (request.method, request.target, request.headers.get("range", ""))
        self._asked[name] += 1
        for number, rule in enumerate(self._rules):
            if not rule.fits(request) or self._taken[number] == rule.times:
                continue
            if rule.chance == 1 or self._draw(number, *name, self._asked[name]) < rule.chance:
                self._taken[number] += 1
                return rule.fault
        return None

    def _draw(self, *of: object) -> float:
        return random.Random(repr((self._seed, *of))).random()
