"""What failures of SSH and SFTP mean in Forebay's kinds, with what to do about them.

Messages are made here; the texts of servers are not passed on.
"""

import socket
from typing import NamedTuple

import asyncssh

from forebay.errors import (
    AlreadyExists,
    Corrupt,
    Denied,
    FsError,
    Invalid,
    IsADirectory,
    NameTooLong,
    NoSpace,
    NotADirectory,
    NotEmpty,
    NotFound,
    ReadOnly,
    TimedOut,
    Unavailable,
    Unsupported,
)

ERRORS = (asyncssh.Error, asyncssh.KeyImportError, OSError, UnicodeError)  # FsError is an OSError


class Place(NamedTuple):
    """Which server a message is about."""

    location: str
    host: str
    port: int
    known_hosts: str | None  # the file, if it is not the usual one


_KINDS: tuple[tuple[type[asyncssh.SFTPError], type[FsError], str], ...] = (
    (asyncssh.SFTPNoSuchFile, NotFound, "no such file"),
    (asyncssh.SFTPNoSuchPath, NotFound, "no such file"),
    (asyncssh.SFTPPermissionDenied, Denied, "denied: this user may not do that; check modes and owner at the server"),
    (asyncssh.SFTPFileAlreadyExists, AlreadyExists, "exists already"),
    (asyncssh.SFTPFileIsADirectory, IsADirectory, "is a folder"),
    (asyncssh.SFTPNotADirectory, NotADirectory, "a file stands where a folder is needed"),
    (asyncssh.SFTPDirNotEmpty, NotEmpty, "is not empty"),
    (asyncssh.SFTPWriteProtect, ReadOnly, "that disk of the server is read-only"),
    (asyncssh.SFTPNoSpaceOnFilesystem, NoSpace, "the server's disk is full"),
    (asyncssh.SFTPQuotaExceeded, NoSpace, "this user's share of the server's disk is full"),
    (asyncssh.SFTPInvalidFilename, NameTooLong, "the server takes no such name"),
    (asyncssh.SFTPOpUnsupported, Unsupported, "the server cannot do that"),
    (asyncssh.SFTPBadMessage, Corrupt, "the server sent what is not SFTP"),
    (asyncssh.SFTPConnectionLost, Unavailable, "the connection broke; try again"),
    (asyncssh.SFTPNoConnection, Unavailable, "the connection broke; try again"),
)


def translate(error: Exception, place: Place, key: str) -> FsError:
    """The error for what asyncssh raised."""
    if isinstance(error, FsError):
        return error
    what = f"{place.location}: {key!r}" if key else place.location
    path = key or None
    for kind, ours, said in _KINDS:
        if isinstance(error, kind):
            return ours(f"{what}: {said}", path=path)
    if isinstance(error, asyncssh.SFTPError):  # OpenSSH says no more of many failures, a name that is too long as well
        return FsError(f"{what}: the server refused; its log says more", path=path)
    return _of_connection(error, place)


def _of_connection(error: Exception, place: Place) -> FsError:
    location, server = place.location, f"{place.host}:{place.port}"
    if isinstance(error, asyncssh.PermissionDenied):
        return Denied(
            f"{location}: login refused; check user and key or password: --option sftp.user=..., sftp.keyFile=..., "
            "sftp.password=...; without them the ssh agent and the keys in ~/.ssh are tried"
        )
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        file = place.known_hosts or "~/.ssh/known_hosts"
        return Denied(
            f"{location}: the server's host key is not in {file}, or not the one that is there. If you trust it: "
            f"ssh-keyscan -p {place.port} {place.host} >> {file} (or --option sftp.hostKeyCheck=false)"
        )
    if isinstance(error, asyncssh.KeyImportError):
        return Invalid(
            f"{location}: the key file cannot be used; check sftp.keyFile, and sftp.passphrase if it is encrypted"
        )
    if isinstance(error, asyncssh.ChannelOpenError):
        return Unavailable(f"{location}: {server} offers no SFTP; turn on `Subsystem sftp` in its sshd_config")
    if isinstance(error, socket.gaierror):
        return Unavailable(f"{location}: cannot be reached: no such host: {place.host}; check the URL and DNS")
    if isinstance(error, TimeoutError):
        return TimedOut(f"{location}: no answer from {server} in time; check the URL, network and firewall")
    if isinstance(error, FileNotFoundError | PermissionError):
        return Invalid(f"{location}: a key or known_hosts file cannot be read; check sftp.keyFile and sftp.knownHosts")
    if isinstance(error, ConnectionRefusedError):
        return Unavailable(f"{location}: cannot be reached: {server} refuses connections; does sshd run there?")
    if isinstance(error, UnicodeError):
        return NotFound(f"{location}: no file can have that name")
    return Unavailable(f"{location}: the connection to {server} broke ({type(error).__name__})")
