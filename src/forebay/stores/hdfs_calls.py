"""Blocking calls of hdfs-native, each within a deadline, in threads of their own.

hdfs-native waits for a NameNode without a limit, and a call cannot be called back.  So who waits for one leaves it at
the deadline; the thread stays with it until it ends, and later calls get another client and other threads, which
try the next NameNode first.

*Callers*: the store, on the loop; `connect` and `reach` in the threads.  *Locks*: one per crew, for its client.
*Awaits*: a thread's answer.  *Invariants*: at most two crews live, and so at most twice `THREADS` threads; no exit of
the process waits for them (they are daemonic).
"""

import asyncio
import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Concatenate, ParamSpec, TypeVar

import hdfs_native

from forebay.errors import FsError, TimedOut, Unavailable
from forebay.stores import hdfs_errors
from forebay.stores.hdfs_options import HdfsOptions, Namenode, Place

THREADS = 32  # calls at a time; more wait
FAILOVERS_MAX = 5  # of a name service, each NameNode in turn, with pauses of 1 and 2 s: a failover takes a little
REACH_WITHIN_S = 2.0  # a host that is up accepts or refuses at once
SOCKET_SHARE = 1 / 3  # of the deadline, after which another DataNode is asked
_MARGIN = 0.9  # of the deadline: our own message comes before that of who waits for us
_DRAIN_S = 5.0
_NO_FOLDER = "/dev/null"  # holds no configuration: else hdfs-native reads what HADOOP_CONF_DIR says, beside ours

Args = ParamSpec("Args")
Result = TypeVar("Result")
_Job = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


def reach(namenode: Namenode) -> str | None:
    """Why a NameNode cannot be connected to; None if it can.  Blocks, `REACH_WITHIN_S` at most, but for DNS."""
    try:
        socket.create_connection((namenode.host.strip("[]"), namenode.port), timeout=REACH_WITHIN_S).close()
    except socket.gaierror:
        return f"no such host: {namenode.host}; check the URL and DNS"
    except ConnectionRefusedError:
        return f"connection refused by {namenode}; check the port (a NameNode's RPC port, often 8020) and that it runs"
    except TimeoutError:
        return f"no answer from {namenode}; check network and firewall"
    except OSError as error:
        return f"{namenode}: {(error.strerror or 'unreachable').lower()}"
    return None


def connect(place: Place, options: HdfsOptions, deadline_s: float, turn: int) -> hdfs_native.Client:
    """A client of a place.  Of several NameNodes, those that can be reached come first, another one each `turn`."""
    config = {
        "dfs.client.socket-timeout": str(max(1, int(deadline_s * SOCKET_SHARE * 1000))),
        "dfs.client.failover.max.attempts": str(FAILOVERS_MAX if len(place.namenodes) > 1 else 0),
        **options.config,
    }
    if len(place.namenodes) > 1:
        # Waiting for a host that is down, hdfs-native would never come to the next one.
        near = [one for one in place.namenodes if reach(one) is None]
        first = turn % len(near) if near else 0
        order = [*near[first:], *near[:first], *(one for one in place.namenodes if one not in near)]
        config[f"dfs.ha.namenodes.{place.authority}"] = ",".join(one.name for one in order)
        config.pop(f"dfs.client.failover.random.order.{place.authority}", None)
    url = f"hdfs://{place.authority}"
    try:
        return hdfs_native.Client(
            url,
            config,
            _NO_FOLDER,
            kerberos_principal=options.principal,
            kerberos_keytab=options.keytab,
            kerberos_cache=options.ticket_cache,
        )
    except hdfs_errors.NATIVE as error:
        raise hdfs_errors.translate(error, url, "", writing=False) from None


class Calls:
    """See the module."""

    def __init__(self, connect: Callable[[int], hdfs_native.Client], *, where: str, deadline_s: float) -> None:
        self._connect = connect
        self._where = where  # for messages
        self._deadline_s = deadline_s
        self._turn = 0
        self._crew = _Crew(connect, 0)
        self._left: _Crew | None = None  # has threads that wait for answers which nobody waits for any more

    async def run(
        self, call: Callable[Concatenate[hdfs_native.Client, Args], Result], *args: Args.args, **kwargs: Args.kwargs
    ) -> Result:
        """What `call` answers, given the client and the arguments, within the deadline.

        Raises:
            TimedOut: it did not; the call goes on unheard.
        """
        assert not kwargs
        crew = self._crew
        answer: Future[Result] = crew.submit(call, args)
        try:
            async with asyncio.timeout(self._deadline_s * _MARGIN):
                return await asyncio.wrap_future(answer)
        except TimeoutError as error:
            if isinstance(error, FsError):
                raise
            self._leave(crew)
            raise TimedOut(
                f"{self._where}: HDFS did not answer within {self._deadline_s * _MARGIN:g} s; "
                "check that the NameNode is up and not overloaded"
            ) from None

    def _leave(self, crew: "_Crew") -> None:
        if crew is self._crew and (self._left is None or self._left.is_idle):
            crew.dismiss()
            self._turn += 1
            self._left, self._crew = crew, _Crew(self._connect, self._turn)

    async def close(self) -> None:
        """Let calls end that are about to, and the threads with them; `run` may not follow."""
        self._crew.dismiss()
        await asyncio.to_thread(self._crew.join)


class _Crew:
    """Threads around one client, which is made when the first of them needs it."""

    def __init__(self, connect: Callable[[int], hdfs_native.Client], turn: int) -> None:
        self._connect = connect
        self._turn = turn
        self._client: hdfs_native.Client | None = None
        self._connecting = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._free = threading.Semaphore(0)  # counts threads that have nothing to do

    @property
    def is_idle(self) -> bool:
        """Has every thread ended that was told to?"""
        return not any(thread.is_alive() for thread in self._threads)

    def submit(self, call: Callable[..., Result], args: tuple[Any, ...]) -> "Future[Result]":
        answer: Future[Result] = Future()
        self._jobs.put((answer, call, args))
        if not self._free.acquire(blocking=False) and len(self._threads) < THREADS:
            thread = threading.Thread(target=self._work, name="hdfs-store", daemon=True)
            self._threads.append(thread)
            thread.start()
        return answer

    def dismiss(self) -> None:
        """Each thread ends when its call has ended."""
        for _ in self._threads:
            self._jobs.put(None)

    def join(self) -> None:
        """Wait for the threads' ends, but not for ever."""
        for thread in self._threads:
            thread.join(_DRAIN_S / THREADS)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._do(*job)
            del job  # and with it what was read, which may be large
            self._free.release()

    def _do(self, answer: "Future[Any]", call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            answer.set_result(call(self._connected(), *args))
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits for it is told
            answer.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - a panic of hdfs-native is no Exception
            answer.set_exception(Unavailable(f"hdfs-native failed: {type(error).__name__}"))

    def _connected(self) -> hdfs_native.Client:
        with self._connecting:
            if self._client is None:
                self._client = self._connect(self._turn)
            return self._client
