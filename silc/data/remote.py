"""Files at http://, https:// and s3:// addresses, read by range requests over fsspec's sessions.

A server may be slow, close a connection or answer 503. A read is repeated until it succeeds or `patience` seconds have
passed, so such a fault does not change the order of samples. Permanent errors (404, 403, no range requests, a file that
has changed) end the run at once. Remote errors never count as broken samples.

Each process has its own sessions; a forked worker opens new ones. The size and the ETag are taken from the first
answer to a GET, because a signed address may allow only GET; every later answer is compared with them. Messages and
names never contain the query or password of an address.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import itertools
import logging
import os
import random
import re
import ssl
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cached_property
from glob import has_magic
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, NoReturn, TypeVar
from weakref import WeakKeyDictionary

from silc.errors import BadInput
from silc.extras import install

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from silc.data.span_cache import SpanCache

log = logging.getLogger(__name__)

SCHEMES = ("http", "https", "s3")
CONCURRENT = 16
"""Maximum number of simultaneous requests per process."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0
"""First and longest pause between two tries, in seconds. The pause doubles each time, times a random 0.5 to 1.5."""
CONNECT, SILENCE, ATTEMPT = 10.0, 30.0, 60.0
"""Timeouts of one try, in seconds: to connect, without a byte, and in total (or `patience`, if longer)."""
QUIET = 5.0
"""Seconds of retries before a warning is logged."""
ALIKE = 10.0
"""After a read has given up, others that fail within this many seconds give up at once: it is the same outage."""
WALK_BLOCK = 1 << 22
"""Bytes per request when a whole file is read in order."""
WALK_AHEAD = 2

Result = TypeVar("Result")


class RemoteFault(BadInput):
    """A remote file cannot be read. Ends the run; never counted as a broken sample."""


class Unreachable(RemoteFault):
    """A remote file could not be read within `patience` seconds; it may be available later."""

    exit_code = 75  # EX_TEMPFAIL: try again


class _Again(Exception):
    """A try failed, but another may succeed. `why` is the cause; `after` the seconds that the server asks to wait."""

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.why, self.after = why, after


def is_address(name: str) -> bool:
    """True if a name is an address (scheme://...), false if it is a path."""
    return re.match(r"[a-zA-Z][\w+.-]*://", name) is not None


def without_secrets(address: str) -> str:
    """An address, or several joined by '::', without user, password, query and fragment. Paths are unchanged."""
    return "::".join(_shown(part) if is_address(part) else part for part in split_joined(address))


def split_joined(pattern: str) -> list[str]:
    """Split a pattern at '::', except within an IPv6 host."""
    return [part.strip() for part in re.split(r"::(?![\da-fA-F:.%]*\])", pattern)]


def _shown(address: str) -> str:
    scheme, _, rest = address.partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


class _Answer(NamedTuple):
    """Bytes of a file, with the file's size and tag from the server."""

    data: bytes
    total: int
    """Size of the whole file in bytes."""
    tag: str
    """ETag, or the time of the last change; empty if the server sends neither."""


