"""Letters in many fonts, as sets of small pictures on which recipes can be tried that were tuned on digits.

    python benchmarks/letters.py FONTS letters.zip [--letters KLMNOPQRST]

FONTS: a folder of font files (TTF, OTF, WOFF), searched deeply. Writes 34,000 black letters on white, 28 px, each in a
font drawn at random, a little turned, sheared, scaled and shifted; 4,000 of them under test/.
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COUNT, TRAIN = 34_000, 30_000
SIDE, LARGE, HIGH = 28, 224, 150  # pixels of a picture, of the canvas that it is shrunk from, of a letter there


def glyph(font: ImageFont.FreeTypeFont, letter: str) -> Image.Image:
    """A letter in white, in the middle of a large black canvas, its longer side HIGH."""
    left, top, right, bottom = map(int, font.getbbox(letter))
    shape = Image.new("L", (right - left + 8, bottom - top + 8))
    ImageDraw.Draw(shape).text((4 - left, 4 - top), letter, font=font, fill=255)
    by = HIGH / max(shape.size)
    shape = shape.resize((max(1, int(shape.width * by)), max(1, int(shape.height * by))), Image.Resampling.LANCZOS)
    canvas = Image.new("L", (LARGE, LARGE))
    canvas.paste(shape, ((LARGE - shape.width) // 2, (LARGE - shape.height) // 2))
    return canvas


def moved(canvas: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The letter turned, sheared, scaled and shifted, and shrunk, in black on white."""
    angle, shear = rng.normal(0, 0.08, 2)
    size, wide = np.exp(rng.normal(0, (0.08, 0.06)))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    back = np.linalg.inv(turn @ np.array([[size * wide, shear], [0, size / wide]]))
    shift = LARGE / 2 - back @ (LARGE / 2 + rng.normal(0, 5, 2))
    row = (*back[0], shift[0], *back[1], shift[1])
    large = canvas.transform(canvas.size, Image.Transform.AFFINE, row, Image.Resampling.BILINEAR)
    return Image.eval(large.resize((SIDE, SIDE), Image.Resampling.BOX), lambda v: 255 - v)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fonts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--letters", default="ABCDEFGHIJ", help="the classes; default: %(default)s")
    given = parser.parse_args()
    found = sorted(p for p in given.fonts.rglob("*") if p.suffix.lower() in {".ttf", ".otf", ".woff"})
    fonts = [ImageFont.truetype(str(path), HIGH) for path in found]
    glyphs = [[glyph(font, letter) for letter in given.letters] for font in fonts]
    rng = np.random.default_rng(1)
    with zipfile.ZipFile(given.out, "w") as archive:
        for i in range(COUNT):
            font, letter = rng.integers(len(glyphs)), rng.integers(len(given.letters))
            file = io.BytesIO()
            moved(glyphs[font][letter], rng).save(file, "PNG")
            archive.writestr(f"{'train' if i < TRAIN else 'test'}/{given.letters[letter]}/{i:05d}.png", file.getvalue())
    print(f"{COUNT:,} letters of {len(fonts)} fonts in {given.out}")


if __name__ == "__main__":
    main()
