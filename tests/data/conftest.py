import pytest


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing is fetched but from this machine: every other address goes to a proxy that is not there."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("TLKIT_MIRROR", raising=False)
