"""Phrases in two languages from CLDR, the Unicode locale data in the Babel package.

Dates, times, "in 2 years", units, money, numbers, and names of countries, languages and currencies,
alone and in lists. Rules make them, and they are drawn at random. They are not a natural corpus,
and scores on them do not tell how well a model translates prose. But they make a task of real
words, with word order, agreement and plurals, without any file or network.
"""

from __future__ import annotations

import datetime
import random
import zlib
from collections.abc import Callable, Mapping
from typing import Final, Literal

from babel import Locale, UnknownLocaleError, dates, lists, localedata, numbers, units

__all__ = ["locale_of", "phrases"]

Phrase = Callable[[Locale], str | None]

#: One text in this many goes to validation, and one to the test.
SHARES: Final = 20

UNITS: Final = tuple(
    f"{kind}-{name}"
    for kind, names in {
        "acceleration": "g-force",
        "angle": "degree",
        "area": "acre hectare square-centimeter square-foot square-kilometer square-meter square- "
        "mile",
        "consumption": "liter-per-100-kilometer",
        "concentr": "karat",
        "digital": "bit byte gigabyte kilobyte megabyte terabyte",
        "duration": "century day hour microsecond millisecond minute month nanosecond second week "
        "year",
        "electric": "ampere ohm volt",
        "energy": "calorie joule kilocalorie kilojoule kilowatt-hour",
        "frequency": "gigahertz hertz kilohertz megahertz",
        "length": "centimeter decimeter foot inch kilometer light-year meter mile millimeter "
        "nanometer nautical-mile yard",
        "light": "lux",
        "mass": "carat gram kilogram microgram milligram ounce pound stone tonne",
        "power": "gigawatt horsepower kilowatt megawatt watt",
        "pressure": "hectopascal millibar",
        "speed": "kilometer-per-hour knot meter-per-second mile-per-hour",
        "temperature": "celsius fahrenheit",
        "volume": "centiliter cubic-kilometer cubic-meter cup deciliter gallon hectoliter liter "
        "milliliter pint quart tablespoon teaspoon",
    }.items()
    for name in names.split()
)
COMPOUNDS: Final = (
    ("length-kilometer", "duration-hour"),
    ("length-meter", "duration-second"),
    ("length-mile", "duration-hour"),
    ("mass-gram", "volume-liter"),
    ("mass-kilogram", "volume-cubic-meter"),
    ("volume-liter", "duration-minute"),
    ("digital-megabyte", "duration-second"),
    ("energy-kilowatt-hour", "duration-year"),
)
DURATIONS: Final = ("year", "month", "week", "day", "hour", "minute", "second")
CURRENCIES: Final = (
    "AUD BRL CAD CHF CNY CZK DKK EGP EUR GBP HKD HUF IDR ILS INR ISK JPY KRW MAD MXN NOK NZD PEN "
    "PLN RON RSD RUB SAR SEK SGD THB TND TRY TWD UAH USD VND ZAR"
)
SKELETONS: Final = ("yMMMM", "MMMMd", "MMMd", "yMMMEd", "MMMEd", "yQQQQ", "yw", "MMMMW", "Ed")
INTERVALS: Final = ("yMMMd", "yMMMEd", "MMMd", "yMMM", "MMMEd", "yMMMM")
#: Special spaces that CLDR puts into numbers, before units and between dates.
SPACES: Final = str.maketrans(dict.fromkeys("\N{NO-BREAK SPACE}\u202f\N{THIN SPACE}", " "))


def locale_of(language: str) -> Locale:
    """The locale of a language, such as ``en``, ``pt_BR`` or ``zh-Hant``.

    Raises:
        ValueError: CLDR has no such language.
    """
    # Babel's locales share the data that they inherit, and cache lookups in it: a name that one
    # locale lacks could come from another one used before. So each gets data of its own.
    getattr(localedata, "_cache", {}).clear()
    try:
        locale = Locale.parse(language.replace("-", "_"))
        _ = locale.days  # reads the data
        return locale
    except (UnknownLocaleError, ValueError, TypeError) as error:
        raise ValueError(
            "a language must be one that CLDR knows, such as en, fr, pt_BR or zh_Hant "
            "(babel.localedata.locale_identifiers() names them all); "
            f"got {language!r}"
        ) from error


