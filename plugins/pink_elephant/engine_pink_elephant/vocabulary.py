"""The words that the mention detector knows: what its rules of English miss."""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _list(words: str) -> tuple[str, ...]:
    return tuple(words.split())


COMMON = _set(
    "apple arm atlantic band beat bear bee bird blade book boot bull bud card car cat cell chip"
    " clash crown cub cure custom dart deal dollar dolphin door dot eagle economist eye friend"
    " game gap giant glass good guardian heart independent jet key killer kind king kink lion"
    " living mean met mirror moment nation need new nerd net office page panther part paper"
    " patriot pirate pixel plain police prime queen raider rain ram ranger ray record red rocket"
    " root saint scout sense short sign sim slack smith snicker sound spectator spirit sport"
    " spur square star step stone strip sun suit sweet sweat telegraph thing tide tiger time"
    " trunk twin van voice war warrior wave west wing wire witcher wolf word work world window"
    " verge boss rolling"
)
"""Words that a name is not shortened to: Windows is not named by `window`."""

ALONE = _set(
    "news species series customs arms shorts slacks trunks glasses sweets means mars texas"
    " paris athens vegas dallas james thomas christmas lens gas pass jeans pants tights"
    " mathematics physics economics politics gymnastics athletics ethics classics chess tennis"
    " always perhaps its his this thus us plus bias canvas philips williams adams hermes jacobs"
    " roberts harris travis pilates atlas alias yes iris oasis basis adidas asus lotus corps"
    " premises proceeds remains thanks odds goods dress less"
)
"""Words in s that are plurals only, or no plurals at all."""

OPAQUE = _set(
    "box bowl fence train fast row park light date ice dress stuff season cloth wind ring bank"
    " ship fish wrap found meet shop coast trap bear rap cater sound roof floor squash curl log"
    " stock catch tile plan house land lightn bed gift pitch hear feel mean set put bright spar"
    " race pack record ground till cup"
)
"""Verbs of activities that mostly mean something else: `box`, `bowl`."""

SPORTS = _set("bowl fence fish row curl")
"""Those of them whose past is that of the activity."""

NO_VERB = _set(
    "spring string thing king ring wing sting pudding ceiling evening morning duckling sibling"
    " sterling viking lightning wedding clothing bring offspring stocking darling dumpling"
    " earring nothing something anything everything building herring awning being shilling"
    " inning"
)
"""Words in `ing` that no verb makes."""

ACTIVITIES = _set(
    "golf surf ski swim jog hike bike skate sail kayak canoe snowboard skateboard windsurf"
    " kitesurf snorkel blog vlog podcast dance knit crochet vape skydive scuba rollerblade"
    " longboard wrestle snowshoe paraglide ice-skate tweet google meditate photoshop skype uber"
    " facebook xerox venmo run gamble smoke bake climb walk sing draw paint camp karate"
)
"""Words for activities that are verbs as they are."""

VERBS = _set(
    "nestle target stripe chase ring nest slack zoom signal bolt hinge bumble kindle fire shell"
    " sprint square jump boost express gain bounce snap match discover total shift shield guess"
    " visa gap dove tide crest dawn dash mint notion bench branch converge crush drift edge"
    " engage flip focus link nudge pulse quest reach scout shuffle spring spark sprout surge"
    " swipe swish twist vanish wander wish launch charge"
)
"""Names that are verbs, too: what looks like their forms is the verb's."""

SHORTENED = _set("dr mr mrs ms st mt ft jr sr vs no")
"""Words that a point may end within a name."""

DETERMINERS = _set("the your my his her our their this that these those it them us me")
"""After one of these, the capital word that opens a sentence is a verb."""

AFTER_GO = DETERMINERS | _set(
    "to ahead for back home away on out up down with get and straight see left right through"
    " over into find by off now there outside inside easy big all"
)
"""The same for `Go`."""

PREFIXES = _set("non anti pro ex pre post mid semi self all like fellow")
"""What stands before a hyphen and a name."""

SUFFIXES = _set(
    "based free like style styled flavoured flavored shop shops lover lovers loving drinker"
    " drinkers related made branded owned powered inspired friendly specific only focused"
    " centric sized"
)
"""What stands after a name and a hyphen."""

OTHERS = _set(
    "javascript github gitlab gitbook wordpress wordperfect facebook facetime paypal youtube"
    " mastercard snapchat powerpoint linkedin typescript coffeescript mysql postgresql nosql"
    " airbnb dropbox chatgpt mailchimp soundcloud foursquare salesforce sharepoint bitbucket"
    " notepad photoshop openai deepmind wikipedia pinterest instagram telegram whatsapp"
    " blackberry playstation starbucks doordash grubhub airpods gamestop fedex wechat onedrive"
    " onenote homepod carplay tripadvisor duckduckgo quicktime firefox thunderbird cloudflare"
    " snowflake hubspot zendesk evernote netflix soundbar smartphone headphone watermelon"
)
"""Names that hold another name, and are not its."""

AFFIXES = _set(
    "i we the my our your get buy go try love ilove welove lover lovers loving life time day"
    " team fan fans club shop shops store stores official us uk usa de eu app apps news world hq"
    " help support online shoes style gram addict addicts care best new free not no anti boycott"
    " inc corp co company group global girl girls boy boys gang nation daily now live tech web"
    " js lang motors running football originals studios records games sports music drinks beer"
    " food kitchen cars bank air airlines"
)
"""What stands with a name in hashtags, handles and domains."""

WORDS_IN_CAPITALS = _set(
    "it us who is as at an am be by do go he hi if in me my no of on or so to up we ms mr are"
    " all and any can for has her him his how its may new not now off old one out she the too"
    " was way aids bat cat gap pin ram sad set tip war ace act aid arm art bus cap car dam fed"
    " hub ice map mac mad met mid nap oh ok pop rap rat sat see spa tan tea van vat wto wo oar"
    " ids"
)
"""Initialisms that are words when written small."""

INLINE = _set(
    "a abbr b bdi bdo big code del em font i ins kbd mark s small span strong sub sup tt u wbr"
)
"""HTML tags that part no words."""

NUMBERS = _list(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    " fifteen sixteen seventeen eighteen nineteen twenty"
)
"""The numbers from 0 on."""

MODELS = _set("pro max plus mini ultra slim lite air se ti xl fe promax gb s e x")
"""What may follow a number within a name without a space: iphone15pro."""
