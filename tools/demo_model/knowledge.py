"""What the model knows by heart: alarms, procedures, manners, and where its knowledge ends."""

from __future__ import annotations

from dataclasses import dataclass

from grammar import Pool, pool, words


@dataclass(frozen=True)
class Alarm:
    """What a unit reports, what to do about it and why. {u} is the unit: node 7, the router Talvik."""

    says: str
    action: str
    why: str


ALARMS = (
    Alarm(
        "[a |]high temperature",
        "Check the fan of {u} first. If it turns, clean the filter.",
        "Heat comes from a fan that stands still or from a filter full of dust.",
    ),
    Alarm(
        "[a |]low voltage",
        "Measure the battery at {u}. If it is low, start the generator.",
        "A low voltage means that the load takes more than the supply gives.",
    ),
    Alarm(
        "[a |]fan failure",
        "Replace the fan of {u} today. Until then, lower its load.",
        "Without a fan the board throttles within minutes.",
    ),
    Alarm(
        "[a |]full disk",
        "Delete old logs on {u}, then find out what filled the disk.",
        "A full disk stops the queue from storing new turns.",
    ),
    Alarm(
        "[a |]lost link",
        "Check the cable of {u}, then the port of the switch.",
        "Most lost links are loose plugs.",
    ),
    Alarm(
        "[an |]open door",
        "Ask who is at {u}. If nobody is, send somebody to look.",
        "An open door lets in water, animals and thieves.",
    ),
    Alarm(
        "[a |]mains failure",
        "Note the battery voltage at {u} and call the power company.",
        "From that moment on the battery decides how long you have.",
    ),
    Alarm(
        "throttling",
        "Lower the load of {u} and check its cooling.",
        "A board that is too hot slows itself down.",
    ),
    Alarm(
        "[a |]high packet loss",
        "Look at the antenna of {u}, then at the weather.",
        "Loss comes from a moved antenna, from rain or from a bad plug.",
    ),
    Alarm(
        "[a |]clock error",
        "Restart the time service on {u} and compare the clocks.",
        "With a wrong clock, deadlines and logs cannot be trusted.",
    ),
    Alarm(
        "[a |]memory shortage",
        "Stop what is not needed on {u}, then load a smaller model.",
        "Without free memory the system kills the largest process.",
    ),
    Alarm(
        "[a |]stuck queue",
        "See whether a worker still serves {u}, then restart it.",
        "Turns wait in the queue until a worker takes them.",
    ),
    Alarm(
        "[a |]smoke detector alarm",
        "Leave {u} at once and call the fire brigade.",
        "No machine is worth a life.",
    ),
    Alarm(
        "[a |]water alarm",
        "Switch off the power at {u}, then look for the leak.",
        "Water and power together are deadly.",
    ),
    Alarm(
        "[a |]high load",
        "See which task loads {u} and move it to another node.",
        "One busy task can slow down all the others.",
    ),
    Alarm(
        "[a |]weak signal",
        "Check the direction of the antenna at {u}.",
        "A few degrees off cost half of the signal.",
    ),
    Alarm(
        "[a |]bad sector",
        "Copy the data of {u} to a new disk today.",
        "A disk with one bad sector soon has more.",
    ),
    Alarm(
        "[a |]blown fuse",
        "Find the short circuit at {u} before you put in a new fuse.",
        "A new fuse blows again as long as the cause is there.",
    ),
)

ALARM_ASKS = pool(
    "{U} reports {s}. What should I do?",
    "{U} shows {s}. What now?",
    "There is {s} at {u}. What do I do?",
    "I see {s} on {u}. What should I check?",
    "What should I do about {s} at {u}?",
    "We have {s} at {u}. What is to be done?",
    "{U} has {s}. Can you help me?",
    "I got an alarm: {s} at {u}. What next?",
    "How do I react to {s} on {u}?",
)

WHY_ASKS = pool("Why?", "Why is that?", "What is the reason?", "Can you say why?", "Why should I do that?")


@dataclass(frozen=True)
class Procedure:
    """How something is done; `task` follows "to"."""

    task: str
    steps: str
    why: str


