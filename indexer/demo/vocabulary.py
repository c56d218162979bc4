"""What the generated shop sells: kinds of product, their names, and the words their titles are made of."""

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of product: its place in the taxonomy and what shoppers call it."""

    department: str
    leaf: str
    names: tuple[str, ...]
    """All mean the same. The first stands in most titles; the second shares no word with it that sets kinds apart."""


KINDS: tuple[Kind, ...] = (
    Kind("Furniture", "Sofas", ("sofa", "couch")),
    Kind("Furniture", "Wardrobes", ("wardrobe", "armoire")),
    Kind("Furniture", "Desks", ("desk", "workstation")),
    Kind("Furniture", "Coffee Tables", ("coffee table",)),
    Kind("Kitchen", "Coffee Makers", ("coffee maker", "espresso machine")),
    Kind("Kitchen", "Frying Pans", ("frying pan", "skillet")),
    Kind("Kitchen", "Water Bottles", ("water bottle", "drinking flask")),
    Kind("Kitchen", "Bottle Openers", ("bottle opener", "corkscrew")),
    Kind("Kitchen", "Waste Bins", ("trash can", "garbage bin")),
    Kind("Baby", "Sippy Cups", ("baby sipper", "toddler training cup")),
    Kind("Baby", "Strollers", ("stroller", "pram")),
    Kind("Baby", "Cribs", ("crib", "infant bed")),
    Kind("Baby", "Pacifiers", ("pacifier", "soother")),
    Kind("Baby", "Diapers", ("diapers", "nappies")),
    Kind("Shoes", "Sneakers", ("sneakers", "running trainers")),
    Kind("Shoes", "Slippers", ("slippers", "house shoes")),
    Kind("Clothing", "Sweaters", ("sweater", "pullover")),
    Kind("Clothing", "Trousers", ("trousers", "pants")),
    Kind("Clothing", "Bathrobes", ("bathrobe", "dressing gown")),
    Kind("Clothing", "Swimwear", ("swimsuit", "bathing costume")),
    Kind("Electronics", "Phone Cases", ("phone case", "mobile cover")),
    Kind("Electronics", "Phone Chargers", ("phone charger", "usb power adapter")),
    Kind("Electronics", "Headphones", ("headphones", "earbuds")),
    Kind("Electronics", "Televisions", ("television", "tv set")),
    Kind("Electronics", "Laptops", ("laptop", "notebook computer")),
    Kind("Electronics", "Laptop Bags", ("laptop bag", "computer sleeve")),
    Kind("Garden", "Lawn Mowers", ("lawn mower", "grass cutter")),
    Kind("Garden", "Garden Hoses", ("garden hose", "watering pipe")),
    Kind("Garden", "Grills", ("barbecue", "outdoor grill")),
    Kind("Pets", "Dog Beds", ("dog bed", "puppy cushion")),
    Kind("Pets", "Dog Food", ("dog food", "canine kibble")),
    Kind("Pets", "Cat Litter", ("cat litter", "kitty sand")),
    Kind("Tools", "Flashlights", ("flashlight", "torch")),
    Kind("Tools", "Wrenches", ("wrench", "spanner")),
    Kind("Tools", "Nail Guns", ("nail gun",)),
    Kind("Tools", "Jigsaws", ("jigsaw tool",)),
    Kind("Beauty", "Nail Polish", ("nail polish", "varnish")),
    Kind("Beauty", "Hair Dryers", ("hair dryer", "blow drier")),
    Kind("Toys", "Puzzles", ("jigsaw puzzle",)),
    Kind("Toys", "Stuffed Animals", ("teddy bear", "plush toy")),
    Kind("Sports", "Dumbbells", ("dumbbells", "hand weights")),
    Kind("Sports", "Yoga Mats", ("yoga mat", "exercise rug")),
)

PURPOSES: tuple[tuple[str, str], ...] = (
    ("kids", "children's"),
    ("office", "workplace"),
    ("outdoor", "patio"),
    ("travel", "holiday"),
    ("gaming", "esports"),
    ("vintage", "retro"),
    ("luxury", "designer"),
    ("camping", "hiking"),
    ("wedding", "bridal"),
    ("medical", "hospital"),
    ("christmas", "xmas"),
    ("student", "dorm"),
)
"""What products can be for, in two words each. A sofa for children is another kind than one for the office."""

LOOK_ALIKES: tuple[tuple[str, str], ...] = (
    ("coffee maker", "coffee table"),
    ("bottle opener", "water bottle"),
    ("phone case", "phone charger"),
    ("laptop", "laptop bag"),
    ("dog bed", "dog food"),
    ("nail gun", "nail polish"),
    ("jigsaw puzzle", "jigsaw tool"),
)
"""Pairs of names that share a word and mean different things."""

TYPOS: dict[str, str] = {
    "sofa": "soffa",
    "wardrobe": "wardrob",
    "stroller": "strolller",
    "sneakers": "sneekers",
    "headphones": "hedphones",
    "flashlight": "flashligth",
    "dumbbells": "dumbells",
    "swimsuit": "swimsiut",
}
"""Names and how shoppers misspell them."""

COLORS = ("red", "blue", "black", "white", "green", "grey", "pink", "yellow")
FEATURES = ("foldable", "compact", "premium", "classic", "lightweight", "heavy duty", "soft", "portable")
BRANDS = ("Acmera", "Bolvik", "Cerano", "Dunwell", "Elvaro", "Fenbrook", "Galtori", "Hexley", "Ivonne", "Juniva")
SIZES = ("small", "medium", "large", "family size", "twin pack")


def make_kinds(purposes: int) -> tuple[Kind, ...]:
    """Return all kinds, and each of them for each of the first purposes: a leaf of its own, with four names or two."""
    made = [
        Kind(kind.department, f"{purpose[0].capitalize()} {kind.leaf}", _cross_names(purpose, kind.names))
        for purpose in PURPOSES[:purposes]
        for kind in KINDS
    ]
    return (*KINDS, *made)


def _cross_names(purpose: tuple[str, str], names: tuple[str, ...]) -> tuple[str, ...]:
    first, second = names[0], names[-1]
    crossed = (f"{purpose[0]} {first}", f"{purpose[1]} {second}", f"{purpose[0]} {second}", f"{purpose[1]} {first}")
    return tuple(dict.fromkeys(crossed))
