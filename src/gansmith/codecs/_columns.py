"""Numbers from text: CSV files of two or three numeric columns, with whatever separator, header and damage."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..files import ENTRY_LIMIT, RATIO_LIMIT

LINE_LIMIT = 1 << 20  # characters
LARGEST = 1e30  # float32 ends at 3e38, and squares must fit
NAMES = ("x", "y", "z")


class Columns(NamedTuple):
    """values: float64 [N, 2 or 3]; names: one a column."""

    values: np.ndarray
    names: list[str]


def unpack(data: bytes) -> bytes:
    """Undo gzip where the data is; raises DataError on damage and on bombs."""
    if data[:2] != b"\x1f\x8b":
        return data
    limit = min(ENTRY_LIMIT, max(1 << 20, RATIO_LIMIT * len(data)))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            plain = file.read(limit + 1)
    except Exception as error:  # EOFError, zlib.error, BadGzipFile
        raise DataError(f"is damaged ({error}); copy or download it again") from None
    if len(plain) > limit:
        raise DataError(f"unpacks to more than {limit >> 20} MB, which is refused")
    return plain


def beginning(data: bytes) -> bytes:
    """What can be unpacked of a file that is cut off; empty where it is damaged."""
    if data[:2] != b"\x1f\x8b":
        return data
    with suppress(zlib.error):
        return zlib.decompressobj(wbits=31).decompress(data, 4 * len(data))
    return b""


def text(data: bytes) -> str:
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    return data.decode("utf-16" if wide else "utf-8", errors="replace").lstrip("\ufeff")


def parse(content: str, skip: Callable[[str, str], None]) -> Columns:
    """Rows of two or three numbers; other rows go to `skip` by line number. Raises DataError if none is left."""
    lines = [(n, line) for n, line in enumerate(io.StringIO(content, newline=None), 1) if line.strip()]
    if not lines:
        raise DataError("is empty")
    delimiter = _delimiter(lines[0][1])
    first = _cells(lines[0][1], delimiter)
    header = not any(_is_number(cell) for cell in first)
    width = len(first)
    if width not in (2, 3):
        raise DataError(f"has {width} columns; points have two or three")
    rows = []
    for number, line in lines[header:]:
        row = _row(line, delimiter, width)
        if isinstance(row, str):
            skip(f"line {number}", row)
        else:
            rows.append(row)
    if not rows:
        raise DataError(f"has no row of {width} numbers")
    return Columns(np.array(rows, np.float64), _names(first, width) if header else list(NAMES[:width]))


def looks_like_points(content: str) -> bool:
    """Are the whole lines at the beginning of a file rows of two or three numbers, but for a header and rare damage?"""
    lines = content.splitlines()[:200]
    bad: list[str] = []
    try:
        good = len(parse("\n".join(lines), lambda line, _: bad.append(line)).values)
    except DataError:
        return False
    return len(bad) <= 0.05 * good + 1 and good > len(bad)


def _delimiter(line: str) -> str:
    return next((d for d in ("\t", ";") if d in line), ",")


def _cells(line: str, delimiter: str) -> list[str]:
    cells = line.rstrip("\r\n").split(delimiter)
    cells = [cell.strip().strip("\"'").strip() for cell in cells]
    return [cell.replace(",", ".") for cell in cells] if delimiter != "," else cells


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == ""  # a missing value, not the name of a column
    return True


def _row(line: str, delimiter: str, width: int) -> list[float] | str:
    """The numbers of a line, or what is wrong with it."""
    if len(line) > LINE_LIMIT:
        return "is longer than 1 MB"
    cells = _cells(line, delimiter)
    if len(cells) != width:
        return f"has {len(cells)} fields, not {width}"
    try:
        row = [float(cell) for cell in cells]
    except ValueError:
        return "holds something that is not a number"
    if not all(map(math.isfinite, row)):
        return "holds a value that is not finite"
    return row if max(map(abs, row)) <= LARGEST else "holds a value beyond 1e30"


def _names(cells: list[str], width: int) -> list[str]:
    names = [cell[:200] for cell in cells]
    return names if all(names) and len(set(names)) == width else list(NAMES[:width])


def decimals(values: np.ndarray) -> int | None:
    """Decimals that a column [N] is written with, 0 to 6; None if more."""
    for places in range(7):
        if np.allclose(np.round(values, places), values, rtol=0, atol=1e-9 + 1e-12 * np.abs(values).max()):
            return places
    return None


def to_csv(rows: np.ndarray, names: list[str]) -> bytes:
    """float32 [N, d] as CSV with a header; every number reads back as the same float32."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([str(value) for value in row] for row in rows.astype(np.float32))
    return file.getvalue().encode(errors="backslashreplace")
