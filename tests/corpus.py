"""Pictures good and bad, generated: the smallest files that have hurt someone."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gansmith import registry

DATA = Path(__file__).parents[2] / "shared" / "data"  # real data beside the checkout, where there is any


def save(picture: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def scene(height: int = 24, width: int = 32, channels: int = 3) -> np.ndarray:
    """uint8 [H, W, C] without any symmetry, smooth enough to survive JPEG."""
    y, x = np.mgrid[:height, :width]
    planes = [x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x + 2 * y) * 2 % 256, 255 - x * 4 % 256]
    return np.stack(planes[:channels], -1).astype(np.uint8)


def png(array: np.ndarray) -> bytes:
    return save(Image.fromarray(array), "PNG")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2, body: bytes = b"") -> bytes:
    """A PNG that claims a size and has hardly any pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def bmp_header(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def gif_header(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;"


def animation() -> bytes:
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    return save(first, "GIF", save_all=True, append_images=[second])


GOOD = png(scene())
JPEG = save(Image.fromarray(scene()), "JPEG", quality=95)

# name -> contents that no picture can be made of
BAD: dict[str, bytes] = {
    "empty.png": b"",
    "one_byte.jpg": b"\xff",
    "text.png": b"this is a text and no picture\n",
    "html.jpg": b"<!doctype html><title>404</title>",
    "svg_as.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "zeros.png": bytes(1000),
    "zip.png": b"PK\x03\x04" + bytes(40),
    "half.png": GOOD[: len(GOOD) // 2],
    "half.jpg": JPEG[: len(JPEG) // 2],
    "header_only.png": GOOD[:20],
    "signature.png": GOOD[:8],
    "no_pixels.jpg": JPEG[:30],
    "bad_checksum.png": GOOD[:16] + bytes([GOOD[16] ^ 1]) + GOOD[17:],
    "bad_zlib.png": GOOD[:60] + bytes(b ^ 0x55 for b in GOOD[60:90]) + GOOD[90:],
    "zero_size.png": png_header(0, 10),
    "huge.png": png_header(30_000, 30_000),
    "wide.png": png_header(65_535, 1),
    "huge.bmp": bmp_header(30_000, 30_000),
    "huge.gif": gif_header(65_535, 65_535),
    "text_bomb.png": png_header(4, 4, body=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20)))),
    "half.webp": save(Image.fromarray(scene()), "WEBP")[:60],
    "half.tif": save(Image.fromarray(scene()), "TIFF")[:200],
    "half.gif": animation()[:40],
    "half.bmp": save(Image.fromarray(scene()), "BMP")[:100],
    "half.ppm": save(Image.fromarray(scene()), "PPM")[:100],
    "float.tif": save(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"),
    "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "psd.png": b"8BPS\0\1" + bytes(60),
    "fits.png": b"SIMPLE  =                    T" + bytes(200),
    "pdf.jpg": b"%PDF-1.4\n",
}


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def pack(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def colours() -> dict[str, tuple[bytes, Callable[[], np.ndarray]]]:
    """Name -> file, and the 8-bit pixels [H, W(, C)] that must come of it, transparency not premultiplied."""
    rgb, grey, rgba = scene(), scene(channels=1)[..., 0], scene(channels=4)
    cmyk = 255 - scene(channels=4)
    palette = Image.fromarray(rgb).quantize(16)
    p_true = np.asarray(palette.convert("RGB"))
    ramp = np.arange(65536, step=257, dtype=np.uint16).reshape(16, 16)
    black = np.asarray(Image.fromarray(grey).convert("1", dither=Image.Dither.NONE))
    see_through = np.dstack([p_true, np.where(np.asarray(palette) == 3, 0, 255).astype(np.uint8)])
    deep = b"".join(b"\0" + np.dstack([row, row, row]).astype(">u2").tobytes() for row in ramp[:, None])
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
    rgb16 = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(deep)) + chunk(b"IEND", b"")
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    cmy, k = 255 - cmyk[..., :3].astype(int), 255 - cmyk[..., 3:].astype(int)
    return {
        "rgb.png": (png(rgb), lambda: rgb),
        "grey.png": (png(grey), lambda: grey),
        "rgba.png": (png(rgba), lambda: rgba),
        "la.png": (
            save(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(rgba[..., 3])]), "PNG"),
            lambda: np.dstack([grey, grey, grey, rgba[..., 3]]),
        ),
        "one_bit.png": (save(Image.fromarray(black), "PNG"), lambda: black.astype(np.uint8) * 255),
        "palette.png": (save(palette, "PNG"), lambda: p_true),
        "palette_alpha.png": (save(palette, "PNG", transparency=3), lambda: see_through),
        "palette.gif": (save(palette, "GIF"), lambda: p_true),
        "cmyk.tif": (save(Image.fromarray(cmyk, "CMYK"), "TIFF"), lambda: (cmy * k / 255).round().astype(np.uint8)),
        "grey16.png": (save(Image.fromarray(ramp), "PNG"), lambda: eight),
        "grey16.tif": (save(Image.fromarray(ramp), "TIFF"), lambda: eight),
        "rgb16.png": (rgb16, lambda: np.dstack([eight] * 3)),
        "rgb.jpg": (save(Image.fromarray(rgb), "JPEG", quality=100, subsampling=0), lambda: rgb),
        "rgb.webp": (save(Image.fromarray(rgb), "WEBP", lossless=True), lambda: rgb),
        "rgb.bmp": (save(Image.fromarray(rgb), "BMP"), lambda: rgb),
        "rgb.ppm": (save(Image.fromarray(rgb), "PPM"), lambda: rgb),
        "animated.gif": (animation(), lambda: np.full((16, 16, 3), (255, 0, 0), np.uint8)),
    }


def codec(kind: str = "image", **args: Any) -> Any:
    return registry.build("codec", kind, args=args)


def fitted(source: Any, **args: Any) -> tuple[Any, Any]:
    made = codec(**args)
    raws = made.scan(source)
    made.fit(raws)
    return made, raws