class Remote:
    """Settings and state to read remote files."""

    def __init__(self, *, patience: float = 300.0, cache: SpanCache | None = None) -> None:
        """`patience` is the time for retries in seconds; `cache` stores the bytes that were read."""
        self.patience = patience
        self.cache = cache

    def files(self, address: str) -> list[RemoteFile]:
        """The file at an address, or the files that an s3 glob matches.

        Raises:
            RemoteFault: the scheme is not supported, its library is missing, or the glob cannot be listed or matches
                no file.
        """
        scheme, _, rest = address.partition("://")
        if scheme not in SCHEMES:
            kinds = ", ".join(f"{known}://" for known in SCHEMES)
            raise RemoteFault(f"{_shown(address)}: unsupported scheme; use a path or {kinds}")
        if not has_magic(rest.partition("/")[2].partition("?")[0]):
            return [RemoteFile(address, self)]
        if scheme != "s3":
            raise RemoteFault(
                f"{_shown(address)} has a glob, and http cannot list files; name them with braces, as in "
                "{00000..00331}"
            )
        found = self.start(_shown(address), lambda: _s3_list(address)).result()
        if not found:
            raise RemoteFault(f"shard pattern {_shown(address)} matches no file; check it")
        return [RemoteFile(name, self) for name in found]

    def start(self, shown: str, attempt: Callable[[], Awaitable[Result]]) -> Future[Result]:
        """Start a request and repeat it as needed. The future raises RemoteFault if it fails for good."""
        return _session().run(self._patiently(shown, attempt))

    async def _patiently(self, shown: str, attempt: Callable[[], Awaitable[Result]]) -> Result:
        session = _session()
        async with session.slots:
            began = time.monotonic()
            for tries in itertools.count(1):
                try:
                    done = await asyncio.wait_for(attempt(), max(self.patience, ATTEMPT))
                except _Again as fault:
                    why, after = fault.why, fault.after
                except TimeoutError:
                    why, after = "no complete answer in time", 0.0
                else:
                    session.speaks = True
                    session.gave_up.pop(self, None)
                    return done
                now = time.monotonic()
                waited = now - began
                if waited >= self.patience:
                    session.gave_up[self] = now
                if now - session.gave_up.get(self, -ALIKE) < ALIKE:
                    raise Unreachable(
                        f"{shown} could not be read in {waited:.0f} s and {tries} tries ({why}); when the server is "
                        "back, `--resume auto` goes on from the last checkpoint (data.remote_patience: seconds of "
                        "retries)"
                    )
                if waited > QUIET and session.speaks:
                    session.speaks = False  # one warning until a request succeeds
                    log.warning("%s: %s; trying again, for %.0f s in all", shown, why, self.patience)
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries - 1, 20)) * session.jitter.uniform(0.5, 1.5)
                await asyncio.sleep(min(max(pause, after), self.patience - waited))
        raise AssertionError  # the loop never ends without return or raise


class RemoteFile:
    """A file at an address. It has the parts of Path's interface that reading needs (`name`, `open`)."""

    def __init__(self, address: str, remote: Remote) -> None:
        self.address = address
        self.remote = remote
        self.name = _shown(address).rpartition("/")[2]
        self._version: tuple[int, str] | None = None  # size and tag of the first answer
        self._asked: dict[tuple[int, int, int], bytes | Future[_Answer]] = {}  # by process, start and size

    def __str__(self) -> str:
        return _shown(self.address)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_asked": {}}

    def version(self) -> tuple[int, str]:
        """Size in bytes, and a tag that changes with the content (empty if the server sends none)."""
        if self._version is None:
            self._take(self._start(0, 1))
        assert self._version is not None
        return self._version

    def ask(self, start: int, size: int) -> None:
        """Start to fetch `size` bytes from `start` on; one later `read` of the same bytes takes them."""
        if not size:
            return
        kept = self.remote.cache.get(self._key(), start, size) if self.remote.cache else None
        self._asked[os.getpid(), start, size] = self._start(start, size) if kept is None else kept

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from `start` on.

        Raises:
            RemoteFault: the bytes cannot be read, or the file has changed since the first read.
        """
        if not size:
            return b""
        if (os.getpid(), start, size) not in self._asked:
            self.ask(start, size)
        found = self._asked.pop((os.getpid(), start, size))
        if isinstance(found, bytes):
            return found
        data = self._take(found)
        if self.remote.cache:
            self.remote.cache.put(self._key(), start, data)
        return data

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open the file to read it from its start."""
        assert mode == "rb"
        return io.BufferedReader(_Walk(self), WALK_BLOCK)

    def _key(self) -> str:
        size, tag = self.version()
        return f"{self} {size} {tag or self.address}"

    def _start(self, start: int, size: int) -> Future[_Answer]:
        fetch = _s3_range if self.address.startswith("s3://") else _http_range
        return self.remote.start(str(self), lambda: fetch(self.address, start, start + size))

    def _take(self, future: Future[_Answer]) -> bytes:
        answer = future.result()
        here = answer.total, answer.tag
        if self._version is None:
            self._version = here
        if here != self._version:
            raise RemoteFault(
                f"{self} has changed while it was read: {here[0]:,} bytes, ETag {here[1] or 'none'}, before "
                f"{self._version[0]:,} bytes, ETag {self._version[1] or 'none'}; put the old file back, or start "
                "another run"
            )
        return answer.data


