"""Captions of avatars64's faces from their attributes, and the attributes that a prompt asks for."""

import re
from collections.abc import Mapping

import numpy as np

# word: the values of the attribute it covers
HAIR_COLORS = {
    "auburn": {"AUBURN"},
    "black": {"BLACK"},
    "blonde": {"BLONDE"},
    "golden": {"BLONDE_GOLDEN"},
    "brown": {"BROWN"},
    "dark brown": {"BROWN_DARK"},
    "pink": {"PASTEL_PINK"},
    "platinum": {"PLATINUM"},
    "red": {"RED"},
    "gray": {"SILVER_GRAY"},
}
HAIR = {
    "long": {
        "BIG_HAIR", "BOB", "CURVY", "DREADS", "LONG_NOT_TOO_LONG", "MIA_WALLACE", "STRAIGHT_1", "STRAIGHT_STRAND",
        "TWIST_LONG_HAIR", "TWIST_LONG_HAIR_2", "WICK",
    },
    "curly": {"CURLY", "FRO", "FRO_BAND"},
    "short": {
        "CAESAR", "CAESAR_SIDE_PART", "SHORT_CURLY", "SHORT_DREADS_1", "SHORT_FLAT", "SHORT_ROUND", "SHORT_WAVED",
        "BUZZCUT",
    },
    "wild": {"WILD", "EINSTEIN_HAIR", "SHORT_DREADS_2", "MOWGLI", "EVIL_SPIKE"},
}  # fmt: skip
SKIN = {
    "pale": {"PALE"},
    "light": {"LIGHT"},
    "orange": {"TANNED"},
    "yellow": {"YELLOW"},
    "brown": {"BROWN"},
    "dark": {"DARK_BROWN", "BLACK"},
}
CLOTHES = {
    "hoodie": {"HOODIE"},
    "blazer": {"BLAZER_SHIRT", "BLAZER_SWEATER"},
    "shirt": {"SHIRT_CREW_NECK", "SHIRT_SCOOP_NECK", "SHIRT_V_NECK"},
    "sweater": {"COLLAR_SWEATER"},
    "suit": {"BOND_SUIT", "SHIRT_WICK"},
}
CLOTHES_COLORS = {
    "black": {"BLACK"},
    "blue": {"BLUE_01", "BLUE_02", "BLUE_03", "PASTEL_BLUE"},
    "gray": {"GRAY_01", "GRAY_02", "HEATHER"},
    "green": {"PASTEL_GREEN"},
    "orange": {"PASTEL_ORANGE"},
    "yellow": {"PASTEL_YELLOW"},
    "pink": {"PINK"},
    "red": {"RED"},
    "white": {"WHITE"},
}
COLORED = ("hoodie", "shirt", "sweater")  # the others have colours of their own
ALONE = {  # words that need no noun
    "smiling": ("mouth", {"SMILE", "TWINKLE", "BIG_SMILE"}),
    "sad": ("mouth", {"SAD", "CONCERNED", "DISBELIEF"}),
    "glasses": ("accessory", {"PRESCRIPTION_1", "PRESCRIPTION_2", "ROUND"}),
    "sunglasses": ("accessory", {"KURT", "SUNGLASSES", "SUNGLASSES_2", "WAYFARERS", "WAYFARERS_2"}),
    "eyepatch": ("accessory", {"EYEPATCH"}),
    "beard": ("facial_hair", {"BEARD_LIGHT", "BEARD_MAGESTIC", "BEARD_MEDIUM", "WICK_BEARD"}),
    "moustache": ("facial_hair", {"MOUSTACHE_FANCY", "MOUSTACHE_MAGNUM", "EINSTEIN_MOUSTACHE"}),
    "beardless": ("facial_hair", {"NONE"}),
}
PEOPLE = ("person", "face", "character", "portrait")
LINKS = ("a", "an", "the", "with", "and", "in", "wearing", "who", "is", "has", "of", "someone")
WORDS = sorted(
    {w for table in (HAIR_COLORS, HAIR, SKIN, CLOTHES, CLOTHES_COLORS, ALONE) for key in table for w in key.split()}
    | {"hair", "skin", *PEOPLE, *LINKS}
)


def asked_for(prompt: str) -> dict[str, set[str]]:
    """The values that a prompt allows for each attribute it names: {"hair_color": {"RED"}, ...}."""
    asked, adjectives = {}, []
    for word in re.findall(r"[a-z]+", prompt.lower()):
        if word in ALONE:
            attribute, values = ALONE[word]
            asked[attribute] = values
        elif word == "hair":
            _take(asked, "hair_color", HAIR_COLORS, adjectives)
            _take(asked, "hair", HAIR, adjectives)
        elif word == "skin":
            _take(asked, "skin", SKIN, adjectives)
        elif word in CLOTHES:
            asked["clothing"] = CLOTHES[word]
            _take(asked, "clothing_color", CLOTHES_COLORS, adjectives)
        elif word not in LINKS and word not in PEOPLE:
            adjectives.append(word)
            continue
        if word not in ("a", "an", "the"):
            adjectives = []
    return asked


def _take(asked: dict, attribute: str, table: Mapping, adjectives: list[str]) -> None:
    words = " ".join(adjectives)
    for key in sorted(table, key=len, reverse=True):  # dark brown before brown
        if re.search(rf"\b{key}\b", words):
            asked[attribute] = table[key]
            return


def caption(attributes: Mapping[str, str], rng: np.random.Generator, keep: float = 0.6) -> str:
    """A sentence about a face. An attribute with a word is named with probability `keep`, in one of several ways."""

    def with_noun(table: Mapping, attribute: str) -> list[str]:
        known = [key for key, values in table.items() if attributes[attribute] in values]
        return known[:1] if known and rng.random() < keep else []

    def without_noun(attribute: str) -> list[str]:
        known = [w for w, (a, values) in ALONE.items() if a == attribute and attributes[attribute] in values]
        return known[:1] if known and rng.random() < keep else []

    hair = with_noun(HAIR, "hair") + with_noun(HAIR_COLORS, "hair_color")
    skin, mouth = with_noun(SKIN, "skin"), without_noun("mouth")
    facial, accessory, clothes = without_noun("facial_hair"), without_noun("accessory"), with_noun(CLOTHES, "clothing")
    color = with_noun(CLOTHES_COLORS, "clothing_color") if clothes and clothes[0] in COLORED else []
    things = [" ".join([*hair, "hair"])] if hair else []
    things += [" ".join([*skin, "skin"])] if skin else []
    things += [("a " if w in ("beard", "moustache") else "") + w for w in facial if w != "beardless"]
    things += [("an " if w == "eyepatch" else "") + w for w in accessory]
    things = [things[i] for i in rng.permutation(len(things))]
    before = mouth + (["beardless"] if facial == ["beardless"] else [])
    subject = (
        " ".join(["a", *before, str(rng.choice(PEOPLE))]) if rng.random() < 0.8 else " ".join([*before, "someone"])
    )
    return _sentence(subject, things, " ".join(["a", *color, *clothes]) if clothes else "", rng)


def _sentence(subject: str, things: list[str], clothes: str, rng: np.random.Generator) -> str:
    link = str(rng.choice(["with", "who has"]))
    parts = [subject] + ([link, " and ".join(things)] if things else [])
    if clothes:
        parts += [str(rng.choice(["wearing", "in", "and"])) if things else "wearing", clothes]
    return " ".join(parts)
