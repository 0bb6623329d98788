"""What failures of hdfs-native mean in Forebay's kinds, with what to do about them.

hdfs-native tells most of them as one RuntimeError whose text holds the name of Java's exception.  That name and a few
words are read; the text itself, a stack trace of the server, is not passed on.
"""

import re

from forebay.errors import (
    AlreadyExists,
    Denied,
    FsError,
    Invalid,
    IsADirectory,
    NameTooLong,
    NoSpace,
    NotADirectory,
    NotEmpty,
    NotFound,
    Unavailable,
    Unsupported,
)

NATIVE = (OSError, RuntimeError, UnicodeError)  # what hdfs-native raises; its NotImplementedError is a RuntimeError

_JAVA = re.compile(r'^(?:Fatal)?RPCError\("([\w.$]+)", "(.*)', re.DOTALL)
_WHO = re.compile(r"user=([\w.@/-]+), access=(\w+)")
_KERBEROS = "Kerberos: {}; get a ticket with kinit, or mount with hdfs.kerberos.principal and hdfs.kerberos.keytab"
_NO_TICKET = _KERBEROS.format("the cluster does not accept who we are, or there is no valid ticket")
_NO_CLIENT = "the configuration is wrong; check the options and files with hadoop.*, dfs.* and fs.*"

# By the last word of a Java class.
_KINDS: dict[str, tuple[type[FsError], str]] = {
    "StandbyException": (
        Unavailable,
        "this NameNode is a standby and serves nobody; mount the name service (hdfs://nameservice/...), "
        "with --option hdfs.conf.dir=...",
    ),
    "SafeModeException": (Unavailable, "the NameNode is in safe mode and takes no changes; wait until it has left it"),
    "NSQuotaExceededException": (NoSpace, "the folder's quota of names is used up"),
    "DSQuotaExceededException": (NoSpace, "the folder's quota of space is used up"),
    "QuotaByStorageTypeExceededException": (NoSpace, "the folder's quota of space is used up"),
    "MaxDirectoryItemsExceededException": (NoSpace, "the folder holds as many names as HDFS allows"),
    "PathIsNotEmptyDirectoryException": (NotEmpty, "the folder is not empty"),
    "ParentNotDirectoryException": (NotADirectory, "a file stands where a folder is needed"),
    "FileNotFoundException": (NotFound, "no such file"),
    "FileAlreadyExistsException": (AlreadyExists, "exists already"),
    "SaslException": (Denied, _NO_TICKET),
    "GSSException": (Denied, _NO_TICKET),
    "InvalidToken": (Denied, _NO_TICKET),
    "AuthorizationException": (Denied, "the cluster's service policy does not let this user in"),
    "LeaseExpiredException": (Unavailable, "somebody else has removed the file while it was written; try again"),
    "RetriableException": (Unavailable, "the NameNode is starting, or changes its role; try again"),
}
_TOO_LONG = ("PathComponentTooLongException",)
_BAD_NAME = ("InvalidPathException", "HadoopIllegalArgumentException", "IllegalArgumentException")

# By the beginning of what hdfs-native itself says.
_OWN_WORDS: tuple[tuple[str, type[FsError], str], ...] = (
    ("NoSASLMechanism", Denied, _NO_TICKET),
    ("SASLError", Denied, _NO_TICKET),
    ("GSSAPIError", Denied, _NO_TICKET),
    (
        'OperationFailed("Failed to load libgssapi',
        Denied,
        _KERBEROS.format("its library is not installed (apt-get install libgssapi-krb5-2)"),
    ),
    ('OperationFailed("Failed to complete', Unavailable, "the DataNodes did not confirm what was written in time"),
    (
        "DataTransferError",
        Unavailable,
        "no DataNode gave the bytes; check that this machine reaches the DataNodes, "
        "perhaps with --option dfs.client.use.datanode.hostname=true",
    ),
    ("BlocksNotFound", Unavailable, "blocks of the file are missing in HDFS; ask who runs it (hdfs fsck)"),
    ("ChecksumError", Unavailable, "no DataNode has a copy whose checksum is right; ask who runs it (hdfs fsck)"),
    ("InvalidArgument", Invalid, _NO_CLIENT),
    ("UrlParseError", Invalid, _NO_CLIENT),
    ('OperationFailed("KMS URI', Invalid, _NO_CLIENT),
    ("UnsupportedErasureCodingPolicy", Unsupported, "its erasure coding policy is not supported"),
    ("ErasureCodingError", Unavailable, "too few parts of the erasure-coded file can be reached"),
)


def is_connection(error: Exception) -> bool:
    """Is it about the way to a NameNode, of which the text says too little?"""
    return type(error) is OSError


def translate(error: Exception, what: str, key: str, *, writing: bool) -> FsError:
    """The error for what hdfs-native raised about `key`; `what` begins the message and names the place."""
    kind, said = _meaning(error, key, writing=writing)
    return kind(f"{what}: {said}", path=key or None)


def _meaning(error: Exception, key: str, *, writing: bool) -> tuple[type[FsError], str]:
    if isinstance(error, FileNotFoundError):
        return NotFound, "no such file or folder"
    if isinstance(error, FileExistsError):
        if "not a directory" in str(error).replace(key, ""):
            return NotADirectory, "a file stands where a folder is needed"
        return AlreadyExists, "exists already"
    if isinstance(error, IsADirectoryError):
        return IsADirectory, "is a folder"
    if isinstance(error, UnicodeError):
        return (Invalid if writing else NotFound), "names in HDFS are UTF-8"
    if isinstance(error, NotImplementedError):
        return Unsupported, "the file has a feature of HDFS that is not supported"
    text = str(error)
    if (java := _JAVA.match(text)) is not None:
        return _of_java(re.split(r"[.$]", java[1])[-1], java[2].replace(key, ""), writing=writing)
    for beginning, kind, said in _OWN_WORDS:
        if text.startswith(beginning):
            return kind, said
    return Unavailable, f"HDFS could not do it ({re.split(r'[^A-Za-z]', text)[0] or type(error).__name__})"


def _of_java(name: str, text: str, *, writing: bool) -> tuple[type[FsError], str]:
    if name == "AccessControlException":
        who = _WHO.search(text)
        if who is None:
            return Denied, _NO_TICKET if "authentication" in text else "permission denied"
        return (
            Denied,
            f"permission denied: HDFS does not grant {who[2]} to user {who[1]!r}; mount as another (hdfs.user)",
        )
    if name in _TOO_LONG:
        return (NameTooLong if writing else NotFound), "HDFS takes no name that long"
    if name in _BAD_NAME:
        return (Invalid if writing else NotFound), "HDFS takes no such name (a colon in it, perhaps)"
    if "safe mode" in text:
        return _KINDS["SafeModeException"]
    if "could only be replicated to" in text or "could only be written to" in text:
        return NoSpace, "no DataNode takes new bytes: they are full, or none is up"
    if name == "IllegalStateException" and "not a directory" in text:  # HDFS 2's ParentNotDirectoryException
        return _KINDS["ParentNotDirectoryException"]
    return _KINDS.get(name, (Unavailable, f"the NameNode could not do it ({name})"))
