"""Reading one picture: facts from its header, pixels in one of three modes, cut to a size; and drawing sheets of many.

Only formats on the list are ever opened, and sizes are refused from the header, before anything is allocated.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import (  # noqa: F401  # noqa: F401  each registers itself
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageDraw,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ..errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm"}
FOREIGN = {".svg", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".psd", ".eps", ".fits", ".ico", ".tga", ".exr"}
FOREIGN |= {".hdr", ".dng", ".cr2", ".nef", ".arw", ".raw"}
READABLE = "PNG, JPEG, WebP, GIF, BMP, TIFF or PPM"

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
ROTATES = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # where a file may say that it lies on its side
ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 swap width and height
GREY16 = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class Facts(NamedTuple):
    """What the header says. channels: 1 grey, 3 colour, 4 with transparency."""

    width: int
    height: int
    channels: int
    animated: bool


class Limits(NamedTuple):
    """Largest side and number of pixels that are decoded."""

    side: int = 16384
    pixels: int = 64 << 20

    def check(self, width: int, height: int) -> None:
        if not (0 < width <= self.side and 0 < height <= self.side and width * height <= self.pixels):
            most = f"{self.side} a side and {self.pixels / (1 << 20):g} megapixels"
            raise DataError(f"is {width}x{height}; the limit is {most}")


def facts(data: bytes, limits: Limits) -> Facts:
    """Facts from the header alone. Raises DataError with the reason, for the caller to name the file."""
    found = _plain_png(data) or _header(data, limits)
    limits.check(found.width, found.height)
    return found


def _plain_png(data: bytes) -> Facts | None:
    """The header of a grey or RGB PNG whose pixels follow at once, as big data sets have them; a tenth of the time."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[37:41] != b"IDAT" or data[24:26] not in (b"\x08\x00", b"\x08\x02"):
        return None
    return Facts(int.from_bytes(data[16:20]), int.from_bytes(data[20:24]), 1 + data[25], False)


def _header(data: bytes, limits: Limits) -> Facts:
    picture = _open(data, limits)
    try:
        width, height = picture.size
        turns = "exif" in picture.info and picture.format != "TIFF"  # TIFF: Pillow turns it itself
        if turns and picture.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8):
            width, height = height, width
        return Facts(width, height, _channels(picture), bool(getattr(picture, "is_animated", False)))
    except Exception as error:
        raise DataError(_reason(error)) from None


def _channels(picture: Image.Image) -> int:
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        return 1 if picture.mode in GREY16 else 4
    return 1 if picture.mode in ("1", "L", *GREY16) else 3


def _open(data: bytes, limits: Limits) -> Image.Image:
    """A lazily opened picture of an allowed format and size; raises DataError.

    Goes to Pillow's plugins directly: `Image.open` would warn of sizes that are refused here, and takes twice the time.
    """
    if not data:
        raise DataError("is empty")
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is not None and not accept(data[:16]):
            continue
        try:
            picture = factory(io.BytesIO(data), "")
        except Exception as error:
            raise DataError(_reason(error)) from None
        limits.check(*picture.size)
        return picture
    raise DataError(f"is not a {READABLE} picture")


def _reason(error: Exception) -> str:
    """A damaged file in words; what Pillow says about it may be anything from a sentence to an unpacking error."""
    text = " ".join(str(error).split())[:120]
    return f"is damaged: {text}" if isinstance(error, OSError | ValueError) and " " in text else "is damaged"


