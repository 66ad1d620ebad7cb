"""Drawings of avatars from their attributes, and label maps of their parts, from the same vectors.

`python-avatars` (MIT) draws, `resvg-py` makes pixels of it: the extra `data`.
"""

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
from PIL import Image

SIZE = 64
VIEW_BOX = "22 10 220 220"  # of the 264 x 280 drawing: head and shoulders, square
PARTS = ("background", "face", "hair", "clothes")  # glasses belong to the face, beards to the hair
PART_COLORS = ("#000000", "#ff0000", "#00ff00", "#0000ff")  # far apart, for `render_parts`
SUFFIXES = {"_Body": 1, "_Face": 1, "_Top": 2, "_Clothing": 3}  # of the drawing's groups: indices of PARTS


def check_extra() -> None:
    """Raise ValueError, with what to do, if the packages that draw are not installed."""
    try:
        import python_avatars  # noqa: F401
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise ValueError(f"drawing faces needs {error.name}: pip install -e '.[data]'") from None


def render(attributes: dict[str, str], size: int = SIZE) -> np.ndarray:
    """One face: uint8 [size, size, 3]."""
    return _rasterise(_svg(attributes), size, attributes["background"])


def render_parts(attributes: dict[str, str], size: int = SIZE) -> np.ndarray:
    """Label map of one face: uint8 [size, size], indices of PARTS; the topmost part counts."""
    root = ElementTree.fromstring(_svg({**attributes, "accessory": "NONE"}))
    root.set("shape-rendering", "crispEdges")
    _paint(root, None)
    pixels = _rasterise(ElementTree.tostring(root, encoding="unicode"), size, PART_COLORS[0]).astype(int)
    colors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in PART_COLORS])
    return np.abs(pixels[:, :, None] - colors).sum(-1).argmin(-1).astype(np.uint8)


def _paint(element: ElementTree.Element, part: int | None) -> None:
    """Give everything that is drawn the colour of its part. Shadows are left out, masks stay."""
    name = element.get("id") or ""
    for suffix, index in SUFFIXES.items():
        part = index if part is None and name.endswith(suffix) else part
    if element.tag.rpartition("}")[2] in ("mask", "defs", "clipPath", "filter"):
        return
    faint = any(float(element.get(key, 1)) < 0.5 for key in ("opacity", "fill-opacity"))
    for key in ("opacity", "fill-opacity", "filter"):
        element.attrib.pop(key, None)
    for key in ("fill", "stroke"):
        if part is not None and element.get(key, "none") != "none":
            element.set(key, "none" if faint and part != 1 else PART_COLORS[part])
    for child in list(element):
        if faint and part != 1:
            element.remove(child)
        else:
            _paint(child, part)


def _svg(attributes: dict[str, str]) -> str:
    check_extra()
    import python_avatars as pa

    a = attributes
    return pa.Avatar(
        style=pa.AvatarStyle.TRANSPARENT,
        top=pa.HairType[a["hair"]],
        hair_color=pa.HairColor[a["hair_color"]],
        facial_hair=pa.FacialHairType[a["facial_hair"]],
        facial_hair_color=pa.HairColor[a["hair_color"]],
        skin_color=pa.SkinColor[a["skin"]],
        nose=pa.NoseType[a["nose"]],
        eyes=pa.EyeType[a["eyes"]],
        eyebrows=pa.EyebrowType[a["eyebrows"]],
        mouth=pa.MouthType[a["mouth"]],
        accessory=pa.AccessoryType[a["accessory"]],
        clothing=pa.ClothingType[a["clothing"]],
        clothing_color=pa.ClothingColor[a["clothing_color"]],
    ).render()


def _rasterise(svg: str, size: int, background: str) -> np.ndarray:
    import resvg_py

    framed = 'width="264px" height="280px" viewBox="0 0 264 280"'
    if framed not in svg:
        raise ValueError("python-avatars draws in another frame than 264 x 280: see constraints.txt for the version")
    svg = svg.replace(framed, f'width="{size}px" height="{size}px" viewBox="{VIEW_BOX}"', 1)
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background=background, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))
