"""What HDFS says when something is wrong, as hdfs-native passes it on, becomes a kind and words of ours."""

import pytest

from forebay.errors import Denied, FsError, NoSpace, NotADirectory, NotFound, Unavailable
from forebay.stores.hdfs_errors import translate

TRACE = "\\n\\tat org.apache.hadoop.hdfs.server.namenode.FSNamesystem.secret(FSNamesystem.java:1)"


def rpc(java: str, said: str) -> RuntimeError:
    return RuntimeError(f'RPCError("{java}", "{said}{TRACE}")')


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (rpc("org.apache.hadoop.hdfs.protocol.DSQuotaExceededException", "The DiskSpace quota"), NoSpace, "of space"),
        (rpc("java.io.IOException", "File /k could only be replicated to 0 nodes"), NoSpace, "no DataNode takes"),
        (rpc("java.io.IOException", "File /k could only be written to 0 of 1"), NoSpace, "no DataNode takes"),
        (rpc("org.apache.hadoop.ipc.RetriableException", "NameNode still not started"), Unavailable, "is starting"),
        (
            rpc("org.apache.hadoop.ipc.RetriableException", "Cannot create file. Name node is in safe mode."),
            Unavailable,
            "safe mode",
        ),
        (rpc("org.apache.hadoop.fs.ParentNotDirectoryException", "/f (is not a directory)"), NotADirectory, "a file"),
        (rpc("java.lang.IllegalStateException", "Current inode is not a directory: f"), NotADirectory, "a file"),
        (
            rpc("org.apache.hadoop.security.AccessControlException", "SIMPLE authentication is not enabled."),
            Denied,
            "kinit",
        ),
        (rpc("org.apache.hadoop.security.token.SecretManager$InvalidToken", "token (for alice)"), Denied, "kinit"),
        (RuntimeError("NoSASLMechanism"), Denied, "kinit"),
        (RuntimeError('GSSAPIError(GSS_S_FAILURE, 0, "No credentials cache found")'), Denied, "kinit"),
        (RuntimeError('OperationFailed("Failed to load libgssapi_krb")'), Denied, "libgssapi-krb5-2"),
        (RuntimeError('DataTransferError("All DataNodes failed: [..]")'), Unavailable, "use.datanode.hostname"),
        (RuntimeError("ChecksumError"), Unavailable, "checksum"),
        (FileNotFoundError("File does not exist: /k" + TRACE), NotFound, "no such"),
        (rpc("java.lang.NullPointerException", ""), Unavailable, "(NullPointerException)"),
        (RuntimeError('InvalidRPCResponse(DecodeError { .. "buffer" })'), Unavailable, "(InvalidRPCResponse)"),
    ],
)
def test_each_failure_has_its_kind_and_says_what_to_do(error: Exception, kind: type[FsError], words: str) -> None:
    translated = translate(error, "hdfs://nn:8020/d: 'k'", "k", writing=True)
    assert type(translated) is kind
    assert words in translated.message
    assert translated.message.startswith("hdfs://nn:8020/d: 'k': ")
    assert "FSNamesystem" not in translated.message
    assert translated.filename == "k"


def test_words_in_a_key_do_not_change_the_meaning() -> None:
    key = "could only be replicated to safe mode"
    error = rpc("java.io.IOException", f"Unexpected {key}")
    assert type(translate(error, "hdfs://nn:8020", key, writing=True)) is Unavailable
    assert "safe mode" not in translate(error, "hdfs://nn:8020", key, writing=True).message
