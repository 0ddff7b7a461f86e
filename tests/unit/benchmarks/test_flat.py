import pytest

from benchmarks import flat


def test_the_call_of_a_slide_of_many_fields_is_measured(capfd: pytest.CaptureFixture[str]) -> None:
    assert flat.main(["--fields", "300"]) == 0
    assert capfd.readouterr().out.startswith("3,600 leukocytes: ")
