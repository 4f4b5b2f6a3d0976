"""English that nobody has written before: a large vocabulary in many patterns, drawn by a seed.

Two texts share few runs of three words, as two people's do, so that a search for near-duplicates
has what it would have in the wild. German stands by for what must not be English.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

__all__ = ["GERMAN", "NOUNS", "Pattern", "drawn", "pattern", "patterns", "said", "sentence"]

Pattern = tuple[str | tuple[str, ...], ...]

ADJECTIVES = """
airy amber ancient autumnal awkward balanced bare bitter blunt blue bold boxy brisk brittle broad
bronze bulky calm careful cheap chilly chunky clean clear clever clumsy coarse cold compact costly
cosy crisp crooked crowded curly damp dark dense dim dry dull dusty eager early earthy elegant
empty faint fancy fast faded fierce firm flat fluffy foggy formal fragile fresh frosty gentle giant
glossy golden graceful grand green handy hardy hasty heavy hidden hollow honest humble icy idle
jolly juicy keen large late lavish lazy level light little lively local lonely long loose loud
lovely loyal lucky mellow mild misty modest moist muddy narrow neat noisy odd old open orange pale
patient plain polite popular precise pretty proud pure quick quiet rainy rare rich rigid ripe rough
round royal rusty safe salty sandy scarce sharp shiny short silent silver simple sleepy slim slow
smooth snowy soft solid sour spare spicy steady steep stiff still striped strong sturdy subtle
sunny sweet swift tall tame tart tender thick thin tidy tiny tough tricky trusty urban vast velvet
vivid warm weary wet whole wide wild windy wise wooden woolly yellow young
"""
NOUNS = """
anchor apron arch armchair attic awning badge bakery balcony ballad bandage banner barn barrel
basement basket bathtub beacon bedroom bell bench bicycle blanket blossom board boat bonfire book
bookcase boulder bowl bracelet branch bridge broom bucket bulb bundle button cabin cabinet cable
camera candle canvas carpet cart castle cellar chain chair chalk chapel chart chimney clock cloud
coat collar comb compass cookbook corner cottage counter courtyard cradle crate crayon creek curtain
cushion dial diary dinner dish door drawer drum easel elbow engine envelope farm feather fence ferry
field fiddle fireplace flag flame flask flower flute fog folder footpath forest fork fountain frame
funnel garage garden garland gate glove grove guitar gutter hall hammer hammock handle harbour hat
headlamp hedge helmet hill hinge hook hoop inn island jacket jar jigsaw journal jug kettle key
kitchen kite knot label ladder lagoon lake lamp lantern lawn ledge lens letter lid lighthouse loom
magnet mailbox map market mask mat meadow medal melody mill mirror mitten mountain mug napkin
necklace needle nest nook notebook oar oven paddle pail painting pan pantry parade park parcel patch
path pavement pebble pen pencil pendulum picnic picture pier pillow pin pipe pitcher plank plate
platform pocket pond porch postcard poster pot puddle pulley pump puppet puzzle quilt raft rail
rake recipe ribbon ridge river road rocket roof room rope rug saddle sail sandal saucer saw scarf
school screen screw seed shade shed sheet shelf shell shirt shoe shop shovel shutter sink sketch
skirt sled sleeve slipper soap sock sofa song spade spoon spring stable stair stamp statue stool
store stove stream street string suitcase swing table tailor tank tap telescope tent theatre thread
ticket tile timer toaster torch towel tower toy track trail train tray tree trellis trunk tub tunnel
umbrella valley van vase veil veranda vest village violin wagon wall wardrobe watch waterfall well
wheel whistle window workshop wreath wrench yard zipper
"""
VERBS = """
admire adjust arrange balance borrow brighten carry chase check clean climb collect compare cover
deliver discover display drain empty enjoy examine explain explore fasten fill finish fold follow
gather guard handle heat improve inspect join label launch lift loosen manage measure mend mention
notice offer open order pack paint perform pick plant polish pour prepare preserve press print
protect pull push raise recall remember remove rent repair replace rescue restore return review
rinse sample save scatter scrub season select share shift sketch sort spoil stack start store
stretch study supply support surround test tighten touch trade transform trim trust twist unpack
use visit wander warm wash watch water weigh wrap
"""
PEOPLE = """
actors artists aunts bakers barbers boatmen builders butchers carpenters children cleaners clerks
cooks cousins dancers doctors drivers editors farmers fathers firemen fishermen friends gardeners
grandparents guards guests guides hikers hosts lawyers librarians locals mechanics mothers musicians
neighbours nurses painters parents pilots players plumbers poets porters potters sailors scouts
sculptors shepherds singers sisters students tailors teachers tourists uncles visitors waiters
walkers weavers writers
"""
NAMES = """
Ada Agnes Alan Albert Alma Amos Anita Arlo Astrid Basil Beatrice Bruno Carla Cecil Clara Conrad
Cora Cyril Daphne Della Dennis Doris Edgar Edith Elias Elsa Emil Enid Ernest Esther Ezra Fabian
Felix Flora Frances Frieda Gerald Gilda Greta Gustav Hannah Harold Harriet Hazel Hector Helga Henry
Hilda Hugo Ida Igor Ingrid Iris Irma Ivor Jasper Joan Judith Julius Karin Klaus Lars Laura Leo
Lionel Lorna Lucas Lydia Mabel Magda Marcus Martha Maud Miriam Mona Morris Nadia Nelson Nina Nora
Norman Olga Oliver Oscar Otto Paula Percy Petra Philip Quentin Ralph Ramona Rita Robert Rosa Rufus
Ruth Samuel Selma Silas Sofia Stella Sven Theo Thelma Tobias Ursula Vera Victor Vivian Walter Wanda
Wilma Yusuf Yvonne Zelda
"""
PLACES = """
Aberdeen Adelaide Antwerp Bamberg Basel Bergen Bilbao Bologna Bremen Bristol Bruges Calgary Cardiff
Cologne Cordoba Dresden Dublin Dundee Durham Exeter Florence Galway Geneva Genoa Ghent Glasgow
Granada Graz Halifax Hanover Hobart Inverness Kassel Krakow Leeds Leipzig Lisbon Ljubljana Lucerne
Luebeck Lund Lyon Madeira Malaga Malmo Mantua Marburg Melbourne Messina Modena Montreal Munich
Nantes Naples Newport Norwich Odense Oslo Ottawa Oxford Padua Parma Perth Porto Prague Quebec
Ravenna Riga Rouen Salzburg Seville Siena Stockholm Tallinn Toledo Toronto Trieste Tromso Turin
Uppsala Utrecht Valencia Vancouver Verona Vienna Vilnius Warsaw Weimar Wellington York Zagreb
"""
UNITS = "minutes hours days weeks months miles kilometres pounds euros dollars pages steps"
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTHS = "January February March April May June July August September October November December"
MANNERS = """
by hand|with care|at once|for a while|in the end|on the way home|before breakfast|after lunch|in the
evening|at the weekend|without a fuss|as a rule|for the most part|more than once|in the rain|on the
whole|with a smile|in a hurry|all the same|once a year|twice a week|every now and then|from time to
time|at first light|with some luck|over the years|as you would expect|in no time|step by step|for
good
"""


def _past(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeou":
        return verb[:-1] + "ied"
    doubled = {"chat", "drag", "scrub", "trim", "wrap"}
    return verb + verb[-1] * (verb in doubled) + "ed"


def _many(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeou":
        return noun[:-1] + "ies"
    return noun[:-1] + "ves" if noun in ("shelf", "scarf") else noun + "s"


SLOTS: Mapping[str, tuple[str, ...]] = {
    "adj": tuple(ADJECTIVES.split()),
    "noun": tuple(NOUNS.split()),
    "nouns": tuple(map(_many, NOUNS.split())),
    "verb": tuple(VERBS.split()),
    "verbed": tuple(map(_past, VERBS.split())),
    "people": tuple(PEOPLE.split()),
    "name": tuple(NAMES.split()),
    "place": tuple(PLACES.split()),
    "unit": tuple(UNITS.split()),
    "day": tuple(DAYS.split()),
    "month": tuple(MONTHS.split()),
    "manner": tuple(" ".join(manner.split()) for manner in MANNERS.split("|")),
    "number": tuple(str(number) for number in range(2, 100)),
}


def pattern(text: str) -> Pattern:
    """Return a pattern as its parts: words, and what may stand in each `{slot}`."""
    parts = re.split(r"\{(\w+)\}", text)
    return tuple(SLOTS[part] if at % 2 else part for at, part in enumerate(parts) if part)


def drawn(made: Pattern, rng: random.Random) -> str:
    """Return a text of a pattern."""
    draw = rng.random
    return "".join(
        part if isinstance(part, str) else part[int(draw() * len(part))] for part in made
    )


def patterns(text: str) -> Sequence[Pattern]:
    return [pattern(line) for line in text.strip().splitlines()]


_SUBJECTS = patterns(
    """
