"""One small smear in every way that the formats have of keeping it: what hostile files are made from."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from PIL import Image, ImageCms

from imaging.synthetic import STYLES, render_field

WIDTH, HEIGHT = 112, 80


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A sound file. `format` is that of `imaging.formats`."""

    name: str
    format: str
    data: bytes
    checked: bool = False
    """Every byte of its picture is under a checksum."""
    packed: bool = True
    """It is compressed, so that zeros in place of its last 512 bytes make no sense."""
    suffix: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "suffix", {"jpeg": ".jpg", "tiff": ".tif"}.get(self.format, f".{self.format}"))


@cache
def smear(seed: int = 5, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    rng = np.random.default_rng(seed)
    style = STYLES[sorted(STYLES)[seed % len(STYLES)]]
    return Image.fromarray(render_field(rng, klass="benign", style=style, size=size).pixels)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.copy().save(out, kind, **options)  # saving leaves its options on the image
    return out.getvalue()


def sixteen(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.uint16) * 257


def with_opencv(pixels: np.ndarray, suffix: str) -> bytes:
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, order[pixels.shape[2]])
    return cv2.imencode(suffix, pixels)[1].tobytes()


def colour_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def oriented(kind: str, orientation: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(smear(), kind, exif=exif)


def bmp(image: Image.Image, *, bits: int, compression: int = 0, top_down: bool = False) -> bytes:
    """Bitmaps that Pillow doesn't write: 16 bits a pixel, from the top down, run-length coded."""
    width, height = image.size
    if compression == 1:
        rows = np.asarray(image.convert("L"))[::-1]
        body = b"".join(b"".join(bytes((1, value)) for value in row) + b"\0\0" for row in rows.tolist()) + b"\0\1"
        palette = b"".join(bytes((level, level, level, 0)) for level in range(256))
    else:
        pixels = np.asarray(image).astype(np.uint16) >> 3
        packed = (pixels[..., 0] << 10 | pixels[..., 1] << 5 | pixels[..., 2]).astype("<u2")
        body = (packed if top_down else packed[::-1]).tobytes()
        palette = b""
    start = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start)
    lines = -height if top_down else height
    return (
        head
        + struct.pack("<IiiHHIIiiII", 40, width, lines, 1, bits, compression, len(body), 0, 0, 0, 0)
        + palette
        + body
    )


def tiled_tiff(image: Image.Image, *, side: int = 64, order: str = "<", big: bool = False) -> bytes:
    """A TIFF in uncompressed tiles, of either byte order, classic or BigTIFF (TIFF 6.0, section 15)."""
    pixels = np.asarray(image)
    rows, columns = -(-pixels.shape[0] // side), -(-pixels.shape[1] // side)
    padded = np.zeros((rows * side, columns * side, 3), np.uint8)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    tiles = [
        padded[y * side : (y + 1) * side, x * side : (x + 1) * side].tobytes()
        for y in range(rows)
        for x in range(columns)
    ]
    head = (b"II" if order == "<" else b"MM") + struct.pack(
        order + ("HHHQ" if big else "HI"), *((43, 8, 0, 0) if big else (42, 0))
    )
    body = bytearray(head)

    def kept(values: bytes) -> int:
        at = len(body)
        body.extend(values + bytes(len(values) % 2))
        return at

    bits = kept(struct.pack(order + "HHH", 8, 8, 8))
    offsets = [kept(tile) for tile in tiles]
    where = kept(struct.pack(f"{order}{len(tiles)}I", *offsets))
    sizes = kept(struct.pack(f"{order}{len(tiles)}I", *map(len, tiles)))
    entries = [
        (256, 4, 1, pixels.shape[1]), (257, 4, 1, pixels.shape[0]), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2),
        (277, 3, 1, 3), (322, 4, 1, side), (323, 4, 1, side), (324, 4, len(tiles), where), (325, 4, len(tiles), sizes),
    ]  # fmt: skip
    directory = len(body)
    body += struct.pack(order + ("Q" if big else "H"), len(entries))
    for tag, kind, count, value in entries:
        size = {3: 2, 4: 4}[kind] * count
        body += struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, count)
        if size <= (8 if big else 4):
            values = struct.pack(order + {3: "H", 4: "I"}[kind], value)
            if big and kind == 3 and count == 3:
                values = struct.pack(order + "HHH", 8, 8, 8)
            body += values + bytes((8 if big else 4) - len(values))
        else:
            body += struct.pack(order + ("Q" if big else "I"), value)
    body += bytes(8 if big else 4)
    struct.pack_into(order + ("Q" if big else "I"), body, 8 if big else 4, directory)
    return bytes(body)


@cache
def pictures() -> tuple[Picture, ...]:
    """Every variant, each different."""
    return tuple(_all())


