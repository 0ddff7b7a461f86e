"""Hostile files and how each has to end: always the same ones, made from pictures that are sound.

`screened` stands for a finding; any other word is a failure's code. Where a format says when it is damaged, damage has
to be found. Where it doesn't (a flipped bit in a JPEG that still makes sense), `ANY` allows what a decoder may make of
it; what it never allows is a crash, `internal` or `out-of-memory`.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin, TiffTags

from tests.hostile.pictures import (
    HEIGHT,
    WIDTH,
    Picture,
    encoded,
    oriented,
    pictures,
    smear,
    tiled_tiff,
)
from tests.hostile.structures import structures, values_end

SCREENED = frozenset({"screened"})
CORRUPT = frozenset({"corrupt"})
REFUSED = frozenset({"corrupt", "unsupported", "not-an-image"})
ANY = REFUSED | SCREENED | {"too-large", "too-small"}

FOUND = Path(__file__).parent / "found"
"""What fuzzing has found, kept as it was: `<what>.<suffix>`; none of it may be anything but `ANY`."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One file. `size` is the width and height that its finding has to have, `twin` the name of one like it."""

    name: str
    data: bytes
    expected: frozenset[str]
    size: tuple[int, int] | None = None


@cache
def cases() -> tuple[Case, ...]:
    """All of them, in a fixed order; names are unique."""
    made = [
        *_sound(),
        *_truncated(),
        *_never_written(),
        *_flipped(),
        *_rearranged(),
        *_misnamed(),
        *_nothing(),
        *_dimensions(),
        *_bombs(),
        *_metadata(),
        *_orientations(),
        *_kinds(),
        *_fuzzed(),
    ]
    assert len({case.name for case in made}) == len(made)
    return tuple(made)


def _sound() -> Iterator[Case]:
    for picture in pictures():
        yield Case(
            name=f"sound-{picture.name}{picture.suffix}", data=picture.data, expected=SCREENED, size=(WIDTH, HEIGHT)
        )


def _truncated() -> Iterator[Case]:
    for picture in pictures():
        picture_ends, whole = _first_picture(picture)
        signature = {"jpeg": 3, "png": 8, "tiff": 8, "bmp": 16, "webp": 12}[picture.format]
        for at in structures(picture.format, picture.data):
            expected = SCREENED if at >= whole else CORRUPT if at >= signature else REFUSED
            if whole > at >= picture_ends:  # only metadata, or a description of the picture, lies there
                expected = CORRUPT | SCREENED
            yield Case(name=f"cut-{picture.name}-{at}{picture.suffix}", data=picture.data[:at], expected=expected)


def _first_picture(picture: Picture) -> tuple[int, int]:
    """From where on a file may be cut off without its first picture, and all that belongs to it, lacking anything."""
    if picture.name == "jpeg-multi-picture":
        end = picture.data.index(b"\xff\xd9\xff\xd8") + 2
        return end, end
    if picture.name.startswith("tiff"):
        return _first_page(picture.data)
    return len(picture.data), len(picture.data)


def _first_page(data: bytes) -> tuple[int, int]:
    """The end of the first directory and its strips or tiles, and that of everything that the directory points to."""
    with TiffImagePlugin.TiffImageFile(io.BytesIO(data)) as image:
        tags = dict(image.tag_v2)
    offsets, lengths = (tags.get(strip, tags.get(tile)) for strip, tile in ((273, 324), (279, 325)))
    order, big = "<" if data[:1] == b"I" else ">", 43 in data[2:4]
    (directory,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, directory)
    ends = [offset + length for offset, length in zip(offsets, lengths, strict=True)]
    picture = max(*ends, directory + (8 + 20 * count if big else 2 + 12 * count))
    return picture, max(picture, *values_end(data))


