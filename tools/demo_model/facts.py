"""What a user may tell about a site, and be asked for later."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import grammar
from grammar import Pool, pool, whole


@dataclass(frozen=True)
class Fact:
    """One thing to know: how it is told, how it is asked for, how it is answered, and what is said when it is unknown.

    `answers` are all the right ones, each with the value in it; an answer is exact if it is one of them.
    """

    key: str
    draw: Callable[[random.Random], str]
    tells: Pool
    asks: Pool
    answers: tuple[str, ...]
    unknown: str


FACTS = (
    Fact(
        "site",
        grammar.name,
        pool(
            "Our site is called {v}.",
            "The [radio |]site I look after is {v}.",
            "I work at the {v} site.",
            "The name of our site is {v}.",
            "We [run|operate] the site {v}.",
            "My site is {v}.",
        ),
        pool(
            "What is our site called?",
            "Which site [do I look after|is mine]?",
            "What is the name of my site?",
            "[Can you|Do you] remember the name of our site?",
            "Tell me the name of our site.",
        ),
        ("Your site is called {v}.", "You told me that your site is called {v}."),
        "You have not told me the name of your site.",
    ),
    Fact(
        "user",
        grammar.name,
        pool(
            "My name is {v}.",
            "I am {v}.",
            "This is {v} [speaking|here].",
            "You can call me {v}.",
            "I am called {v}.",
        ),
        pool(
            "What is my name?",
            "Do you [remember|know] my name?",
            "Who am I?",
            "Can you tell me my name?",
            "What am I called?",
        ),
        ("Your name is {v}.", "You told me that your name is {v}."),
        "You have not told me your name.",
    ),
    Fact(
        "technician",
        grammar.name,
        pool(
            "The technician on call is {v}.",
            "[Tonight|This week|Today] {v} is on call.",
            "Our technician on call is {v}.",
            "Here {v} is the technician on call.",
            "[Tonight|Today] the technician on call is {v}.",
        ),
        pool(
            "Who is on call?",
            "Which technician is on call?",
            "What is the name of the technician on call?",
            "Who is our technician on call?",
            "Tell me who is on call.",
        ),
        ("The technician on call is {v}.", "You told me that the technician on call is {v}."),
        "You have not told me who is on call.",
    ),
    Fact(
        "mast",
        whole(12, 98),
        pool(
            "Our mast is {v} metres high.",
            "The mast [here |]is {v} metres high.",
            "The height of the mast is {v} metres.",
            "We have a mast of {v} metres.",
            "The mast has a height of {v} metres.",
        ),
        pool(
            "How high is [our|the] mast?",
            "What is the height of [our|the] mast?",
            "How many metres high is the mast?",
            "Do you remember how high our mast is?",
            "Tell me the height of the mast.",
        ),
        ("The mast is {v} metres high.", "You told me that the mast is {v} metres high."),
        "You have not told me how high the mast is.",
    ),
    Fact(
        "battery",
        whole(12, 60),
        pool(
            "Our battery bank [has|gives] {v} volts.",
            "The battery [bank |]is at {v} volts.",
            "The battery shows {v} volts.",
            "We measured {v} volts at the battery.",
            "The voltage of the battery is {v} volts.",
        ),
        pool(
            "What is the voltage of the battery?",
            "How many volts does the battery have?",
            "At how many volts is the battery?",
            "Which voltage did I give you for the battery?",
            "Tell me the voltage of our battery.",
        ),
        ("The battery is at {v} volts.", "You told me that the battery is at {v} volts."),
        "You have not told me the voltage of the battery.",
    ),
    Fact(
        "nodes",
        whole(3, 64),
        pool(
            "We have {v} nodes [at the site|here|in the cluster].",
            "Our cluster has {v} nodes.",
            "There are {v} nodes in the cluster.",
            "The cluster is made of {v} nodes.",
            "The number of our nodes is {v}.",
        ),
        pool(
            "How many nodes do we have?",
            "How many nodes are in the cluster?",
            "What is the number of our nodes?",
            "Do you remember how many nodes we have?",
            "Tell me how many nodes there are.",
        ),
        ("You have {v} nodes.", "You told me that you have {v} nodes."),
        "You have not told me how many nodes you have.",
    ),
    Fact(
        "fuel",
        whole(40, 990, 10),
        pool(
            "The generator has {v} litres of fuel.",
            "There are {v} litres of fuel [left |]in the tank.",
            "We have {v} litres of fuel left.",
            "The fuel tank holds {v} litres.",
            "The tank of the generator has {v} litres.",
        ),
        pool(
            "How much fuel [do we have|is left|is there]?",
            "How many litres of fuel are in the tank?",
            "How much fuel does the generator have?",
            "What did I say about the fuel?",
            "Tell me how much fuel we have.",
        ),
        ("There are {v} litres of fuel.", "You told me that there are {v} litres of fuel."),
        "You have not told me how much fuel there is.",
    ),
    Fact(
        "code",
        grammar.digits(4),
        pool(
            "The [door |]code of the shelter is {v}.",
            "The code for the shelter door is {v}.",
            "The shelter opens with code {v}.",
            "To open the shelter you need code {v}.",
            "Our shelter has the code {v}.",
        ),
        pool(
            "What is the code of the shelter?",
            "Which code opens the shelter?",
            "With which code does the shelter [door |]open?",
            "How do I get into the shelter?",
            "Tell me the code of the shelter.",
        ),
        ("The code of the shelter is {v}.", "You told me that the code of the shelter is {v}."),
        "You have not told me the code of the shelter.",
    ),
    Fact(
        "frequency",
        whole(150, 980),
        pool(
            "Our radio works at {v} megahertz.",
            "The radio link uses {v} megahertz.",
            "We send at {v} megahertz.",
            "The frequency of the link is {v} megahertz.",
            "Our link works at {v} megahertz.",
        ),
        pool(
            "At which frequency [do we send|does our radio work]?",
            "What is the frequency of the link?",
            "Which frequency does our link use?",
            "How many megahertz does the link use?",
            "Tell me the frequency of our radio.",
        ),
        ("The link works at {v} megahertz.", "You told me that the link works at {v} megahertz."),
        "You have not told me the frequency of the link.",
    ),
    Fact(
        "rack",
        grammar.rack,
        pool(
            "The router is in rack {v}.",
            "Our router stands in rack {v}.",
            "You find the router in rack {v}.",
            "We put the router into rack {v}.",
            "Rack {v} holds the router.",
        ),
        pool(
            "In which rack is the router?",
            "Where is the router?",
            "Which rack holds the router?",
            "Where do I find the router?",
            "Tell me where the router is.",
        ),
        ("The router is in rack {v}.", "You told me that the router is in rack {v}."),
        "You have not told me where the router is.",
    ),
    Fact(
        "fuses",
        grammar.place,
        pool(
            "The spare fuses are in {v}.",
            "We keep the spare fuses in {v}.",
            "You find the spare fuses in {v}.",
            "I put the spare fuses into {v}.",
            "Our spare fuses lie in {v}.",
        ),
        pool(
            "Where are the spare fuses?",
            "Where do we keep the spare fuses?",
            "In which place are the [spare |]fuses?",
            "Where do I find the spare fuses?",
            "Tell me where the spare fuses are.",
        ),
        ("The spare fuses are in {v}.", "You told me that the spare fuses are in {v}."),
        "You have not told me where the spare fuses are.",
    ),
    Fact(
        "router",
        grammar.name,
        pool(
            "The router is named {v}.",
            "The name of the router is {v}.",
            "We call the router {v}.",
            "Our router is called {v}.",
            "We named the router {v}.",
        ),
        pool(
            "What is the router called?",
            "What is the name of the router?",
            "How do we call the router?",
            "What name does the router have?",
            "Tell me the name of the router.",
        ),
        ("The router is called {v}.", "You told me that the router is called {v}."),
        "You have not told me the name of the router.",
    ),
    Fact(
        "visit",
        grammar.appointment,
        pool(
            "The next visit is on {v}.",
            "We visit the site on {v}.",
            "The maintenance visit is on {v}.",
            "Our next visit to the site is on {v}.",
            "The visit is planned for {v}.",
        ),
        pool(
            "When is the next visit?",
            "When do we visit the site?",
            "When is the visit planned?",
            "On which day is the next visit?",
            "Tell me when the next visit is.",
        ),
        ("The next visit is on {v}.", "You told me that the next visit is on {v}."),
        "You have not told me when the next visit is.",
    ),
    Fact(
        "depot",
        whole(2, 99),
        pool(
            "The depot is {v} kilometres away.",
            "It is {v} kilometres to the depot.",
            "From here to the depot it is {v} kilometres.",
            "The way to the depot is {v} kilometres.",
            "The depot lies {v} kilometres from here.",
        ),
        pool(
            "How far is [it to |]the depot?",
            "How far away is the depot?",
            "How many kilometres is it to the depot?",
            "Do you remember how far the depot is?",
            "Tell me how far the depot is.",
        ),
        ("The depot is {v} kilometres away.", "You told me that the depot is {v} kilometres away."),
        "You have not told me how far away the depot is.",
    ),
    Fact(
        "contract",
        grammar.contract,
        pool(
            "Our contract number is {v}.",
            "The number of our contract is {v}.",
            "The contract has the number {v}.",
            "The power contract is number {v}.",
            "We have contract number {v}.",
        ),
        pool(
            "What is our contract number?",
            "Which number does the contract have?",
            "What is the number of the contract?",
            "Do you remember our contract number?",
            "Tell me the contract number.",
        ),
        ("The contract number is {v}.", "You told me that the contract number is {v}."),
        "You have not told me the contract number.",
    ),
    Fact(
        "supervisor",
        grammar.name,
        pool(
            "My supervisor is {v}.",
            "Here {v} is my supervisor.",
            "I report to {v}, my supervisor.",
            "The name of my supervisor is {v}.",
            "My supervisor is called {v}.",
        ),
        pool(
            "Who is my supervisor?",
            "What is the name of my supervisor?",
            "What is my supervisor called?",
            "Do you remember who my supervisor is?",
            "Tell me the name of my supervisor.",
        ),
        ("Your supervisor is {v}.", "You told me that your supervisor is {v}."),
        "You have not told me who your supervisor is.",
    ),
    Fact(
        "capacity",
        whole(20, 990, 10),
        pool(
            "The link carries {v} megabits per second.",
            "Our link has {v} megabits per second.",
            "The capacity of the link is {v} megabits per second.",
            "We get {v} megabits per second over the link.",
            "The link has a capacity of {v} megabits per second.",
        ),
        pool(
            "What is the capacity of the link?",
            "How many megabits does the link carry?",
            "How much does the link carry?",
            "Do you remember the capacity of our link?",
            "Tell me the capacity of the link.",
        ),
        ("The link carries {v} megabits per second.", "You told me that the link carries {v} megabits per second."),
        "You have not told me the capacity of the link.",
    ),
    Fact(
        "shift",
        grammar.clock,
        pool(
            "My shift ends at {v}.",
            "I work until {v} [today|tonight].",
            "The end of my shift is at {v}.",
            "My shift is over at {v}.",
            "Today my shift ends at {v}.",
        ),
        pool(
            "When does my shift end?",
            "Until when do I work?",
            "At what time is my shift over?",
            "When is the end of my shift?",
            "Tell me when my shift ends.",
        ),
        ("Your shift ends at {v}.", "You told me that your shift ends at {v}."),
        "You have not told me when your shift ends.",
    ),
)

# How any fact may be asked for: {i} is what `unknown` says is not known, in the user's words.
WRAPPED_ASKS = pool(
    "Did I tell you {i}?",
    "I forgot {i}.",
    "I do not remember {i}.",
    "Can you say {i}?",
    "Say {i}.",
    "Do you still know {i}?",
    "Help me to remember {i}.",
    "I would like to know {i}.",
)


def indirect(fact: Fact) -> str:
    """The question as a clause of the user's: how high the mast is."""
    clause = fact.unknown.removeprefix("You have not told me ").removesuffix(".")
    return clause.replace("your", "my").replace("you have", "we have")


# How a fact is acknowledged, by its place in FACTS: half of them without repeating it.
NOTED = ("Noted: {echo}", "Thank you, I will remember that.", "Thank you. {echo}", "I have noted that.")
ASKS_WHAT_WAS_TOLD = ("Do you", "Can you", "Did I", "Tell me")
"""Questions that begin so are answered by "You told me that …"."""
