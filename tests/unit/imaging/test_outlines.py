import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging.leukocyte import MEASURES, Leukocyte
from imaging.outlines import pack, unpack
from imaging.segment import segment
from imaging.synthetic import STYLES, render_field

numbers = st.floats(-1e6, 1e6, width=32)
coordinates = st.integers(0, 100_000)
leukocytes = st.builds(
    Leukocyte,
    index=st.integers(1, 5000),
    box=st.tuples(coordinates, coordinates, coordinates, coordinates),
    centre=st.tuples(numbers, numbers),
    area=numbers,
    outline=st.lists(st.tuples(coordinates, coordinates), max_size=30).map(
        lambda points: np.array(points, np.int32).reshape(-1, 2)
    ),
    measures=st.fixed_dictionaries(dict.fromkeys(MEASURES, numbers)),
)


@given(found=st.lists(st.tuples(leukocytes, st.floats(0, 1)), max_size=6))
@settings(max_examples=100, deadline=None)
def test_unpacking_gives_what_was_packed(found: list[tuple[Leukocyte, float]]) -> None:
    blob = pack([leukocyte for leukocyte, _ in found], [suspicion for _, suspicion in found])
    unpacked = unpack(blob)
    assert len(unpacked) == len(found)
    for (leukocyte, suspicion), other in zip(found, unpacked, strict=True):
        assert (other.index, other.box, other.centre, other.area) == (
            leukocyte.index,
            leukocyte.box,
            leukocyte.centre,
            leukocyte.area,
        )
        assert other.measures == leukocyte.measures
        assert other.suspicion == pytest.approx(suspicion, abs=1e-5)
        assert np.array_equal(other.outline, leukocyte.outline)


def plainly_packed(found: list[tuple[Leukocyte, float]]) -> bytes:
    """The layout at the top of `imaging.outlines`, number by number."""

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    out = varint(len(found))
    for leukocyte, suspicion in found:
        for value in (leukocyte.index, *leukocyte.box):
            out += varint(value)
        out += struct.pack("<3fH", *leukocyte.centre, leukocyte.area, round(suspicion * 65535))
        out += b"".join(struct.pack("<f", leukocyte.measures[name]) for name in MEASURES)
        points = [(int(x), int(y)) for x, y in leukocyte.outline]
        out += varint(len(points))
        for (x, y), (before_x, before_y) in zip(points, [(0, 0), *points], strict=False):
            for step in (x - before_x, y - before_y):
                out += varint(2 * step if step >= 0 else -2 * step - 1)
    return out


@given(found=st.lists(st.tuples(leukocytes, st.floats(0, 1)), max_size=6))
@settings(max_examples=100, deadline=None)
def test_the_bytes_are_those_of_the_layout(found: list[tuple[Leukocyte, float]]) -> None:
    blob = pack([leukocyte for leukocyte, _ in found], [suspicion for _, suspicion in found])
    assert blob[:4] == b"ALK\x01"
    assert zlib.decompress(blob[4:]) == plainly_packed(found)


def test_a_leukocyte_takes_about_a_hundred_bytes() -> None:
    field = render_field(np.random.default_rng(4), klass="pre-b", style=STYLES["slate"], leukocytes=(12, 12))
    found = segment(field.pixels).leukocytes
    assert len(pack(found, [0.7] * len(found))) <= 100 * len(found) + 20


def test_a_packed_leukocyte_is_ready_for_json() -> None:
    field = render_field(np.random.default_rng(4), klass="pre-b", style=STYLES["slate"])
    found = segment(field.pixels).leukocytes
    line = json.loads(json.dumps(unpack(pack(found, [0.25] * len(found)))[0].as_json()))
    assert list(line) == ["index", "box", "centre", "area", "suspicion", "outline", "measures"]
    assert line["suspicion"] == 0.25 and len(line["outline"][0]) == 2


def test_counts_must_agree() -> None:
    with pytest.raises(ValueError, match="0 leukocytes, but 1"):
        pack([], [0.5])


@given(damage=st.binary(max_size=60), cut=st.integers(0, 400))
@settings(max_examples=100, deadline=None)
def test_damaged_blobs_are_refused_with_one_kind_of_error(damage: bytes, cut: int) -> None:
    field = render_field(np.random.default_rng(4), klass="pre-b", style=STYLES["slate"])
    found = segment(field.pixels).leukocytes
    whole = pack(found, [0.5] * len(found))
    for blob in (damage, whole[:4] + damage, whole[: min(cut, len(whole) - 1)]):
        with pytest.raises(ValueError, match="blob"):
            unpack(blob)


def test_no_leukocytes_pack_into_almost_nothing() -> None:
    assert unpack(pack([], [])) == []
    assert len(pack([], [])) < 20