def _never_written() -> Iterator[Case]:
    """The right length, but zeros from some point on: what a lost connection or a full disk leaves."""
    for picture in pictures():
        _, whole = _first_picture(picture)
        for at in sorted(
            {min(int(len(picture.data) * part), len(picture.data) - 600) for part in (0.3, 0.5, 0.7, 0.85)}
        ):
            if at < 256 or at >= whole - 520:
                continue
            # Zeros are a sound end for a bitmap, for a lossless WebP and for what isn't its first frame.
            checked = picture.packed and picture.name not in {"webp-lossless", "webp-animated", "webp-alpha"}
            yield Case(
                name=f"zeros-{picture.name}-{at}{picture.suffix}",
                data=picture.data[:at] + bytes(len(picture.data) - at),
                expected=CORRUPT if checked else ANY,
            )


def _flipped() -> Iterator[Case]:
    chance = random.Random(2026)
    for picture in pictures():
        places = structures(picture.format, picture.data)
        near = [min(len(picture.data) - 1, chance.choice(places) + chance.randrange(4)) for _ in range(8)]
        anywhere = [chance.randrange(len(picture.data)) for _ in range(8)]
        for number, at in enumerate(near + anywhere):
            data = bytearray(picture.data)
            data[at] ^= 1 << chance.randrange(8)
            expected = REFUSED if picture.checked else ANY
            yield Case(name=f"flip-{picture.name}-{number}-{at}{picture.suffix}", data=bytes(data), expected=expected)


def _rearranged() -> Iterator[Case]:
    """Structures left out, doubled, exchanged, and taken from another file of the format."""
    chance = random.Random(7)
    for picture in pictures():
        places = [0, *structures(picture.format, picture.data), len(picture.data)]
        data = picture.data
        for number in range(4):
            first, second, third = sorted(chance.sample(range(len(places)), 3))
            a, b, c = places[first], places[second], places[third]
            other = chance.choice([each for each in pictures() if each.format == picture.format]).data
            changed = [
                data[:a] + data[b:],
                data[:b] + data[a:],
                data[:a] + data[b:c] + data[a:b] + data[c:],
                data[:b] + other[b:],
            ][number]
            yield Case(name=f"mixed-{picture.name}-{number}{picture.suffix}", data=changed, expected=ANY)


def _misnamed() -> Iterator[Case]:
    for picture in pictures()[::3]:
        suffix = ".png" if picture.format != "png" else ".jpg"
        yield Case(name=f"misnamed-{picture.name}{suffix}", data=picture.data, expected=SCREENED)
    foreign = {
        "gif": encoded(smear(), "gif"),
        "animated-gif": encoded(smear(), "gif", save_all=True, append_images=[smear(6)]),
        "jpeg-2000": encoded(smear(), "jpeg2000"),
        "pdf": encoded(smear(), "pdf"),
        "heic": b"\0\0\0\x18ftypheic" + bytes(100),
        "czi": b"ZISRAWFILE" + bytes(100),
        "tiff-fax": encoded(smear().convert("1"), "tiff", compression="group4"),
        "tiff-float": encoded(Image.fromarray(np.zeros((HEIGHT, WIDTH), np.float32)), "tiff"),
        "tiff-big-endian-64": tiled_tiff(smear(), order=">", big=True),
    }
    for name, data in foreign.items():
        yield Case(name=f"foreign-{name}.jpg", data=data, expected=frozenset({"unsupported"}))
    for name, data in {
        "text": b"no image at all\n" * 9,
        "html": b"<!doctype html><script>alert(1)</script>",
        "script": b"#!/bin/sh\nrm -rf .\n",
        "zip": b"PK\x03\x04" + bytes(60),
        "elf": b"\x7fELF" + bytes(60),
        "bmw": b"BMW is a car, not a bitmap",
        "wave": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    }.items():
        yield Case(name=f"other-{name}.png", data=data, expected=frozenset({"not-an-image"}))