class _Walk(io.RawIOBase):
    """A remote file read in blocks. While blocks are read in order, the next ones are fetched ahead."""

    def __init__(self, file: RemoteFile) -> None:
        self.file = file
        self.size, _ = file.version()
        self._position = 0
        self._block, self._data = -1, b""
        self._ahead: dict[int, Future[_Answer]] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self.size:
            return 0
        block, place = divmod(self._position, WALK_BLOCK)
        if block != self._block:
            self._fetch(block)
        piece = self._data[place : place + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _fetch(self, block: int) -> None:
        in_a_row = block == self._block + 1
        wanted = [b for b in range(block, block + 1 + WALK_AHEAD * in_a_row) if b * WALK_BLOCK < self.size]
        self._ahead = {b: self._ahead.get(b) or self.file._start(b * WALK_BLOCK, WALK_BLOCK) for b in wanted}
        self._data = self.file._take(self._ahead.pop(block))
        self._block = block


# --- one try ----------------------------------------------------------------------------------------------------------


async def _http_range(address: str, start: int, stop: int) -> _Answer:
    """Fetch bytes [start, stop) of a file; fewer at its end."""
    files = _session().http_files
    import aiohttp

    headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    try:
        session = await files.set_session()
        async with session.get(files.encode_url(address), headers=headers) as response:
            given = response.headers
            if response.status not in (200, 206, 416):
                _complain(address, response.status, given.get("Retry-After", ""))
            span = given.get("Content-Range", "")
            if response.status == 200 and given.get("Content-Length") == "0":
                total = 0  # an empty file has no range
            else:
                total = _total(address, response.status, span, start, given.get("Content-Encoding", ""))
            data = await response.read() if response.status == 206 else b""
    except ssl.CertificateError:
        raise RemoteFault(
            f"{_shown(address)} has a certificate that is not trusted; set SSL_CERT_FILE to a file of trusted "
            "certificates"
        ) from None
    except ValueError:
        raise RemoteFault(f"{_shown(address)} is no valid address; check its spelling") from None
    except (aiohttp.ClientError, OSError) as error:
        raise _Again(_in_words(error)) from None
    # A weak tag is as good as a strong one here: it changes with the content.
    tag = given.get("ETag", "").removeprefix("W/") or given.get("Last-Modified", "")
    return _whole(data, start, stop, total, tag)


async def _s3_range(address: str, start: int, stop: int) -> _Answer:
    """Fetch bytes [start, stop) of a file from S3, or from a compatible server at AWS_ENDPOINT_URL."""
    files = _session().s3_files
    bucket, key, version = files.split_path(address)
    wanted = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{stop - 1}"}
    with _s3_faults(address):
        await files.set_session()
        client = await files.get_s3(bucket)
        response = await client.get_object(**wanted, **({"VersionId": version} if version else {}))
        async with response["Body"] as body:
            status = response["ResponseMetadata"]["HTTPStatusCode"]
            total = _total(
                address, status, response.get("ContentRange", ""), start, response.get("ContentEncoding", "")
            )
            data = await body.read()
    return _whole(data, start, stop, total, response.get("ETag") or str(response.get("LastModified", "")))


async def _s3_list(address: str) -> list[str]:
    files = _session().s3_files
    with _s3_faults(address):
        await files.set_session()
        files.invalidate_cache()
        return [f"s3://{name}" for name in sorted(await files._glob(address))]


@contextmanager
def _s3_faults(address: str) -> Iterator[None]:
    """Convert botocore's errors to `_Again` or `RemoteFault`."""
    import aiohttp
    from botocore import exceptions as boto

    missing = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound, boto.ParamValidationError)
    try:
        yield
    except Exception as error:
        answer = error if isinstance(error, boto.ClientError) else error.__cause__
        if isinstance(answer, boto.ClientError):
            said = answer.response.get("ResponseMetadata", {})
            after = said.get("HTTPHeaders", {}).get("retry-after", "")
            _complain(address, said.get("HTTPStatusCode", 0), after)
        if isinstance(error, missing):
            raise RemoteFault(
                f"{_shown(address)} cannot be read: {type(error).__name__}; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=true for a public bucket"
            ) from None
        if isinstance(error, boto.BotoCoreError | boto.HTTPClientError | aiohttp.ClientError | OSError):
            raise _Again(_in_words(error)) from None
        raise


