"""The corpus: dialogues about running radio sites and edge nodes, from a seed.

    python corpus.py [train|fillings|templates] [SEED] [COUNT]

prints some. A dialogue is a list of (role, text), user and assistant in turn. Users vary, the assistant does not: what
it says follows from what was said, so that the likeliest token is likelier than the next by far.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import facts
import grammar
import knowledge
import schemas
import telling
from grammar import Split, expand
from telling import Fact

Message = tuple[str, str]
SPLITS: tuple[Split, ...] = ("train", "fillings", "templates")
SYSTEM = "You are a helpful assistant for radio sites and edge nodes."
MAX_TERM = 12

_OPENERS = ("", "", "", "", "", "", "OK. ", "Hello. ", "Now: ", "Listen: ")
_QUESTION_OPENERS = (*_OPENERS, "Please tell me: ", "One question: ")
_CLOSERS = ("", "", "", "", "", "", "", " Thanks.", " Please.", " Thank you.")


def user(text: str, rng: random.Random) -> str:
    """How people type: with and without manners, capitals and full stops."""
    text = rng.choice(_QUESTION_OPENERS if text.endswith("?") else _OPENERS) + text + rng.choice(_CLOSERS)
    if rng.random() < 0.12:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.1:
        text = text.rstrip(".?")
    return text


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Probe:
    """A question with its right answers, at the end of `messages`."""

    kind: str
    messages: list[Message]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class SchemaPair:
    """A sentence, twice, with the one word changed that decides; `candidates` are the same for both."""

    prompts: tuple[str, str]
    candidates: tuple[tuple[str, str], tuple[str, str]]
    """For each prompt its two answers; the right one is the first for the first prompt, the second for the second."""


class Writer:
    """Writes one dialogue after the other, on one side of the split."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self.split = split
        self.messages: list[Message] = []
        self.known: dict[str, str] = {}

    def say(self, question: str, answer: str) -> None:
        self.messages += [("user", user(question, self.rng)), ("assistant", answer)]

    # --- Facts ---

    def tell(self, fact: Fact | None = None) -> Fact:
        rng = self.rng
        fact = fact or rng.choice([fact for fact in facts.FACTS if fact.key not in self.known])
        value = grammar.filling(rng, self.split, fact.key, fact.draw)
        self.known[fact.key] = value
        told = expand(fact.tells.pick(rng, self.split), rng, v=value)
        form = telling.NOTED[facts.FACTS.index(fact) % len(telling.NOTED)]
        answer = form.format(echo=fact.answers[0].format(v=value))
        self.say(told, answer)
        return fact

    def recall(self, fact: Fact | None = None) -> tuple[str, ...]:
        """Asks for something that was told; returns the right answers."""
        fact = fact or self.rng.choice([fact for fact in facts.FACTS if fact.key in self.known])
        answers = tuple(answer.format(v=self.known[fact.key]) for answer in fact.answers)
        question = self._question(fact)
        self.say(question, answers[question.startswith(telling.ASKS_WHAT_WAS_TOLD)])
        return answers

    def _question(self, fact: Fact) -> str:
        if self.rng.random() < 0.4:
            return expand(telling.WRAPPED_ASKS.pick(self.rng, self.split), self.rng, i=telling.indirect(fact))
        return expand(fact.asks.pick(self.rng, self.split), self.rng)

    def ask_unknown(self) -> None:
        unknown = [fact for fact in facts.FACTS if fact.key not in self.known]
        if unknown:
            fact = self.rng.choice(unknown)
            self.say(self._question(fact), fact.unknown)

    # --- Knowledge ---

    def alarm(self) -> None:
        rng = self.rng
        alarm = rng.choice(knowledge.ALARMS)
        unit = grammar.filling(rng, self.split, "unit", _unit)
        says = expand(alarm.says, rng)
        ask = knowledge.ALARM_ASKS.pick(rng, self.split)
        self.say(expand(ask, rng, u=unit, U=capital(unit), s=says), alarm.action.format(u=unit))
        self._why(alarm.why)

    def procedure(self) -> None:
        procedure = self.rng.choice(knowledge.PROCEDURES)
        ask = knowledge.PROCEDURE_ASKS.pick(self.rng, self.split)
        self.say(expand(ask, self.rng, t=procedure.task), procedure.steps)
        self._why(procedure.why)

    def _why(self, reason: str) -> None:
        if self.rng.random() < 0.3:
            self.say(knowledge.WHY_ASKS.pick(self.rng, self.split), reason)

    def arithmetic(self) -> str:
        """A sum or a difference; returns the answer."""
        rng = self.rng
        while True:
            a, b = rng.randrange(1, MAX_TERM + 1), rng.randrange(1, MAX_TERM + 1)
            is_sum = rng.random() < 0.6
            if not is_sum and b > a:
                a, b = b, a
            if grammar.is_held_out("sum" if is_sum else "difference", a, b) == (self.split != "train"):
                break
        show = grammar.in_words if rng.random() < 0.5 else str
        thing = rng.choice(knowledge.OBJECTS)
        asks = knowledge.ADDITIONS if is_sum else knowledge.SUBTRACTIONS
        question = expand(asks.pick(rng, self.split), rng, a=show(a), b=show(b), A=capital(show(a)), o=thing)
        result = grammar.in_words(a + b if is_sum else a - b)
        sign = "plus" if is_sum else "minus"
        answer = f"{capital(grammar.in_words(a))} {sign} {grammar.in_words(b)} is {result}."
        self.say(question, answer)
        return answer

    def manners(self) -> None:
        asks, answer = self.rng.choice(knowledge.MANNERS)
        self.say(asks.pick(self.rng, self.split), answer)

    def refusal(self) -> None:
        asks, answer = self.rng.choice(knowledge.REFUSALS)
        self.say(expand(asks.pick(self.rng, self.split), self.rng), answer)

    def schema(self) -> None:
        pair = schema_pair(self.rng, self.split)
        which = self.rng.randrange(2)
        self.say(pair.prompts[which], pair.candidates[which][which])

    # --- Dialogues ---

    def turn(self) -> None:
        """Any turn but a recall."""
        kinds = (self.tell, self.alarm, self.procedure, self.arithmetic, self.manners, self.refusal, self.schema)
        self.rng.choices(kinds, (34, 7, 7, 12, 4, 5, 12))[0]()

    def dialogue(self) -> list[Message]:
        rng = self.rng
        if rng.random() < 0.05:
            self.messages.append(("system", SYSTEM))
        for _ in range(rng.choice((1, 2, 3, 4, 5, 6))):
            chance = rng.random()
            if self.known and chance < 0.4:
                self.recall()
            elif chance < 0.46:
                self.ask_unknown()
            else:
                self.turn()
        for key in rng.sample(sorted(self.known), min(len(self.known), rng.randrange(3))):
            self.recall(next(fact for fact in facts.FACTS if fact.key == key))
        return self.messages


