"""Attributes of avatars, the people they make, and the split that each person belongs to.

Face i of a split is a function of (seed, split, i) alone. A person, or identity, is (skin, hair, hair colour, facial
hair, nose). Each belongs to exactly one split, by a hash of these names, so that no person of `val` or `test` is seen
in training. The names are those of `python-avatars`.
"""

import hashlib

import numpy as np

IDENTITY = ("skin", "hair", "hair_color", "facial_hair", "nose")
SPLITS = {"train": range(0, 80), "val": range(80, 90), "test": range(90, 100)}  # percent of the identities
VARIATIONS = 16  # images of a training identity

# Values without a colour are left out, and those that hide the face's other attributes. The order counts: faces are
# drawn by index.
VALUES = {
    "skin": ("TANNED", "YELLOW", "PALE", "LIGHT", "BROWN", "DARK_BROWN", "BLACK"),
    "hair": (
        "BIG_HAIR", "BOB", "BUN", "CAESAR_SIDE_PART", "CAESAR", "CURLY", "CURVY", "DREADS", "FRIZZLE", "FRO_BAND",
        "FRO", "LONG_NOT_TOO_LONG", "MIA_WALLACE", "SHAGGY_MULLET", "SHAGGY", "SHORT_CURLY", "SHORT_DREADS_1",
        "SHORT_DREADS_2", "SHORT_FLAT", "SHORT_ROUND", "SHORT_WAVED", "SIDES", "STRAIGHT_1", "STRAIGHT_STRAND",
        "BRAIDS", "BUZZCUT", "CORNROWS", "DREADLOCKS", "EINSTEIN_HAIR", "ELVIS", "EVIL_SPIKE", "HALF_SHAVED", "MOHAWK",
        "MOWGLI", "PIXIE", "POMPADOUR", "QUIFF", "TWIST_LONG_HAIR", "TWIST_LONG_HAIR_2", "WICK", "WILD",
    ),
    "hair_color": (
        "AUBURN", "BLACK", "BLONDE", "BLONDE_GOLDEN", "BROWN", "BROWN_DARK", "PASTEL_PINK", "PLATINUM", "RED",
        "SILVER_GRAY",
    ),
    "facial_hair": (
        "NONE", "BEARD_LIGHT", "BEARD_MAGESTIC", "BEARD_MEDIUM", "MOUSTACHE_FANCY", "MOUSTACHE_MAGNUM",
        "EINSTEIN_MOUSTACHE", "WICK_BEARD",
    ),
    "nose": ("DEFAULT", "SMALL", "WIDE"),
    "eyes": (
        "CLOSED", "CRY", "DEFAULT", "EYE_ROLL", "HAPPY", "HEART", "SIDE", "SQUINT", "SURPRISED", "WINK_WACKY", "WINK",
        "X_DIZZY",
    ),
    "eyebrows": (
        "ANGRY_NATURAL", "ANGRY", "DEFAULT_NATURAL", "DEFAULT", "FLAT_NATURAL", "FROWN_NATURAL",
        "RAISED_EXCITED_NATURAL", "RAISED_EXCITED", "SAD_CONCERNED_NATURAL", "SAD_CONCERNED", "UNIBROW_NATURAL",
        "UP_DOWN_NATURAL", "UP_DOWN",
    ),
    "mouth": (
        "CONCERNED", "DEFAULT", "DISBELIEF", "EATING", "GRIMACE", "SAD", "SCREAM_OPEN", "SERIOUS", "SMILE", "TONGUE",
        "TWINKLE", "BIG_SMILE",
    ),
    "accessory": (
        "NONE", "EYEPATCH", "KURT", "PRESCRIPTION_1", "PRESCRIPTION_2", "ROUND", "SUNGLASSES", "WAYFARERS",
        "SUNGLASSES_2", "WAYFARERS_2",
    ),
    "clothing": (
        "BLAZER_SHIRT", "BLAZER_SWEATER", "COLLAR_SWEATER", "HOODIE", "OVERALL", "SHIRT_CREW_NECK", "SHIRT_SCOOP_NECK",
        "SHIRT_V_NECK", "ASTRONAUT_SUIT", "BOND_SUIT", "CHEF", "GLADIATOR", "JEDI_ROBE", "SHIRT_WICK",
    ),
    "clothing_color": (
        "BLACK", "BLUE_01", "BLUE_02", "BLUE_03", "GRAY_01", "GRAY_02", "HEATHER", "PASTEL_BLUE", "PASTEL_GREEN",
        "PASTEL_ORANGE", "PASTEL_YELLOW", "PINK", "RED", "WHITE",
    ),
}  # fmt: skip
MOSTLY_NONE = {"facial_hair": 0.5, "accessory": 0.6}  # probability of NONE; the rest is uniform


def split_of(attributes: dict[str, str]) -> str:
    """The split that an identity belongs to, from a hash of its names: the same on any machine."""
    key = "/".join(attributes[name] for name in IDENTITY)
    percent = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100
    return next(split for split, part in SPLITS.items() if percent in part)


def draw_attributes(seed: int, split: str, index: int) -> dict[str, str]:
    """Attributes of face `index` of `split`: drawn until the identity falls in that split."""
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    while True:
        attributes = _draw(rng)
        if split_of(attributes) == split:
            return attributes


def variation(attributes: dict[str, str], seed: int, index: int, number: int) -> dict[str, str]:
    """The same person, number `number` of face `index`: all but the identity is drawn again."""
    drawn = _draw(np.random.default_rng([seed, 77, index, number]))
    return {**drawn, **{name: attributes[name] for name in IDENTITY}}


def _draw(rng: np.random.Generator) -> dict[str, str]:
    attributes = {}
    for name, values in VALUES.items():
        none = MOSTLY_NONE.get(name)
        choices = values if none is None else [v for v in values if v != "NONE"]
        attributes[name] = "NONE" if none and rng.random() < none else str(rng.choice(choices))
    attributes["background"] = "#{:02x}{:02x}{:02x}".format(*rng.integers(0, 256, 3))
    return attributes