def _nothing() -> Iterator[Case]:
    for suffix in (".jpg", ".png", ".tif", ".bmp", ".webp"):
        yield Case(name=f"empty{suffix}", data=b"", expected=frozenset({"not-an-image"}))
        for size in (1, 16, 4096, 100_000):
            yield Case(name=f"zeros-{size}{suffix}", data=bytes(size), expected=frozenset({"not-an-image"}))
    chance = random.Random(1)
    for picture in pictures():
        head = picture.data[:16]
        for number, size in enumerate((0, 7, 300)):
            yield Case(
                name=f"head-{picture.name}-{number}{picture.suffix}",
                data=head + chance.randbytes(size),
                expected=ANY - SCREENED,
            )


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def _png_header(width: int, height: int, bits: int = 8, colours: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)


def _dimensions() -> Iterator[Case]:
    """Headers that promise nothing, too little, too much, or what isn't there."""
    sizes = (0, 1, 31, 33, 5_000, 14_000, 16_383, 65_535, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
    pixels = zlib.compress(bytes(3000))
    jpeg = next(each.data for each in pictures() if each.name == "jpeg-plain")
    frame = jpeg.index(b"\xff\xc0") + 5
    tiff = tiled_tiff(smear())
    webp = next(each.data for each in pictures() if each.name == "webp-alpha")
    bitmap = next(each.data for each in pictures() if each.name == "bmp-rgb")
    refused = frozenset({"corrupt", "too-large", "too-small", "unsupported"})
    for width in sizes:
        for height in (sizes[2], sizes[4], sizes[7], sizes[-1]):
            name = f"{width}x{height}"
            png = _png(_png_header(width, height), (b"IDAT", pixels), (b"IEND", b""))
            yield Case(name=f"size-{name}.png", data=png, expected=_promised(width, height, refused))
            bmp = bitmap[:18] + struct.pack("<II", width, height) + bitmap[26:]
            yield Case(name=f"size-{name}.bmp", data=bmp, expected=refused)
            big = tiff.replace(struct.pack("<HHII", 256, 4, 1, WIDTH), struct.pack("<HHII", 256, 4, 1, width))
            big = big.replace(struct.pack("<HHII", 257, 4, 1, HEIGHT), struct.pack("<HHII", 257, 4, 1, height))
            yield Case(name=f"size-{name}.tif", data=big, expected=refused)
            if width < 1 << 16 and height < 1 << 16:
                photo = jpeg[:frame] + struct.pack(">HH", height, width) + jpeg[frame + 4 :]
                yield Case(name=f"size-{name}.jpg", data=photo, expected=_promised(width, height, refused))
            if 0 < width <= 1 << 24 and 0 < height <= 1 << 24:
                canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
                yield Case(
                    name=f"size-{name}.webp",
                    data=webp[:24] + canvas + webp[30:],
                    expected=_promised(width, height, refused),
                )


def _promised(width: int, height: int, refused: frozenset[str]) -> frozenset[str]:
    if width * height > 200_000_000 and min(width, height) > 0 and max(width, height) < 1 << 31:
        return frozenset({"too-large", "corrupt"})
    return refused


def _bombs() -> Iterator[Case]:
    """Small files of much."""
    large = frozenset({"too-large"})
    for colours, bits, name in ((0, 1, "one-bit"), (2, 8, "rgb"), (6, 8, "rgba"), (6, 16, "rgba-16")):
        side = 14_200
        packer = zlib.compressobj(1)
        body = packer.compress(bytes(1 << 20)) + packer.flush()
        png = _png(_png_header(side, side, bits, colours), (b"IDAT", body), (b"IEND", b""))
        yield Case(name=f"bomb-over-the-limit-{name}.png", data=png, expected=large)
        inside = _png(_png_header(9_000, 9_000, bits, colours), (b"IDAT", body), (b"IEND", b""))
        yield Case(name=f"bomb-cut-short-{name}.png", data=inside, expected=CORRUPT if bits > 1 else ANY)
    yield Case(
        name="bomb-that-unpacks-rgba.png",
        data=_blank_png(5_000, 4_000),
        expected=SCREENED,
        size=(5_000, 4_000),
    )
    white = Image.new("RGB", (4_500, 4_000), "white")
    yield Case(name="bomb-that-unpacks.webp", data=encoded(white, "webp", quality=10, method=0), expected=SCREENED)
    yield Case(
        name="bomb-that-unpacks.tif", data=encoded(white, "tiff", compression="tiff_adobe_deflate"), expected=SCREENED
    )
    yield Case(name="bomb-that-unpacks.jpg", data=encoded(white, "jpeg", quality=10), expected=SCREENED)
    yield Case(name="bomb-of-scans.jpg", data=_many_scans(5_000), expected=frozenset({"unsupported"}))
    yield Case(name="scans-left-out.jpg", data=_first_scans(3), expected=CORRUPT)
    strip = encoded(Image.new("RGB", (60, 6_000), "white"), "png")
    yield Case(name="strip.png", data=strip, expected=frozenset({"unsupported"}))
    whole = next(each.data for each in pictures() if each.name == "jpeg-plain")
    scan = whole.index(b"\xff\xda") + 14
    for keep in (10, 300, 900):
        closed = whole[: scan + keep].rstrip(b"\xff") + b"\xff\xd9"
        yield Case(name=f"closed-early-{keep}.jpg", data=closed, expected=CORRUPT)


def _blank_png(width: int, height: int) -> bytes:
    packer = zlib.compressobj(1)
    row = b"\0" + b"\xff\xff\xff\x80" * width
    body = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    return _png(_png_header(width, height, 8, 6), (b"IDAT", body), (b"IEND", b""))


def _scans() -> tuple[bytes, list[bytes]]:
    """A progressive JPEG's start up to its first scan, and each scan with the tables before it."""
    data = next(each.data for each in pictures() if each.name == "jpeg-progressive")
    starts = [at for at in structures("jpeg", data) if data[at : at + 2] == b"\xff\xda"]
    tables = [at for at in structures("jpeg", data) if data[at : at + 2] == b"\xff\xc4"]
    begins = [max([at for at in tables if at < start] or [start]) for start in starts]
    return data[: begins[0]], [data[a:b] for a, b in zip(begins, [*begins[1:], len(data) - 2], strict=True)]


def _many_scans(count: int) -> bytes:
    head, scans = _scans()
    return head + b"".join(scans) + scans[-1] * count + b"\xff\xd9"


def _first_scans(count: int) -> bytes:
    head, scans = _scans()
    return head + b"".join(scans[:count]) + b"\xff\xd9"


def _metadata() -> Iterator[Case]:
    """Text, profiles and directories of any size around a sound picture; and ones that make no sense."""
    png = next(each.data for each in pictures() if each.name == "png-rgb")
    bomb = zlib.compress(bytes(50_000_000), 9)
    for name, chunk in {
        "ztxt-bomb": (b"zTXt", b"Comment\0\0" + bomb),
        "itxt-bomb": (b"iTXt", b"Comment\0\1\0\0\0" + bomb),
        "icc-bomb": (b"iCCP", b"profile\0\0" + bomb),
        "text": (b"tEXt", b"Comment\0" + b"x" * 3_000_000),
        "exif-of-nonsense": (b"eXIf", b"MM\0*" + b"\xff" * 60_000),
        "unknown": (b"vpAg", bytes(2_000_000)),
    }.items():
        body = struct.pack(">I", len(chunk[1])) + chunk[0] + chunk[1] + struct.pack(">I", zlib.crc32(b"".join(chunk)))
        yield Case(name=f"metadata-{name}.png", data=png[:33] + body + png[33:], expected=SCREENED)
    many = b"".join(_png((b"tEXt", b"n%d\0x" % number))[8:] for number in range(20_000))
    yield Case(name="metadata-many-texts.png", data=png[:33] + many + png[33:], expected=SCREENED)
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "A camera\n\x1b[2J")
    yield Case(name="metadata-terminal.png", data=encoded(smear(), "png", pnginfo=info), expected=SCREENED)
    jpeg = next(each.data for each in pictures() if each.name == "jpeg-plain")
    for marker, name in (
        (0xFE, "comments"),
        (0xE1, "exif-of-nonsense"),
        (0xE2, "icc-of-nonsense"),
        (0xED, "photoshop"),
    ):
        prefix = {0xE1: b"Exif\0\0MM\0*", 0xE2: b"ICC_PROFILE\0\1\1", 0xED: b"Photoshop 3.0\x008BIM"}.get(marker, b"")
        segment = bytes((0xFF, marker)) + struct.pack(">H", 60_002) + (prefix + b"\xff" * 60_000)[:60_000]
        yield Case(name=f"metadata-{name}.jpg", data=jpeg[:2] + segment * 60 + jpeg[2:], expected=SCREENED)
    small = b"\xff\xfe\0\2"
    yield Case(name="metadata-many-comments.jpg", data=jpeg[:2] + small * 100_000 + jpeg[2:], expected=SCREENED)
    yield Case(name="behind-the-end.jpg", data=jpeg + bytes(300_000), expected=SCREENED)
    yield Case(name="behind-the-end.png", data=png + b"x" * 300_000, expected=SCREENED)
    for profile in (b"", b"\xff" * 5_000, bytes(200_000)):
        for kind in ("jpeg", "png", "tiff", "webp"):
            name = f"metadata-profile-{len(profile)}.{kind}.jpg"
            yield Case(name=name, data=encoded(smear(), kind, icc_profile=profile), expected=SCREENED)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in range(40_000, 43_000):
        tags.tagtype[tag] = TiffTags.ASCII
        tags[tag] = "x" * 200
    yield Case(name="metadata-many-tags.tif", data=encoded(smear(), "tiff", tiffinfo=tags), expected=SCREENED)
    entry = struct.pack("<HHII", 273, 4, 5_000, 8)
    same = b"II*\0" + struct.pack("<IH", 8, 60_000) + entry * 60_000 + bytes(4)
    yield Case(name="metadata-the-same-tag-again-and-again.tif", data=same, expected=CORRUPT)
    loop = bytearray(tiled_tiff(smear()))
    (directory,) = struct.unpack_from("<I", loop, 4)
    (count,) = struct.unpack_from("<H", loop, directory)
    struct.pack_into("<I", loop, directory + 2 + 12 * count, directory)
    yield Case(name="directory-after-itself.tif", data=bytes(loop), expected=SCREENED)


