import pytest

from allq.settings import Settings
from worker import broker


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pass@word@broker:6379/0?ssl_cert_reqs=none", "redis://broker:6379/0"),
        ("redis://:a?b/c@broker/0", "redis://broker/0"),
        ("redis+socket:///run/valkey.sock", "redis+socket:///run/valkey.sock"),
    ],
)
def test_a_brokers_address_is_shown_without_its_password(tmp_path, url, shown):
    assert broker.address(Settings(home=tmp_path, broker_url=url)) == shown
