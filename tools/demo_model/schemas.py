"""Schema pairs in the manner of Winograd: two candidates, one word that decides.

Each family has two roles, nouns for each, pairs of deciding words (the first points at `x`, the second at `y`), and
frames. The frames are the templates: every fourth is held out.
"""

from __future__ import annotations

from dataclasses import dataclass

from grammar import Pool, pool, words


@dataclass(frozen=True)
class Family:
    key: str
    x: tuple[str, ...]
    y: tuple[str, ...]
    frames: Pool
    deciding: tuple[tuple[str, str], ...]
    """Predicates of "it was …": of x, of y."""


GOODS = words("battery radio server rectifier generator heater router antenna amplifier toolbox ladder drum")
ROOMS = words("cabinet shelter van box crate rack locker container lift trailer")
MACHINES = words("server router radio amplifier rectifier node modem camera repeater switch")
SOURCES = words("battery generator charger panel converter supply")
LOADS = words("heater radio amplifier server pump compressor lamp motor")
OBSTACLES = words("wall hill roof forest tower shed bridge barn")

FAMILIES = (
    Family(
        "fit",
        GOODS,
        ROOMS,
        pool(
            "The {x} did not fit into the {y} because it was {w}.",
            "The {x} could not be put into the {y} because it was {w}.",
            "We could not get the {x} into the {y} since it was {w}.",
            "The {x} would not go into the {y} as it was {w}.",
            "There was no way to push the {x} into the {y}, it was {w}.",
        ),
        (("too large", "too small"), ("too wide", "too narrow"), ("too big", "too little")),
    ),
    Family(
        "hold",
        GOODS,
        words("shelf bracket rope hook table pallet frame chain"),
        pool(
            "We could not put the {x} on the {y} because it was {w}.",
            "The {x} did not stay on the {y} because it was {w}.",
            "The {x} came down from the {y} since it was {w}.",
            "The {x} could not be left on the {y} as it was {w}.",
            "We took the {x} off the {y} because it was {w}.",
        ),
        (("too heavy", "too weak"), ("too massive", "broken"), ("too heavy", "cracked")),
    ),
    Family(
        "feed",
        SOURCES,
        LOADS,
        pool(
            "The {x} could not feed the {y} because it was {w}.",
            "The {x} did not run the {y} for long because it was {w}.",
            "The {x} could not power the {y} since it was {w}.",
            "The {x} was no match for the {y} as it was {w}.",
            "We did not use the {x} for the {y} because it was {w}.",
        ),
        (("empty", "too hungry"), ("too weak", "too strong"), ("discharged", "overloaded")),
    ),
    Family(
        "cool",
        words("fan blower cooler vent chiller"),
        MACHINES,
        pool(
            "The {x} could not cool the {y} because it was {w}.",
            "The {x} did not keep the {y} cool since it was {w}.",
            "The {x} did not help the {y} much because it was {w}.",
            "The {x} could do little for the {y} as it was {w}.",
        ),
        (("too slow", "too hot"), ("clogged", "overheated"), ("jammed", "burning")),
    ),
    Family(
        "reach",
        words("cable hose ladder rope cord wire"),
        words("rack roof socket antenna door mast tank panel"),
        pool(
            "The {x} did not reach the {y} because it was {w}.",
            "We could not bring the {x} to the {y} because it was {w}.",
            "The {x} did not go up to the {y} since it was {w}.",
            "The {x} never got to the {y} as it was {w}.",
        ),
        (("too short", "too far away"), ("cut off", "too distant"), ("tangled", "out of reach")),
    ),
    Family(
        "block",
        OBSTACLES,
        words("beam signal transmitter antenna dish link"),
        pool(
            "The {x} blocked the {y} because it was {w}.",
            "The {x} stood in the way of the {y} because it was {w}.",
            "The {x} stopped the {y} since it was {w}.",
            "The {x} came between us and the {y} as it was {w}.",
        ),
        (("too tall", "too low"), ("too thick", "too faint"), ("too high", "too weak")),
    ),
    Family(
        "cover",
        words("sheet lid tarp roof hood mat"),
        GOODS,
        pool(
            "The {x} did not cover the {y} because it was {w}.",
            "The {x} could not protect the {y} because it was {w}.",
            "The {x} did not hide the {y} since it was {w}.",
            "The {x} left the {y} in the rain as it was {w}.",
        ),
        (("too small", "too large"), ("torn", "too big"), ("too short", "too long")),
    ),
    Family(
        "replace",
        MACHINES,
        words("spare backup successor prototype replacement"),
        pool(
            "We replaced the {x} with the {y} because it was {w}.",
            "We took out the {x} and put in the {y} because it was {w}.",
            "We changed the {x} for the {y} since it was {w}.",
            "The {x} had to go and the {y} came as it was {w}.",
        ),
        (("broken", "better"), ("too old", "newer"), ("failing", "ready")),
    ),
    Family(
        "load",
        words("model image database archive file program"),
        words("node board disk worker laptop phone"),
        pool(
            "The {x} could not be loaded on the {y} because it was {w}.",
            "The {x} did not run on the {y} because it was {w}.",
            "We could not copy the {x} to the {y} since it was {w}.",
            "The {x} was never started on the {y} as it was {w}.",
        ),
        (("too large", "too small"), ("damaged", "full"), ("corrupt", "switched off")),
    ),
    Family(
        "open",
        words("key card badge handle"),
        words("lock door gate safe hatch"),
        pool(
            "The {x} did not open the {y} because it was {w}.",
            "We could not use the {x} on the {y} because it was {w}.",
            "The {x} got stuck in the {y} since it was {w}.",
            "We tried the {x} on the {y} in vain as it was {w}.",
        ),
        (("bent", "rusty"), ("expired", "frozen"), ("wrong", "blocked")),
    ),
    Family(
        "pass",
        words("truck van crane trailer tractor bus"),
        words("bridge gate tunnel road arch"),
        pool(
            "The {x} could not pass the {y} because it was {w}.",
            "The {x} did not get through the {y} because it was {w}.",
            "The {x} had to stop at the {y} since it was {w}.",
            "The {x} turned round at the {y} as it was {w}.",
        ),
        (("too high", "too low"), ("too wide", "closed"), ("overloaded", "flooded")),
    ),
    Family(
        "drain",
        words("pump drain pipe bucket"),
        words("pit shaft basement pond trench"),
        pool(
            "The {x} could not empty the {y} because it was {w}.",
            "The {x} did not keep the {y} dry because it was {w}.",
            "The {x} was not enough for the {y} since it was {w}.",
            "It was no use to try the {x} in the {y} as it was {w}.",
        ),
        (("too slow", "too deep"), ("clogged", "flooded"), ("leaking", "too wet")),
    ),
)

ASKS = pool(
    "{sentence} What was {w}?",
    "{sentence} Tell me what was {w}.",
    "{sentence} Which of the two was {w}?",
    "{sentence} So what was {w}?",
)
ANSWER = "The {noun} was {w}."
