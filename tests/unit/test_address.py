"""Addresses: what can be listened on, what can be connected to, and nothing else."""

import pytest

from tickserve.address import check_listener, check_target, split_host


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:65535", "db.example:80", "unix:/run/a.sock"])
def test_address_is_given_back_as_it_is(address: str) -> None:
    assert check_listener(address) == check_target(address) == address


@pytest.mark.parametrize(
    "address", ["a b:1", "::1:80", "h:65536", "h:-1", ":1", "h", "unix:", "unix:a", "unix:/" + "a" * 107]
)
def test_anything_else_is_none(address: str) -> None:
    for check in (check_listener, check_target):
        with pytest.raises(ValueError, match=r"must be|at most 107 bytes"):
            check(address)


def test_port_0_is_for_listeners() -> None:
    assert check_listener("h:0") == "h:0"
    with pytest.raises(ValueError, match="port 0"):
        check_target("h:0")


def test_host_has_no_brackets() -> None:
    assert split_host("[::1]:80") == ("::1", 80)