def _orientations() -> Iterator[Case]:
    for kind in ("jpeg", "tiff", "png", "webp"):
        for orientation in (*range(1, 9), 0, 9, 65_535):
            size = (HEIGHT, WIDTH) if 5 <= orientation <= 8 else (WIDTH, HEIGHT)
            name = f"orientation-{kind}-{orientation}.{ {'jpeg': 'jpg', 'tiff': 'tif'}.get(kind, kind) }"
            yield Case(name=name, data=oriented(kind, orientation), expected=SCREENED, size=size)


def _kinds() -> Iterator[Case]:
    """Kinds of pixels that no camera has; each is either made RGB rightly or refused."""
    image = smear()
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F"):
        for kind in ("png", "tiff", "bmp", "webp", "jpeg"):
            try:
                data = encoded(
                    image.convert("L").convert(mode) if mode in {"I", "I;16", "F"} else image.convert(mode), kind
                )
            except (OSError, ValueError):  # the format has no such pixels
                continue
            expected = frozenset({"unsupported"}) if (mode, kind) == ("F", "tiff") else SCREENED
            yield Case(name=f"mode-{mode.replace(';', '-')}-{kind}.png", data=data, expected=expected)


def _fuzzed() -> Iterator[Case]:
    for path in sorted(FOUND.glob("*.*")):
        yield Case(name=f"found-{path.name}", data=path.read_bytes(), expected=ANY)
