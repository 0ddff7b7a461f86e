import pytest

from allq.settings import Settings
from worker import broker


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pass@word@broker:6379/0?ssl_cert_reqs=none", "redis://broker:6379/0"),
        ("rediss://user:word@broker/0?password=word", "rediss://broker/0"),
        ("redis+socket:///run/valkey.sock", "redis+socket:///run/valkey.sock"),
    ],
)
def test_a_brokers_address_is_shown_without_its_password(tmp_path, url, shown):
    assert broker.address(Settings(home=tmp_path, broker_url=url)) == shown


@pytest.mark.parametrize(
    ("url", "unverified"),
    [
        ("rediss://:word@broker/0", False),
        ("rediss://:word@broker/0?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required", False),
        ("rediss://:word@broker/0?ssl_cert_reqs=none", True),
        ("rediss://:word@broker/0?ssl_cert_reqs=CERT_OPTIONAL", True),
        ("rediss://:word@broker/0?ssl_check_hostname=False", True),
        ("redis://:word@broker/0", False),
    ],
)
def test_a_broker_whose_certificate_goes_unchecked_is_known(tmp_path, url, unverified):
    assert broker.is_unverified(Settings(home=tmp_path, broker_url=url)) is unverified