def phrases(
    source: str, target: str, sizes: Mapping[str, int], seed: int
) -> dict[str, list[tuple[str, str]]]:
    """Draw pairs of phrases, and divide them into splits.

    No text comes twice, neither as source nor as target: no text of a test is in training, and each
    source has one translation. The source text alone decides the split of a pair, so that a text
    held out with one seed and size is held out with all. Pairs of two equal texts are left out.
    No-break and thin spaces become plain spaces.

    Args:
        source: language to translate from.
        target: language to translate into.
        sizes: number of pairs of ``train``, ``val`` and ``test``.
        seed: seed of the draws.

    Returns:
        Pairs of each split, in the order in which they were drawn.

    Raises:
        ValueError: CLDR has no such language, or too few phrases in it.
    """
    locales = locale_of(source), locale_of(target)
    draw = _Drawing(*locales, random.Random(seed))
    found: dict[str, list[tuple[str, str]]] = {split: [] for split in sizes}
    seen: tuple[set[str], set[str]] = set(), set()
    # A bound on the draws, for languages with too few phrases. The rarest split gets one pair in
    # SHARES, and most draws are new.
    tries = 1000 + 4 * SHARES * max(sizes.values()) + 4 * sum(sizes.values())
    for _ in range(tries):
        if all(len(found[split]) >= size for split, size in sizes.items()):
            return found
        pair = draw.pair()
        if pair is None or pair[0] == pair[1] or any(map(set.__contains__, seen, pair)):
            continue
        for texts, text in zip(seen, pair, strict=True):
            texts.add(text)
        split = {0: "test", 1: "val"}.get(zlib.crc32(pair[0].encode()) % SHARES, "train")
        if len(found[split]) < sizes[split]:
            found[split].append(pair)
    raise ValueError(
        f"CLDR has too few phrases from {source} to {target}: expected "
        + ", ".join(f"{size} for {split}" for split, size in sizes.items())
        + "; got "
        + ", ".join(str(len(pairs)) for pairs in found.values())
    )