A {adj} {noun} from {place}
The {adj} {noun} that {name} keeps with the {nouns}
Most of the {people} who are in {place} in {month}
Your {noun}, when it is {adj} enough,
One of my {adj} {nouns}
Even a {adj} {noun} with a {noun} on it
What {name} and the {people} call a {noun}
Any {noun} that is not too {adj}
All of the {nouns} that we have by the {noun}
Our {adj} {noun} of {month}
Half of the {people} here
{name}, who is one of the {people},
Some of these {adj} {nouns}
My {noun} in {place}
The {people} and their {noun}
Each {adj} {noun} in the {noun}
That {noun} of yours
Those {nouns} for the {noun}
"""
)
_PREDICATES = patterns(
    """
would {verb} the {noun} in {number} {unit}
could {verb} a {adj} {noun} {manner}
never {verbed} more than {number} {nouns}
{verbed} my {noun} and your {noun}
took {number} {unit} to {verb} the {adj} {noun}
might {verb} it for you on {day}
{verbed} what the {people} had in the {noun}
will {verb} a {noun} or {verb} one {manner}
had to {verb} the {nouns} of {place}
can {verb} {number} {nouns}, and some of them {manner}
did not {verb} the {noun} at all
should {verb} well with {adj} {nouns}
only {verbed} the {noun} when it was {adj}
{verbed} us {manner} with a {noun}
may {verb} how {adj} the {noun} is
used to {verb} {nouns} for the {people} of {place}
"""
)
_ENDS = patterns(
    """