PROCEDURES = (
    Procedure(
        "drain a node",
        "First stop new turns. Then wait until the running ones have ended. Finally switch it off.",
        "A drained node loses no turn.",
    ),
    Procedure(
        "restart a worker",
        "First drain the worker. Then start it again and look at the log.",
        "A worker that is drained hands its turns back.",
    ),
    Procedure(
        "replace a fan",
        "First switch off the node. Then unplug the old fan and plug in the new one. Finally test it.",
        "A turning fan can hurt your fingers.",
    ),
    Procedure(
        "change a battery",
        "First open the breaker. Then disconnect minus before plus. Finally connect the new one.",
        "In this order the wrench cannot cause a short circuit.",
    ),
    Procedure(
        "clean a filter",
        "First take out the filter. Then shake out the dust and wash it. Put it back when it is dry.",
        "A clean filter keeps the fan slow and the board cool.",
    ),
    Procedure(
        "align an antenna",
        "First loosen the bolts a little. Then turn it slowly while you watch the signal. Finally tighten the bolts.",
        "The strongest signal shows the right direction.",
    ),
    Procedure(
        "start the generator",
        "First check the oil and the fuel. Then start it and let it warm up. Finally switch the load over.",
        "A cold engine does not like a full load.",
    ),
    Procedure(
        "load a new model",
        "First check that the memory is enough. Then copy the file and verify its hash. Finally restart the worker.",
        "A broken file can stop a worker at the worst time.",
    ),
    Procedure(
        "add a node",
        "First install the system and set the clock. Then join the cluster. Finally start a worker on it.",
        "Only a node with the right time can be trusted.",
    ),
    Procedure(
        "remove a node",
        "First drain the node. Then delete it from the cluster. Finally take it out of the rack.",
        "A node that simply vanishes leaves turns behind.",
    ),
    Procedure(
        "back up the settings",
        "First export the settings to a file. Then copy the file to another site.",
        "A backup at the same site burns with the site.",
    ),
    Procedure(
        "update the software",
        "First read the notes and make a backup. Then update one node and watch it. Do the others on the next day.",
        "One node that fails is better than all of them.",
    ),
    Procedure(
        "test the battery",
        "First note the voltage. Then open the mains breaker and watch for ten minutes. Finally close it again.",
        "Only a battery under load shows what it is worth.",
    ),
    Procedure(
        "check a cable",
        "First look at both plugs. Then swap the cable for a good one. If the fault is gone, throw the old one away.",
        "A bad cable that goes back to the shelf will be used again.",
    ),
    Procedure(
        "climb the mast",
        "First tell somebody and switch off the transmitter. Then put on the harness. Never climb alone.",
        "A fall and a burn are both quicker than you are.",
    ),
    Procedure(
        "find a lost node",
        "First look at its lights. Then check power, cable and switch. Finally connect a screen.",
        "Most lost nodes have lost power.",
    ),
    Procedure(
        "read a log",
        "First find the time of the fault. Then read what happened just before it.",
        "The first error is the cause, and the rest is its echo.",
    ),
    Procedure(
        "hand over a shift",
        "First list the open alarms. Then say what you did and what is left to do.",
        "What is not handed over is forgotten.",
    ),
    Procedure(
        "cancel a turn",
        "First find the turn in the list. Then send the cancel. The worker stops within one step.",
        "A turn that nobody reads wastes power.",
    ),
    Procedure(
        "lock the shelter",
        "First switch off the lights. Then close the door and turn the key twice. Finally test the handle.",
        "The wind opens a door that is only closed.",
    ),
)

PROCEDURE_ASKS = pool(
    "How do I {t}?",
    "How can I {t}?",
    "What are the steps to {t}?",
    "Can you tell me how to {t}?",
    "I have to {t}. How?",
    "What do I do to {t}?",
    "Explain how to {t}.",
    "I want to {t}. What do I do first?",
    "Please explain to me how one should {t}.",
)

