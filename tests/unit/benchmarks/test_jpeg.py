from pathlib import Path

import pytest

from benchmarks import jpeg
from benchmarks.measuring import rendered


def test_equal_calls_are_counted_at_the_scale_in_use_and_at_an_eighth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, data in enumerate(rendered(2)):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    assert jpeg.main([str(tmp_path), "--calls", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["648×486", "324×243"]
    assert all("of 2 fields, each made of another" in line and "leukocytes in" in line for line in lines)


def test_the_profile_of_a_large_jpeg_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, data in enumerate(rendered(2)):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    assert jpeg.main([str(tmp_path), "--fields", "2", "--repeat", "1"]) == 0
    lines = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    found = {name.strip(): [float(cell.strip(" *")) for cell in cells] for name, *cells in lines[2:]}
    for kind in (0, 1):
        parts = found["our checks of the file, and its header"][kind] + found["at a quarter"][kind]
        assert found["**decoded at reduced scale**"][kind] == pytest.approx(parts, abs=0.15)
        assert found["threefold would ask for"][kind] == pytest.approx(
            found["**decoded whole and resized**"][kind] / 3, abs=0.1
        )