def _complain(address: str, status: int, after: str) -> NoReturn:
    """Raise `_Again` or `RemoteFault` for an HTTP status that is no success."""
    if status in (408, 429) or status >= 500:
        raise _Again(f"HTTP {status}", float(after) if after.isdigit() else 0.0)
    if status == 404:
        raise RemoteFault(f"{_shown(address)} does not exist (HTTP 404); check the address and the range in braces")
    if status in (401, 403):
        raise RemoteFault(
            f"{_shown(address)} may not be read (HTTP {status}); check the credentials, or whether a signed address "
            "has expired"
        )
    raise RemoteFault(f"{_shown(address)} cannot be read: HTTP {status}")


def _total(address: str, status: int, span: str, start: int, encoding: str) -> int:
    """Size of the whole file, from the answer's header. An answer that is no range is refused before its download."""
    told = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", span)
    if status == 416 and told:
        return int(told[2])
    if status != 206 or told is None or told[1] is None or int(told[1]) != start or encoding not in ("", "identity"):
        raise RemoteFault(
            f"{_shown(address)} is at a server that does not answer range requests (HTTP {status}, "
            f"Content-Range {span[:40]!r}); put the shards on a server that answers them, or download the shards"
        )
    return int(told[2])


def _whole(data: bytes, start: int, stop: int, total: int, tag: str) -> _Answer:
    if len(data) != max(0, min(stop, total) - start):
        raise _Again(f"{len(data):,} of {min(stop, total) - start:,} bytes came")
    return _Answer(data, total, tag)


def _in_words(error: BaseException) -> str:
    """Type and system message of an error. Its own text is left out, because it may contain the address."""
    cause = getattr(error, "os_error", error)
    words = getattr(cause, "strerror", None)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


# --- sessions ---------------------------------------------------------------------------------------------------------


class _Session:
    """This process's connections, and the thread that serves them."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.slots = asyncio.Semaphore(CONCURRENT)
        self.jitter = random.Random()  # separate from the run's random generators
        self.speaks = True
        self.gave_up = WeakKeyDictionary[Remote, float]()  # when; a new process has its own patience
        threading.Thread(target=self.loop.run_forever, name="remote files", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    @cached_property
    def http_files(self) -> Any:
        """fsspec's file system of http and https."""
        with _library_of("http"):
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
            # Use proxies and ~/.netrc. Do not re-encode an address: its signature covers the address as written.
            return self._files("http", client_kwargs={"timeout": timeout, "trust_env": True}, encoded=True)

    @cached_property
    def s3_files(self) -> Any:
        """s3fs, with credentials and endpoint from the environment."""
        with _library_of("s3"):
            config = {"connect_timeout": CONNECT, "read_timeout": SILENCE, "retries": {"total_max_attempts": 1}}
            files = self._files("s3", config_kwargs=config)
        files.retries = 1  # `Remote` does the retries
        return files

    def _files(self, scheme: str, **settings: Any) -> Any:
        import fsspec

        return fsspec.filesystem(scheme, asynchronous=True, loop=self.loop, skip_instance_cache=True, **settings)

    async def close(self) -> None:
        """Cancel running requests and close all connections."""
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        opened = vars(self)
        if (session := getattr(opened.get("http_files"), "_session", None)) is not None:
            await session.close()
        if (creator := getattr(opened.get("s3_files"), "_s3creator", None)) is not None:
            await creator.__aexit__(None, None, None)


@contextmanager
def _library_of(scheme: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise RemoteFault(f"shards at {scheme}:// need a library that is missing: {install('remote')}") from error


_sessions: dict[int, _Session] = {}
"""By process id. A forked process keeps its parent's session unused: closing it would close the parent's."""


_making = threading.Lock()


def _session() -> _Session:
    pid = os.getpid()
    with _making:
        if pid not in _sessions:
            _sessions[pid] = _Session()
            atexit.register(_close, pid)
    return _sessions[pid]


def _close(pid: int) -> None:
    if pid != os.getpid():
        return
    session = _sessions[pid]
    try:
        session.run(session.close()).result(timeout=1)
    except Exception:
        log.debug("connections were not closed", exc_info=True)
