"""Where the structures of a picture's file begin: each segment, chunk, directory entry, strip and row."""

from __future__ import annotations

import struct


def structures(kind: str, data: bytes) -> list[int]:
    """Offsets in ascending order, without 0 and the file's length."""
    found = {"jpeg": _jpeg, "png": _png, "tiff": _tiff, "bmp": _bmp, "webp": _webp}[kind](data)
    return sorted({at for at in found if 0 < at < len(data)})


def _jpeg(data: bytes) -> list[int]:
    """Markers, the parameters behind them, and five places in each scan."""
    found = [2]
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xD9:
            return [*found, at, at + 1]
        at += 2 + length
        found += [at - length, at - length + 2, at]
        if marker == 0xDA:
            end = at
            while data[end] != 0xFF or data[end + 1] in {0, *range(0xD0, 0xD8)}:
                end += 1
            found += [at + (end - at) * part // 6 for part in range(1, 6)]
            found += [place for place in range(at, end) if data[place] == 0xFF and data[place + 1] != 0][:4]
            at = end
            found.append(at)
    return found


def _png(data: bytes) -> list[int]:
    """Each chunk's length, name, content, middle and checksum."""
    found = []
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found += [at, at + 4, at + 8, at + 8 + length // 2, at + 8 + length]
        at += 12 + length
    return found


def _tiff(data: bytes) -> list[int]:
    """The first directory, its entries, the values they point to, and its strips or tiles."""
    order = "<" if data[:1] == b"I" else ">"
    directory, first, end, entries = _directory(data)
    found = [4, 8, directory, first, end, end + 4]
    tags = {}
    for at, tag, kind, count, place, size in entries:
        found += [at, at + 8]
        if not first <= place < end:
            found += [place, place + size // 2, place + size]
        if kind in {3, 4} and count < 10_000 and tag not in tags:
            tags[tag] = struct.unpack_from(f"{order}{count}{'H' if kind == 3 else 'I'}", data, place)
    offsets, lengths = tags.get(273, tags.get(324, ())), tags.get(279, tags.get(325, ()))
    for offset, length in list(zip(offsets, lengths, strict=False))[:4]:
        found += [offset, offset + length // 3, offset + length // 2, offset + length - 1]
    return found


def values_end(data: bytes) -> list[int]:
    """Where each value of a TIFF's first directory ends."""
    return [place + size for *_, place, size in _directory(data)[3]]


def _directory(data: bytes) -> tuple[int, int, int, list[tuple[int, ...]]]:
    """Where it begins, its first entry, the end of its last; of each: where it is, tag, type, count, where its values
    are and their size.
    """
    order, big = "<" if data[:1] == b"I" else ">", 43 in data[2:4]
    entry, word, step, room = ("HHQ", "Q", 20, 8) if big else ("HHI", "I", 12, 4)
    (directory,) = struct.unpack_from(order + word, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, directory)
    first = directory + (8 if big else 2)
    entries = []
    for at in range(first, first + count * step, step):
        tag, kind, values = struct.unpack_from(order + entry, data, at)
        size = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 12: 8, 16: 8}.get(kind, 1) * values
        place = at + step - room
        if size > room:
            (place,) = struct.unpack_from(order + word, data, place)
        entries.append((at, tag, kind, values, place, size))
    return directory, first, first + count * step, entries


def _bmp(data: bytes) -> list[int]:
    """The headers' fields, the palette, and some rows."""
    start = int.from_bytes(data[10:14], "little")
    return [2, 6, 10, 14, 18, 22, 26, 28, 30, 34, 46, 50, 54, start] + [
        start + (len(data) - start) * part // 8 for part in range(1, 8)
    ]


def _webp(data: bytes) -> list[int]:
    """Each chunk's name, size, content and middle; those within frames, too."""
    found = [4, 8]
    at = 12
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        found += [at, at + 4, at + 8, at + 8 + length // 3, at + 8 + length * 2 // 3]
        at += 24 if name == b"ANMF" else 8 + length + length % 2
    return found
