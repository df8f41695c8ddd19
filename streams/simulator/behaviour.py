"""How each planted segment behaves: the numbers behind the simulated customers."""

from dataclasses import dataclass

ACTIONS = ("view", "cart", "wishlist", "search", "dwell", "pickup", "remove")
VIEW, CART, _WISHLIST, SEARCH, DWELL, _PICKUP, _REMOVE = range(len(ACTIONS))
CHANNELS = ("web", "app", "store")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the customers of one segment do.

    Attributes
    ----------
    name
        The segment's name.
    share
        Share of all customers, 0..1.
    session_rate
        Sessions per customer, relative to the other segments.
    purchase_weight
        How readily a session ends in an order, relative to the other segments.
    promotion_share
        Share of orders placed under a promotion, 0..1.
    most_units
        Largest quantity on an order line.
    actions
        Relative frequency of each of `ACTIONS` on a click that is not steered by an order.
    chat_weight
        How readily a session comes with a chat, relative to the other segments.
    moods
        Probability of a negative, a neutral and a positive chat.
    churn_share
        Share of these customers that stop for good within the simulated span, 0..1.
    """

    name: str
    share: float
    session_rate: float
    purchase_weight: float
    promotion_share: float
    most_units: int
    actions: tuple[float, float, float, float, float, float, float]
    chat_weight: float
    moods: tuple[float, float, float]
    churn_share: float


SEGMENTS = (
    Behaviour(
        "champions", 0.10, 3.0, 4.0, 0.10, 4, (70, 12, 5, 5, 5, 2, 1), 1.0, (0.08, 0.37, 0.55), 0.01
    ),
    Behaviour(
        "regulars", 0.35, 1.2, 1.5, 0.15, 2, (74, 8, 4, 6, 5, 2, 1), 1.0, (0.18, 0.50, 0.32), 0.05
    ),
    Behaviour(
        "bargain_hunters",
        0.20,
        1.0,
        1.2,
        0.85,
        3,
        (62, 9, 8, 15, 3, 1, 2),
        0.9,
        (0.30, 0.50, 0.20),
        0.12,
    ),
    Behaviour(
        "window_shoppers",
        0.20,
        1.3,
        0.1,
        0.20,
        1,
        (76, 2, 9, 7, 5, 0, 1),
        0.4,
        (0.20, 0.65, 0.15),
        0.10,
    ),
    Behaviour(
        "newcomers", 0.08, 0.9, 0.7, 0.35, 1, (70, 6, 5, 12, 6, 0, 1), 1.5, (0.15, 0.60, 0.25), 0.10
    ),
    Behaviour(
        "fading", 0.07, 1.0, 0.8, 0.25, 1, (80, 4, 3, 6, 4, 0, 3), 2.0, (0.60, 0.30, 0.10), 0.60
    ),
)
SEGMENT_NAMES = tuple(segment.name for segment in SEGMENTS)
NEWCOMERS = SEGMENT_NAMES.index("newcomers")
FADING = SEGMENT_NAMES.index("fading")
