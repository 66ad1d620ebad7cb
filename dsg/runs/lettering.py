"""Text on images, in any script that a font of this machine has."""

from functools import cache
from pathlib import Path

from matplotlib import font_manager, get_data_path
from PIL import Image, ImageDraw, ImageFont

TEXT, LINE, MARGIN = 16, 24, 6  # of the letters, of a line, after a text, in px


def text_width(words: str) -> int:
    return int(sum(font.getlength(part) for part, font in in_fonts(words))) + MARGIN


def write(image: Image.Image, place: tuple[int, int], words: str) -> None:
    """Draw a line of text whose left upper corner is `place`."""
    left, draw = place[0], ImageDraw.Draw(image)
    for part, font in in_fonts(words):
        draw.text((left, place[1] + TEXT), part, fill="black", font=font, anchor="ls")
        left += font.getlength(part)


def in_fonts(words: str) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """The text in parts, each with a font that has its letters; letters that no font has as `\\u4e2d`."""
    parts: list[tuple[str, ImageFont.FreeTypeFont]] = []
    for letter in words:
        font = font_of(letter)
        text = letter if font is not None else letter.encode("unicode_escape").decode()
        font = font or font_of("a")
        if parts and parts[-1][1] is font:
            parts[-1] = parts[-1][0] + text, font
        else:
            parts.append((text, font))
    return parts


@cache
def font_of(letter: str) -> ImageFont.FreeTypeFont | None:
    """Matplotlib's own font, or the first of this machine that has the letter; None if none has."""
    own = Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    if ord(letter) in letters_of(str(own)):
        return opened(str(own))
    files = sorted({font.fname for font in font_manager.fontManager.ttflist if "LastResort" not in font.fname})
    return next((opened(file) for file in files if ord(letter) in letters_of(file)), None)


@cache
def letters_of(file: str) -> frozenset[int]:
    """The code points that a font file has."""
    return frozenset(font_manager.get_font(file).get_charmap())


@cache
def opened(file: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, TEXT)
