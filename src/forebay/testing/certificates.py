"""Certificates for servers of tests, made by the openssl command."""

import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificate(NamedTuple):
    """Files, PEM."""

    authority: Path  # the root that signed it
    public: Path
    private: Path


def make_certificate(folder: Path) -> Certificate:
    """A root of our own; a certificate for 127.0.0.1 that it signed, with its key."""
    authority, certificate, request = folder / "ca.pem", folder / "server.pem", folder / "server.csr"
    private, ca_key, names = folder / "server.key", folder / "ca.key", folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    for words in (
        f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-root -keyout {ca_key} -out {authority}",
        f"req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout {private} -out {request}",
        f"x509 -req -days 2 -in {request} -CA {authority} -CAkey {ca_key} -CAcreateserial "
        f"-extfile {names} -out {certificate}",
    ):
        subprocess.run(["openssl", *words.split()], check=True, capture_output=True, timeout=30)
    return Certificate(authority, certificate, private)
