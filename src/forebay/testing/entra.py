"""A stand-in for Microsoft Entra ID: it gives tokens to a client that has a secret, and to a managed identity.

It speaks the OAuth 2.0 client credentials flow (over TLS, as its clients demand) and the identity endpoint of App
Service.  Its tokens have the right fields and no signature; Azurite checks no more than those.
"""

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

AUDIENCE = "https://storage.azure.com"
LIFETIME_S = 3600


class Entra:
    """See the module; made by `entra`."""

    tenant = "11111111-2222-3333-4444-555555555555"
    client = "the-client"
    secret = "TOPSECRETofTheClient"
    header = "TOPSECRETofTheMachine"  # which proves that a request comes from the machine of the identity

    def __init__(self, port: int, *, scheme: str) -> None:
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.asked = 0  # tokens that were given

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, object]]:
        """Status and JSON of one answer."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        if path.endswith("/.well-known/openid-configuration"):
            base = f"{self.url}/{self.tenant}"
            return 200, {
                "issuer": f"{base}/v2.0",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
            }
        if path == "/identity":
            if headers.get("X-IDENTITY-HEADER") != self.header or query.get("resource") != [AUDIENCE]:
                return 400, {"error": "invalid_request"}
            self.asked += 1
            return 200, {"access_token": self.token(), "expires_on": str(int(time.time()) + LIFETIME_S)}
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        if method != "POST" or form.get("client_id") != self.client:
            return 400, {"error": "unauthorized_client", "error_description": "AADSTS700016: not found"}
        if form.get("client_secret") != self.secret:
            said = f"AADSTS7000215: Invalid client secret provided: {form.get('client_secret')}"
            return 401, {"error": "invalid_client", "error_description": said}
        self.asked += 1
        return 200, {"token_type": "Bearer", "expires_in": LIFETIME_S, "access_token": self.token()}

    def token(self) -> str:
        """A token that Azurite takes."""
        now = int(time.time())
        kind: dict[str, object] = {"alg": "RS256", "typ": "JWT"}
        fields: dict[str, object] = {
            "aud": AUDIENCE,
            "iss": f"https://sts.windows.net/{self.tenant}/",
            "nbf": now - 60,
            "iat": now - 60,
            "exp": now + LIFETIME_S,
        }
        return ".".join(_encode(part) for part in (kind, fields, kind))


@contextmanager
def entra(tls: ssl.SSLContext | None = None) -> Iterator[Entra]:
    """A stand-in on a free loopback port, in a thread, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            status, answer = stand_in.answer(self.command, self.path, dict(self.headers.items()), body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        stand_in = Entra(server.server_address[1], scheme="https" if tls else "http")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield stand_in
        finally:
            server.shutdown()
            thread.join()


def _encode(part: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
