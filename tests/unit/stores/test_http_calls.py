"""What calls over HTTP take from the environment."""

import pytest
import yarl

from forebay.stores.web_http import WebHttp
from forebay.stores.web_options import WebOptions


def test_proxies_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "proxy:3128")
    monkeypatch.setenv("https_proxy", "http://user:password@proxy:3129")
    monkeypatch.setenv("no_proxy", "127.0.0.1,.internal")
    calls = WebHttp("http://host", WebOptions(), deadline_s=1).calls
    assert calls._proxy(yarl.URL("http://host/x")) == "http://proxy:3128"
    assert calls._proxy(yarl.URL("https://host/x")) == "http://user:password@proxy:3129"
    for direct in ("http://127.0.0.1:80/x", "https://store.internal/x"):
        assert calls._proxy(yarl.URL(direct)) is None
    monkeypatch.delenv("http_proxy")
    monkeypatch.delenv("https_proxy")
    assert WebHttp("http://host", WebOptions(), deadline_s=1).calls._proxy(yarl.URL("http://host/x")) is None