def pixels(data: bytes, limits: Limits, wanted: int | None = None) -> Image.Image:
    """Decode the first frame, upright, as "L", "RGB" or "RGBA"; raises DataError with the reason.

    wanted: the side that will be asked of it; large JPEGs are then decoded at a fraction that keeps twice as much.
    """
    picture = _open(data, limits)
    try:
        if wanted and picture.format == "JPEG":
            picture.draft(None, (2 * wanted, 2 * wanted))
        picture.load()
        if not ROTATES.isdisjoint(picture.info):
            picture = ImageOps.exif_transpose(picture)
        return _eight_bits(picture)
    except DataError:
        raise
    except Exception as error:
        raise DataError(_reason(error)) from None


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode in GREY16:
        values = np.asarray(picture).astype(np.int64)
        if values.size and values.max() > 65535:
            raise DataError("holds values beyond 16 bits")
        return Image.fromarray(((values.clip(0) + 128) // 257).astype(np.uint8))  # convert("L") would clip
    if picture.mode == "F":
        raise DataError("holds floating-point pixels; save it with 8 or 16 bits")
    mode = MODES[_channels(picture)]
    return picture if picture.mode == mode else picture.convert(mode)


def from_array(array: np.ndarray) -> Image.Image:
    """A picture of uint8 [H, W] or [H, W, 1, 3 or 4]; raises DataError."""
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise DataError(f"is not a picture but {array.dtype} of shape {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))


def cut(picture: Image.Image, height: int, width: int, channels: int) -> np.ndarray:
    """uint8 [H, W, C]: cover, centre-crop, antialias; transparency premultiplied, or on white where C is 3 or 1."""
    if channels < 4 and picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    picture = picture if picture.mode == MODES[channels] else picture.convert(MODES[channels])
    if channels == 4:
        picture = picture.convert("RGBa")
    if picture.size != (width, height):
        scale = min(picture.width / width, picture.height / height)
        across, down = min(picture.width, width * scale), min(picture.height, height * scale)  # rounding may exceed
        left, top = (picture.width - across) / 2, (picture.height - down) / 2
        box = (left, top, min(picture.width, left + across), min(picture.height, top + down))
        picture = picture.resize((width, height), Image.Resampling.LANCZOS, box=box)
    array = np.asarray(picture).reshape(height, width, channels)
    # LANCZOS overshoots, but no colour is brighter than its alpha
    return np.minimum(array, array[..., 3:]) if channels == 4 else array


def unpremultiply(array: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 4] with colours divided by alpha, rounded; `cut` multiplies back to the same."""
    alpha = array[..., 3:].astype(np.int32)
    colour = (array[..., :3].astype(np.int32) * 255 + alpha // 2) // np.maximum(alpha, 1)
    colour = np.where(alpha > 0, colour.clip(0, 255), 0)
    return np.concatenate([colour.astype(np.uint8), array[..., 3:]], 2)


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def sheet(arrays: Sequence[np.ndarray], side: int = 640) -> bytes:
    """PNG of a near-square grid of uint8 [H, W] or [H, W, C] arrays, enlarged by a whole factor to about `side`."""
    pictures = [from_array(array) for array in arrays]
    if not pictures:
        raise DataError("There is nothing to show.")
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    columns = min(len(pictures), max(1, round(math.sqrt(len(pictures) * height / width))))
    rows = math.ceil(len(pictures) / columns)
    zoom = max(1, round(side / max(columns * width, rows * height)))
    gap = 2
    size = (columns * (width * zoom + gap) + gap, rows * (height * zoom + gap) + gap)
    colour = "RGB" if any(p.mode != "L" for p in pictures) else "L"
    paper = Image.new(colour, size, "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        large = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
        place = (gap + column * (width * zoom + gap), gap + row * (height * zoom + gap))
        paper.paste(_on_checks(large) if large.mode == "RGBA" else large, place)
    return png(paper)


def _on_checks(picture: Image.Image, step: int = 8) -> Image.Image:
    """A picture with transparency over the usual grey checkerboard."""
    board = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    draw = ImageDraw.Draw(board)
    for top in range(0, picture.height, step):
        for left in range(top % (2 * step), picture.width, 2 * step):
            draw.rectangle((left, top, left + step - 1, top + step - 1), fill=(214, 214, 214, 255))
    return Image.alpha_composite(board, picture).convert("RGB")