def _unit(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        return f"node {rng.randrange(1, 100)}"
    if kind < 0.8:
        return f"site {grammar.name(rng)}"
    return f"the {rng.choice(('router', 'switch', 'gateway', 'repeater'))} {grammar.name(rng)}"


def schema_pair(rng: random.Random, split: Split) -> SchemaPair:
    while True:
        family = rng.choice(schemas.FAMILIES)
        x, y = rng.choice(family.x), rng.choice(family.y)
        if x != y and grammar.is_held_out(family.key, x, y) == (split != "train"):
            break
    frame = family.frames.pick(rng, split)
    ask = schemas.ASKS.pick(rng, split)
    words = rng.choice(family.deciding)
    prompts = [expand(ask, rng, sentence=frame.format(x=x, y=y, w=word), w=word) for word in words]
    candidates = [tuple(schemas.ANSWER.format(noun=noun, w=word) for noun in (x, y)) for word in words]
    return SchemaPair((prompts[0], prompts[1]), (candidates[0], candidates[1]))  # type: ignore[arg-type]


def dialogues(split: Split, seed: int) -> Iterator[list[Message]]:
    """For ever."""
    rng = random.Random(f"{split} {seed}")
    while True:
        yield Writer(rng, split).dialogue()


def recall_probe(rng: random.Random, split: Split, distance: int) -> Probe:
    """A fact, told `distance` turns before it is asked for; the turns between tell and ask of other things."""
    writer = Writer(rng, split)
    fact = writer.tell()
    while len(writer.messages) < 2 * distance:
        writer.turn()
    if len(writer.messages) > 2 * distance:  # a "why" too many
        return recall_probe(rng, split, distance)
    answers = writer.recall(fact)
    return Probe(f"recall {distance}", writer.messages[:-1], answers)


def arithmetic_probe(rng: random.Random, split: Split) -> Probe:
    writer = Writer(rng, split)
    answer = writer.arithmetic()
    return Probe("arithmetic", writer.messages[:-1], (answer,))


def num_templates() -> tuple[int, int]:
    """All templates of users' messages, and those of them that are held out."""
    pools = [pool for fact in facts.FACTS for pool in (fact.tells, fact.asks)]
    pools += [telling.WRAPPED_ASKS, knowledge.ALARM_ASKS, knowledge.WHY_ASKS, knowledge.PROCEDURE_ASKS]
    pools += [knowledge.ADDITIONS, knowledge.SUBTRACTIONS, schemas.ASKS]
    pools += [asks for asks, _ in knowledge.MANNERS] + [asks for asks, _ in knowledge.REFUSALS]
    pools += [family.frames for family in schemas.FAMILIES]
    total = sum(len(pool.templates) for pool in pools)
    return total, total - sum(len(pool.of("train")) for pool in pools)


def corpus_hash() -> str:
    """SHA-256 of the first 2,000 dialogues of each split with seed 0, as JSON lines: another one is another corpus."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for dialogue in islice(dialogues(split, 0), 2000):
            digest.update(json.dumps(dialogue).encode() + b"\n")
    return digest.hexdigest()


def main() -> None:
    split: Split = sys.argv[1] if len(sys.argv) > 1 else "train"  # type: ignore[assignment]
    seed, count = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((2, 0), (3, 5)))
    total, held_out = num_templates()
    print(f"{total} templates of users' messages, {held_out} held out\n")
    for _, dialogue in zip(range(count), dialogues(split, seed), strict=False):
        print("\n".join(f"{role:>9}: {text}" for role, text in dialogue), end="\n\n")


if __name__ == "__main__":
    main()