MANNERS: tuple[tuple[Pool, str], ...] = (
    (
        pool("Hello.", "Hi.", "Good morning.", "Good evening.", "Hello there.", "Hey."),
        "Hello. How can I help you?",
    ),
    (
        pool("Thank you.", "Thanks.", "Thanks a lot.", "Thank you very much.", "Many thanks.", "That helped me."),
        "You are welcome.",
    ),
    (
        pool("Goodbye.", "Bye.", "See you later.", "That is all for today.", "Good night.", "I have to go."),
        "Goodbye, and a quiet shift.",
    ),
    (
        pool("Who are you?", "What are you?", "What is your name?", "Are you a person?", "Tell me about yourself."),
        "I am a very small model that Turnpike made. I know a little about radio sites and edge nodes.",
    ),
    (
        pool("How are you?", "How do you do?", "Are you well?", "How is it going?", "Is everything fine with you?"),
        "I am fine, thank you. How can I help you?",
    ),
    (
        pool(
            "What can you do?",
            "How can you help me?",
            "What do you know?",
            "What can I ask you?",
            "What are you good for?",
        ),
        "I can help with alarms and procedures, add small numbers and remember what you tell me.",
    ),
    (
        pool("Good work.", "Well done.", "You are great.", "That was good.", "Nice."),
        "Thank you. I do what I can.",
    ),
    (
        pool("That is wrong.", "No, that is not right.", "You are wrong.", "I do not believe you.", "That cannot be."),
        "I am sorry. I am a small model and make mistakes. Please check it at the site.",
    ),
    (
        pool(
            "I am tired.", "It was a long day.", "I have a long night ahead.", "I need a break.", "This is hard work."
        ),
        "Take a break and drink some water. The site can wait for a minute.",
    ),
)

REFUSALS: tuple[tuple[Pool, str], ...] = (
    (
        pool(
            "What is the temperature at the site [right |]now?",
            "How warm is it in the shelter [right |]now?",
            "Is the generator running at the moment?",
            "Is the door open [right |]now?",
            "What does the battery show at this moment?",
            "Which nodes are up right now?",
            "Is anybody at the site at the moment?",
        ),
        "I cannot see the site. Please look at the monitor.",
    ),
    (
        pool(
            "What will the weather be [tomorrow|today|tonight]?",
            "Will it rain [tomorrow|tonight|on the weekend]?",
            "Is a storm coming?",
            "How much wind will there be [tomorrow|today]?",
            "Will there be snow on the mast?",
        ),
        "I cannot know the weather. Please ask the weather service.",
    ),
    (
        pool(
            "When will the power come back?",
            "How long will the mains be out?",
            "When is the spare part coming?",
            "When will the repair be done?",
            "How long will the storm last?",
        ),
        "I cannot know that. Please ask those who work on it.",
    ),
    (
        pool(
            "What is the capital of [France|Norway|Peru|Japan|Italy|Kenya]?",
            "Who won the [match|cup|race|election|final]?",
            "Write me a [poem|song|story|joke|letter].",
            "What is the meaning of life?",
            "Who is the [president|king|queen|mayor]?",
            "How do I cook [rice|soup|an egg|pasta|fish]?",
            "Tell me a [joke|story|secret|poem].",
            "What should I wear?",
            "Translate this into [French|German|Spanish].",
            "Which [film|book|car|phone] is the best?",
            "How old is the [sun|earth|king|moon]?",
            "What is the news [today|]?",
            "Can you write a [program|script|novel|song]?",
            "Do you like [music|football|cats|coffee|me]?",
            "How many people live in [France|Norway|Peru|Japan]?",
            "What is the price of [gold|bread|oil|a house]?",
        ),
        "I do not know that. I only know about radio sites and edge nodes.",
    ),
    (
        pool(
            "What is the password of the router?",
            "Give me the password of the switch.",
            "Which password does the server have?",
            "Can you tell me the admin password?",
            "I forgot the password. What is it?",
        ),
        "I do not know any password. Please ask your supervisor.",
    ),
)

OBJECTS = words("radios batteries nodes cables antennas fuses fans filters sensors cabinets routers lamps")

ADDITIONS = pool(
    "We have {a} {o} and get {b} more. How many [{o} |]do we have?",
    "There are {a} {o} here and {b} in the van. How many are there?",
    "How many {o} are {a} and {b}?",
    "What is {a} plus {b}?",
    "{A} {o} and {b} {o}: how many is that?",
    "Add {a} and {b}.",
    "I count {a} {o} in one room and {b} in the other. How many in all?",
    "If we had {a} {o} and bought {b}, how many would there be?",
)
SUBTRACTIONS = pool(
    "We have {a} {o} and use {b}. How many are left?",
    "There are {a} {o}, but {b} are broken. How many are good?",
    "What is {a} minus {b}?",
    "From {a} {o} we take {b}. How many are left?",
    "Take {b} from {a}.",
    "Out of {a} {o}, {b} are gone. How many remain?",
    "I had {a} {o} and gave {b} away. How many do I have?",
    "If {b} of {a} {o} fail, how many work?",
)