def _all() -> Iterator[Picture]:
    image = smear()
    grey, alpha = image.convert("L"), image.convert("RGBA")
    alpha.putalpha(grey)
    other = smear(6)
    profile = colour_profile()

    def of(kind: str, variant: str, source: Image.Image = image, **options: object) -> Picture:
        packed = kind not in {"bmp"} and not (kind == "tiff" and "compression" not in options)
        return Picture(
            name=f"{kind}-{variant}",
            format=kind,
            data=encoded(source, kind, **options),
            checked=kind == "png",
            packed=packed,
        )

    yield of("jpeg", "plain", quality=85)
    yield of("jpeg", "progressive", progressive=True)
    yield of("jpeg", "restarts", restart_marker_rows=1)
    yield of("jpeg", "grey", grey)
    yield of("jpeg", "cmyk", image.convert("CMYK"))
    yield of("jpeg", "ycck-progressive", image.convert("CMYK"), progressive=True)
    yield of("jpeg", "444", subsampling=0, quality=98)
    yield of("jpeg", "422", subsampling=1)
    yield of("jpeg", "rgb", keep_rgb=True)
    yield of("jpeg", "icc", icc_profile=profile)
    yield of("jpeg", "exif", exif=_exif(200))
    yield Picture(
        name="jpeg-multi-picture",
        format="jpeg",
        data=encoded(image, "mpo", save_all=True, append_images=[other.copy()]),
    )
    yield of("png", "rgb", compress_level=1)
    yield of("png", "rgba", alpha)
    yield of("png", "grey", grey)
    yield of("png", "grey-alpha", alpha.convert("LA"))
    yield of("png", "palette", image.convert("P"))
    yield of("png", "palette-4-bit", image.quantize(16), bits=4)
    yield of("png", "palette-clear", image.quantize(32), transparency=3)
    yield of("png", "two-levels", grey.convert("1"))
    yield of("png", "icc", icc_profile=profile)
    yield of("png", "animated", save_all=True, append_images=[other.copy()])
    yield Picture(name="png-16-rgb", format="png", data=with_opencv(sixteen(image), ".png"), checked=True)
    yield Picture(name="png-16-rgba", format="png", data=with_opencv(sixteen(alpha), ".png"), checked=True)
    yield Picture(name="png-16-grey", format="png", data=with_opencv(sixteen(grey), ".png"), checked=True)
    yield of("tiff", "plain")
    yield of("tiff", "lzw", compression="tiff_lzw")
    yield of("tiff", "deflate", compression="tiff_adobe_deflate")
    yield of("tiff", "packbits", compression="packbits")
    yield of("tiff", "jpeg", compression="jpeg")
    yield of("tiff", "zstd", compression="zstd")
    yield of("tiff", "lzma", compression="lzma")
    yield of("tiff", "grey", grey)
    yield of("tiff", "cmyk", image.convert("CMYK"), compression="tiff_lzw")
    yield of("tiff", "lab", image.convert("LAB"), compression="tiff_lzw")
    yield of("tiff", "rgba", alpha, compression="tiff_lzw")
    yield of("tiff", "palette", image.convert("P"))
    yield of("tiff", "two-levels", grey.convert("1"))
    yield of("tiff", "pages", save_all=True, append_images=[other.copy()], compression="tiff_lzw")
    yield of("tiff", "big", big_tiff=True)
    yield of("tiff", "icc", icc_profile=profile, compression="tiff_lzw")
    yield Picture(name="tiff-16-rgb", format="tiff", data=with_opencv(sixteen(image), ".tif"))
    yield Picture(
        name="tiff-16-grey", format="tiff", data=encoded(Image.fromarray(sixteen(grey)), "tiff"), packed=False
    )
    for order in "<>":
        for big in (False, True) if order == "<" else (False,):
            name = f"tiff-tiles-{'little' if order == '<' else 'big'}-endian{'-64' if big else ''}"
            yield Picture(name=name, format="tiff", data=tiled_tiff(image, order=order, big=big), packed=False)
    yield of("bmp", "rgb")
    yield of("bmp", "rgba", alpha)
    yield of("bmp", "palette", image.convert("P"))
    yield of("bmp", "two-levels", grey.convert("1"))
    yield Picture(name="bmp-16", format="bmp", data=bmp(image, bits=16), packed=False)
    yield Picture(name="bmp-top-down", format="bmp", data=bmp(image, bits=16, top_down=True), packed=False)
    yield Picture(name="bmp-runs", format="bmp", data=bmp(image, bits=8, compression=1), packed=False)
    yield of("webp", "lossy", quality=95)
    yield of("webp", "lossless", lossless=True)
    yield of("webp", "alpha", alpha)
    yield of("webp", "icc", icc_profile=profile)
    yield of("webp", "animated", save_all=True, append_images=[other.copy()])


def _exif(tags: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "A microscope"
    exif[0x9286] = "x" * tags
    return exif
