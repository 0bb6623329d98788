"""A real web server that knows neither ranges nor ETags, for tests: Python's own `http.server`."""

import sys

from forebay.testing.child_server import ChildServer


class PythonHttp(ChildServer):
    """Serves `root`."""

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """See `ChildServer.command`."""
        options = ["--bind", "127.0.0.1", "--directory", str(self.root)]
        return [sys.executable, "-m", "http.server", str(self.port), *options]