, which is {adj} for a {noun}
, so you can {verb} it {manner}
 because the {noun} was {adj}
 and then {verbed} the {nouns}
, but not on a {adj} {day}
 as soon as the {people} {verbed} it
, if I may {verb} {name} on that
 for {number} {unit} in {month}
, and {name} knows why
 before it gets too {adj} in the {noun}
 while we {verbed} {manner}
, and that is {adj} of them
 from the {noun} up to the {noun}
 with all the {adj} {people} of {place}
, or so {name} says

.
"""
)
_USERS = patterns(
    """
I {verbed} a {adj} {noun} with {name} on {day}, and now I want to {verb} it
My {people} are in {place} for {number} {unit}, so I have to {verb} the {noun}
We had a {adj} {noun} in {month}, but it did not {verb} the {nouns}
{name} says that it is {adj} to {verb} a {noun} {manner}
There is a {adj} {noun} in my {noun} that I could {verb} for you
I would like to {verb} some {nouns} before {day}, and I am not {adj}
It was {adj} of {name} to {verb} the {noun} for us
You know, the {nouns} in {place} are too {adj} for me
I only have {number} {unit} to {verb} all of the {adj} {nouns}
In {place} they {verb} the {noun} {manner}, and I like how {adj} it is
When I was with the {people}, we {verbed} a {noun} of {number} {unit}
That is good to know, as my {noun} is {adj} and has {number} {nouns}
What I need is a {noun} that can {verb} {number} {adj} {nouns}
Thanks, I will {verb} the {noun} {manner} and see if it is {adj}
"""
)


def said(rng: random.Random, count: int, *, user: bool = False) -> list[str]:
    """Return sentences that name nothing, each of other patterns; a `user`'s are of the speaker."""
    if user:
        return [drawn(one, rng) + "." for one in rng.sample(_USERS, count)]
    parts = zip(*(rng.sample(some, count) for some in (_SUBJECTS, _PREDICATES, _ENDS)), strict=True)
    made = ("".join((drawn(a, rng), " ", drawn(b, rng), drawn(c, rng))) for a, b, c in parts)
    return [one if one.endswith(".") else one + "." for one in made]


def sentence(rng: random.Random, *, user: bool = False) -> str:
    """Return one sentence of that kind."""
    return said(rng, 1, user=user)[0]


GERMAN = (
    "Der alte Leuchtturm steht seit vielen Jahren am Hafen und gehört keinem Menschen.",
    "Morgens gehen wir gern mit unserem Hund durch den verschneiten Wald spazieren.",
    "Meine Nachbarin hat gestern frische Brötchen und einen großen Kuchen gebacken.",
    "Vielleicht sollten wir lieber den früheren Zug nehmen, damit niemand warten muss.",
    "Die Kinder spielen hinter dem Haus, während ihre Eltern das Abendessen kochen.",
    "Auf dem Markt gibt es heute reife Birnen, dunkles Brot und würzigen Käse.",
    "Unser Lehrer erklärte uns geduldig, warum der Mond seine Gestalt verändert.",
    "Nach dem Gewitter roch der Garten wunderbar nach feuchter Erde und Flieder.",
    "Ich habe meinen Schlüssel verloren und musste deshalb beim Hausmeister klingeln.",
    "Zwischen den Bergen liegt ein kleines Dorf, dessen Kirche aus Holz gebaut wurde.",
    "Er schreibt jeden Abend einen langen Brief, den er danach wieder zerreißt.",
    "Das Fahrrad braucht dringend neue Bremsen, sonst wird es bald gefährlich.",
)
