"""Chat messages with a planted mood and intent, put together from varied parts."""

from typing import NamedTuple

INTENTS = (
    "delivery_status",
    "refund_request",
    "product_question",
    "order_change",
    "account_help",
    "feedback",
)


class Body(NamedTuple):
    """The middle of a message: what it is about, and in which words."""

    intent: str
    text: str


OPENERS: tuple[tuple[str, ...], ...] = (
    (
        "This is unacceptable.",
        "I am really disappointed.",
        "Seriously?",
        "I am fed up with this shop.",
        "Worst service I have had in years.",
        "Hello, I am quite angry.",
        "I cannot believe this.",
        "Third time I write to you.",
    ),
    (
        "Hello,",
        "Hi there,",
        "Good morning,",
        "Good evening,",
        "Quick question:",
        "Dear team,",
        "Hi, it is about the {category} section.",
        "Hey,",
    ),
    (
        "Wow!",
        "Hello, you made my day.",
        "Hi, what a lovely surprise.",
        "Dear team, thank you so much!",
        "Just wanted to say:",
        "I am impressed.",
        "Hey, great work.",
        "Good morning, happy customer here.",
    ),
)

BODIES: tuple[tuple[Body, ...], ...] = (
    (
        Body("delivery_status", "My parcel is two weeks late and nobody answers the phone."),
        Body("delivery_status", "The courier lost my {title} and the tracking page is useless."),
        Body("refund_request", "The {title} arrived broken, I want my money back now."),
        Body("refund_request", "You charged me twice and still refuse the refund."),
        Body("refund_request", "The {title} is cheap rubbish and fell apart after a day."),
        Body("product_question", "The description of the {title} was misleading and plain wrong."),
        Body("product_question", "Nothing in {category} fits, the size chart is a bad joke."),
        Body("order_change", "You ignored my change and sent the wrong {title} again."),
        Body("order_change", "Cancelling an order here is a nightmare."),
        Body("account_help", "Your app locks me out every time, it is horribly slow and buggy."),
        Body("account_help", "Someone got into my account and your support does not care."),
        Body("feedback", "The agent was rude and hung up on me."),
        Body("feedback", "The quality of your {category} range got terrible."),
    ),
    (
        Body("delivery_status", "When will the {title} be delivered?"),
        Body("delivery_status", "Could you send me the tracking number of my parcel?"),
        Body("delivery_status", "Do you ship {category} to the islands?"),
        Body("refund_request", "How do I return the {title}, and how long is the return window?"),
        Body("refund_request", "Which form do I need for a refund?"),
        Body("product_question", "Is the {title} available in another colour?"),
        Body("product_question", "What are the measurements of the {title}?"),
        Body("product_question", "Does the {title} come with a warranty card?"),
        Body("order_change", "I would like to change the delivery address of my order."),
        Body("order_change", "Can I add a {title} to the order from this morning?"),
        Body("account_help", "How can I change the e-mail address of my account?"),
        Body("account_help", "Where do I find my invoices?"),
        Body("feedback", "I filled in your survey about {category} today."),
    ),
    (
        Body("delivery_status", "The {title} came a day early, delivery was super fast."),
        Body("delivery_status", "The courier was friendly and everything was packed beautifully."),
        Body("refund_request", "The refund was on my account in an hour, perfect."),
        Body("product_question", "I love the {title}, is there a matching one in {category}?"),
        Body("product_question", "The {title} is gorgeous, which colours are coming next?"),
        Body("order_change", "You changed my order within minutes, excellent support."),
        Body("account_help", "The new app is a joy, signing in is so easy now."),
        Body("feedback", "The {title} is the best thing I bought this year."),
        Body("feedback", "Your {category} range is fantastic and fairly priced."),
        Body("feedback", "The lady on the phone was wonderful and so helpful."),
    ),
)

CLOSERS: tuple[tuple[str, ...], ...] = (
    (
        "I will never order here again.",
        "Fix this today.",
        "I want to speak to a manager.",
        "What a waste of time and money.",
        "Very unhappy.",
        "Cancel my membership.",
        "",
        "",
    ),
    (
        "Regards.",
        "Thanks in advance.",
        "My order was placed on Monday.",
        "Please let me know.",
        "Kind regards.",
        "",
        "",
        "",
    ),
    (
        "Keep it up!",
        "I will recommend you to all my friends.",
        "Five stars!",
        "Thank you, thank you!",
        "Absolutely delighted.",
        "Will buy again for sure.",
        "",
        "",
    ),
)


def body_of(mood: int, draw: int) -> Body:
    """Return the body that `draw` (a uniform 64-bit number) picks for `mood` (0, 1, 2)."""
    bodies = BODIES[mood]
    return bodies[draw % len(bodies)]


def compose(mood: int, draw: int, title: str, category: str) -> str:
    """Write the message that `draw` picks.

    Parameters
    ----------
    mood
        0 negative, 1 neutral, 2 positive.
    draw
        A uniform 64-bit number; the same draw gives the same words.
    title, category
        What the message speaks of, where it speaks of something.

    Examples
    --------
    >>> compose(1, 0, "Red Lamp", "lighting")
    'Hello, When will the Red Lamp be delivered? Regards.'
    """
    opener = OPENERS[mood][(draw >> 16) % len(OPENERS[mood])]
    closer = CLOSERS[mood][(draw >> 32) % len(CLOSERS[mood])]
    text = f"{opener} {body_of(mood, draw).text} {closer}".rstrip()
    return text.replace("{title}", title).replace("{category}", category)