class _Drawing:
    """Draws phrases that exist in two locales.

    Each method of a kind of phrase draws its numbers and names, and returns a function that writes
    the phrase in a locale.
    """

    def __init__(self, source: Locale, target: Locale, chance: random.Random) -> None:
        self.locales = source, target
        self.chance = chance
        kinds = ("territories", "languages", "scripts", "currencies")
        names = {kind: self._both(kind) for kind in kinds}
        #: For each kind, the keys with a name in both languages; kinds with few names are left out.
        self.names = {kind: keys for kind, keys in names.items() if len(keys) >= 4}
        self.makers: tuple[Callable[[], Phrase], ...] = (
            self.date,
            self.part_of_date,
            self.interval,
            self.relative_time,
            self.unit,
            self.units_together,
            self.money,
            self.number,
            self.list_of_days,
            *((self.name, self.list_of_names, self.list_of_names) if self.names else ()),
        )

    def _both(self, names: str) -> list[str]:
        """Keys with a name in both locales, in a fixed order."""
        known = [getattr(locale, names) for locale in self.locales]
        return sorted(
            key for key in known[0] if key in known[1] and all(table[key] != key for table in known)
        )

    def pair(self) -> tuple[str, str] | None:
        """A phrase in both languages; ``None`` if CLDR lacks it in one of them."""
        phrase = self.chance.choice(self.makers)()
        texts = []
        for locale in self.locales:
            try:
                text = phrase(locale)
            except (LookupError, ValueError, AttributeError):  # CLDR lacks it in this language
                return None
            if text is None:
                return None
            texts.append(" ".join(text.translate(SPACES).split()))
        return (texts[0], texts[1]) if all(texts) else None

    def day(self) -> datetime.datetime:
        """A minute between 1950 and 2049."""
        minutes = self.chance.randrange(100 * 365 * 24 * 60)
        return datetime.datetime(1950, 1, 1) + datetime.timedelta(minutes=minutes)

    def amount(self) -> float:
        """A number: small and whole, large and whole, or with decimals."""
        kind = self.chance.randrange(4)
        if kind == 0:
            return self.chance.randrange(1, 21)
        if kind == 1:
            return self.chance.randrange(1, 1000)
        if kind == 2:
            return self.chance.randrange(1000, 100_000)
        return self.chance.randrange(1, 10_000) / 10

    def date(self) -> Phrase:
        """Tuesday, March 4, 2014, with or without the time."""
        styles: tuple[Literal["full", "long", "medium"], ...] = ("full", "long", "medium")
        day, style = self.day(), self.chance.choice(styles)
        if self.chance.randrange(3):
            return lambda locale: dates.format_date(day, style, locale)
        return lambda locale: (
            str(dates.get_datetime_format(style, locale))
            .replace("'", "")
            .replace("{0}", dates.format_time(day, "short", locale=locale))
            .replace("{1}", dates.format_date(day, style, locale))
        )

    def part_of_date(self) -> Phrase:
        """March 2014; 1st quarter 2014; week 2 of March."""
        day, skeleton = self.day(), self.chance.choice(SKELETONS)
        return lambda locale: dates.format_skeleton(skeleton, day, locale=locale)

    def interval(self) -> Phrase:
        """Mar 4 – Apr 13, 2014."""
        start, skeleton = self.day().date(), self.chance.choice(INTERVALS)
        end = start + datetime.timedelta(days=self.chance.randrange(1, 200))
        return lambda locale: dates.format_interval(start, end, skeleton, locale=locale)

    def relative_time(self) -> Phrase:
        """In 2 years; 5 weeks ago; 3 hours."""
        unit, number = self.chance.choice(DURATIONS), self.chance.randrange(1, 100)
        sign, direction = self.chance.choice(((1, True), (-1, True), (1, False)))
        seconds = dict(dates.TIMEDELTA_UNITS)[unit]
        return lambda locale: dates.format_timedelta(
            sign * number * seconds,
            granularity=unit,  # type: ignore[arg-type]  # it is one of them
            threshold=10**9,  # no larger unit in its place
            add_direction=direction,
            locale=locale,
        )

    def unit(self) -> Phrase:
        """3.5 kilometers; 150 kilometers per hour."""
        amount = self.amount()
        if self.chance.randrange(5):
            unit = self.chance.choice(UNITS)
            return lambda locale: _unit(amount, unit, locale)
        unit, per = self.chance.choice(COMPOUNDS)
        return lambda locale: _known(
            units.format_compound_unit(amount, unit, denominator_unit=per, locale=locale), unit, per
        )

    def units_together(self) -> Phrase:
        """3 hours, 5 minutes."""
        first = self.chance.randrange(len(DURATIONS) - 1)
        count = self.chance.randrange(2, 4)
        parts = [
            (self.chance.randrange(1, 60), f"duration-{name}")
            for name in DURATIONS[first : first + count]
        ]
        return lambda locale: lists.format_list(
            [_unit(number, unit, locale) for number, unit in parts],
            "unit",
            locale,
        )

    def money(self) -> Phrase:
        """1,234.50 US dollars; €12.00."""
        amount, currency = self.amount(), self.chance.choice(CURRENCIES.split())
        style = self.chance.choice(("name", "name", "standard"))
        return lambda locale: numbers.format_currency(
            amount,
            currency,
            locale=locale,
            format_type=style,  # type: ignore[arg-type]  # it is one of them
        )

    def number(self) -> Phrase:
        """12.3 million; 12.5%; 1,234,567.8."""
        kind, number = self.chance.randrange(3), self.chance.randrange(1, 10_000)
        if kind == 0:
            scale = 10 ** self.chance.randrange(10)
            return lambda locale: numbers.format_compact_decimal(
                number * scale, format_type="long", locale=locale, fraction_digits=1
            )
        if kind == 1:
            return lambda locale: numbers.format_percent(
                number / 1000, locale=locale, decimal_quantization=False
            )
        value = self.chance.randrange(10**8) / 10 ** self.chance.randrange(4)
        return lambda locale: numbers.format_decimal(value, locale=locale)

    def name(self) -> Phrase:
        """France; Old French; Greek; Swiss Franc; French (Canada)."""
        if self.chance.randrange(3) == 0 and {"languages", "territories"} <= self.names.keys():
            language = self.chance.choice(self.names["languages"])
            territory = self.chance.choice(self.names["territories"])
            return lambda locale: f"{locale.languages[language]} ({locale.territories[territory]})"
        kind, keys = self.chance.choice(list(self.names.items()))
        key = self.chance.choice(keys)
        return lambda locale: getattr(locale, kind)[key]

    def list_of_names(self) -> Phrase:
        """France, Greece, and Italy; Swiss Franc or Turkish Lira."""
        kind, keys = self.chance.choice(list(self.names.items()))
        chosen = self.chance.sample(keys, self.chance.randrange(2, 5))
        style = self.chance.choice(("standard", "standard", "or"))
        return lambda locale: lists.format_list(
            [getattr(locale, kind)[key] for key in chosen],
            style,  # type: ignore[arg-type]  # it is one of them
            locale,
        )

    def list_of_days(self) -> Phrase:
        """Monday, Tuesday or Friday; March and April."""
        names, count = self.chance.choice((("days", 7), ("months", 12)))
        first = 0 if names == "days" else 1
        chosen = self.chance.sample(range(first, first + count), self.chance.randrange(1, 5))
        style = self.chance.choice(("standard", "or"))
        return lambda locale: lists.format_list(
            [getattr(locale, names)["stand-alone"]["wide"][key] for key in chosen],
            style,  # type: ignore[arg-type]  # it is one of them
            locale,
        )


def _unit(amount: float, unit: str, locale: Locale) -> str:
    return _known(units.format_unit(amount, unit, locale=locale), unit)


def _known(text: str | None, *units_in_it: str) -> str:
    """Return a text with units, or raise LookupError if Babel wrote a unit's code for a name."""
    if text is None or any(unit in text for unit in units_in_it):
        raise LookupError(units_in_it)
    return text
