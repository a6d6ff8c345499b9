"""The words of the ad world: everything its texts are made of, all lower case, one token each."""

from __future__ import annotations

# industry → sector → topics. A smaller tree takes the first entries of each level.
TREE: dict[str, dict[str, tuple[str, str, str]]] = {
    "fashion": {
        "footwear": ("sneakers", "boots", "sandals"),
        "clothing": ("jackets", "dresses", "jeans"),
        "bags": ("backpacks", "handbags", "wallets"),
        "jewellery": ("watches", "rings", "necklaces"),
    },
    "electronics": {
        "mobile": ("smartphones", "chargers", "earbuds"),
        "computing": ("laptops", "keyboards", "monitors"),
        "photography": ("cameras", "tripods", "drones"),
        "audio": ("speakers", "headphones", "turntables"),
    },
    "home": {
        "kitchen": ("cookware", "blenders", "knives"),
        "furniture": ("sofas", "desks", "lamps"),
        "bedroom": ("mattresses", "pillows", "blankets"),
        "garden": ("planters", "mowers", "grills"),
    },
    "sports": {
        "fitness": ("dumbbells", "treadmills", "mats"),
        "cycling": ("bicycles", "helmets", "saddles"),
        "outdoor": ("tents", "kayaks", "lanterns"),
        "racket": ("tennis", "badminton", "squash"),
    },
    "beauty": {
        "skincare": ("serums", "sunscreens", "masks"),
        "makeup": ("lipsticks", "mascaras", "palettes"),
        "haircare": ("shampoos", "dryers", "trimmers"),
        "fragrance": ("perfumes", "candles", "diffusers"),
    },
    "food": {
        "drinks": ("coffee", "tea", "juices"),
        "snacks": ("chocolate", "nuts", "crisps"),
        "pantry": ("pasta", "spices", "oils"),
        "fresh": ("cheese", "fruit", "bakery"),
    },
    "travel": {
        "transport": ("flights", "trains", "rentals"),
        "lodging": ("hotels", "hostels", "cabins"),
        "tours": ("cruises", "safaris", "hikes"),
        "luggage": ("suitcases", "duffels", "pouches"),
    },
    "leisure": {
        "gaming": ("consoles", "puzzles", "boardgames"),
        "reading": ("novels", "comics", "magazines"),
        "music": ("guitars", "pianos", "drums"),
        "courses": ("languages", "painting", "coding"),
    },
}

# One word per direction of the taste space.
STYLES = ("classic", "bold", "minimal", "playful", "rugged", "elegant", "vivid", "cosy")
PRICE_BANDS = ("low", "mid", "high")
BRAND_TIERS = ("new", "known")
AUDIENCES = ("all", "women", "men")  # whom the ad says it addresses
SELLING_POINTS = ("durable", "fast", "organic", "discounted", "handmade", "guaranteed")  # written in the ad
FORMATS = ("feed", "video", "search")

# Hidden: no raw text holds these words; the summary of an ad does.
PERSONAS = ("students", "parents", "athletes", "travellers", "gamers", "gardeners", "cooks", "creators")
APPEALS = ("comfort", "status", "savings", "novelty", "safety", "convenience")

GENDERS = ("woman", "man")
AGE_BANDS = ("18-24", "25-34", "35-44", "45+")
PRICE_SENSITIVITY = ("spends", "balances", "saves")
REGIONS = ("north", "south", "east", "west")

BRANDS = (
    "atlas", "nova", "orion", "lumen", "cedar", "harbor", "willow", "ember", "quartz", "falcon", "maple", "zephyr",
    "onyx", "river", "summit", "coral", "aspen", "delta", "ivory", "juniper", "kestrel", "lotus", "meridian", "nimbus",
    "opal", "pioneer", "raven", "sable", "terra", "umber", "vista", "wren", "yarrow", "zenith", "birch", "cobalt",
    "drift", "echo", "fjord", "glacier",
)  # fmt: skip
SEASONS = ("spring", "summer", "autumn", "winter")

# The raw text of an ad. Each template names every visible attribute once.
TITLES = ("{brand} {style} {topic}", "{style} {topic} by {brand}", "{brand} : {style} {topic}")
DESCRIPTIONS = (
    "{style} {topic} from {brand} , {selling_point} , for {audience} , {price} price , {tier} brand .",
    "a {tier} brand shows {topic} for {audience} . {selling_point} and {style} , at a {price} price .",
    "{price} price {topic} for {audience} . {selling_point} . {style} look . {tier} brand {brand} .",
)
# What somebody who understood the ad would add.
SUMMARY = "an ad for {topic} in {sector} , {industry} , that speaks to {persona} and promises {appeal} ."
PROFILE = "{gender} , {age} , {price} , likes {selling_point} things ."
