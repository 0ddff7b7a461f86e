"""Whose the cores are: what is made of the kernel's figures."""

from benchmarks import shares


def a_pass(seconds: float, screening: float) -> shares.Pass:
    took = dict.fromkeys(shares.WHO, 0.0) | {shares._SCREEN: screening, shares._NOBODY: 2 * seconds - screening}
    return shares.Pass(seconds=seconds, took=took, bare_rate=200.0)


def test_the_table_has_shares_of_all_cores_and_milliseconds_of_a_field():
    table = shares.table([a_pass(10.0, 18.0), a_pass(11.0, 20.9), a_pass(30.0, 21.0)], fields=1000, processes=2)
    lines = {line.split("|")[1].strip(): line for line in table.splitlines()}
    assert lines[shares._SCREEN] == f"| {shares._SCREEN} | 90.0 % | 20.90 |"
    assert lines["**together**"].endswith("| **22.00** |")
    assert lines["the bare loop"].endswith("| 10.00 |")


def test_whose_the_time_is_adds_up_to_the_machines():
    before, after = shares._look(), shares._look()
    assert {*before, shares._SCREEN, shares._FIRST} == set(shares.WHO)
    assert after[shares._SELF] > before[shares._SELF]
    assert sum(after.values()) >= sum(before.values())
