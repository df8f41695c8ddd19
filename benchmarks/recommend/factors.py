"""Baselines with factors that learn line by line: river's BiasedMF, and plain BPR."""

import numpy as np
from numpy.typing import NDArray
from river import optim
from river.reco import BiasedMF

from benchmarks.recommend.data import Stream
from benchmarks.recommend.methods import Question, Scored
from operators.kernel import kernel

FACTORS = 32
RIVER_FACTORS = 10
BPR_NEGATIVES = 4
BPR_RATE = 0.05
BPR_REGULARISATION = 0.01
_LIKED = 1.0


def tutorial_biased_mf(seed: int) -> BiasedMF:
    """Return river's model as its tutorial sets it up, having learned nothing."""
    return BiasedMF(
        n_factors=RIVER_FACTORS,
        bias_optimizer=optim.SGD(0.025),
        latent_optimizer=optim.SGD(0.05),
        weight_initializer=optim.initializers.Zeros(),
        latent_initializer=optim.initializers.Normal(mu=0.0, sigma=0.1, seed=seed),
        l2_bias=0.0,
        l2_latent=0.0,
    )


class RiverBiasedMF:
    """river's BiasedMF with its tutorial's settings; ranks by the rating that it expects.

    Where the stream has no ratings, each choice counts as a rating of 1, which tells it nothing of
    one item against another: what it ranks by then are the biases that its start left.
    """

    def __init__(self, stream: Stream, seed: int) -> None:
        self._stream = stream
        self._model = tutorial_biased_mf(seed)
        # A copy of what it has learned, to score all items at once: asking it writes to it.
        self._biases = np.zeros(len(stream.item_ids))
        self._vectors = np.zeros((len(stream.item_ids), RIVER_FACTORS))

    def score(self, question: Question) -> Scored:
        """Return the expected ratings but for what is the same for all items."""
        vector = dict.get(self._model.u_latents, question.customer)
        if vector is None:
            return Scored(None, self._biases)
        return Scored(None, self._biases + self._vectors @ vector)

    def learn(self, start: int, end: int) -> None:
        """Learn the ratings."""
        stream, model = self._stream, self._model
        for line in range(start, end):
            customer, item = int(stream.customers[line]), int(stream.items[line])
            rating = float(stream.ratings[line])
            liking = _LIKED if np.isnan(rating) else rating
            model.learn_one(customer, item, liking)  # type: ignore[no-untyped-call] # river's
            self._biases[item] = model.i_biases[item]
            self._vectors[item] = model.i_latents[item]


class BPR:
    """Bayesian personalised ranking (Rendle and others, 2009) by stochastic gradient, online.

    Each line is a customer's preference of its item to `BPR_NEGATIVES` known items drawn evenly:
    ``Δ = sigmoid(-(x_ui - x_uj))`` moves the customer's vector and both items' vectors and biases.
    """

    def __init__(self, stream: Stream, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self._stream = stream
        self._draw = draw
        self._customers = draw.normal(0.0, 0.1, (len(stream.customer_ids), FACTORS))
        self._items = draw.normal(0.0, 0.1, (len(stream.item_ids), FACTORS))
        self._biases = np.zeros(len(stream.item_ids))
        self._known = 0

    def score(self, question: Question) -> Scored:
        """Return the inner products with the customer's vector."""
        return Scored(None, self._biases + self._items @ self._customers[question.customer])

    def learn(self, start: int, end: int) -> None:
        """Take the steps of each line."""
        items = self._stream.items[start:end]
        self._known = max(self._known, int(items.max()) + 1)
        negatives = self._draw.integers(0, self._known, (end - start, BPR_NEGATIVES), np.int32)
        _step(
            self._customers,
            self._items,
            self._biases,
            self._stream.customers[start:end],
            items,
            negatives,
        )


@kernel
def _step(
    customers: NDArray[np.float64],
    items: NDArray[np.float64],
    biases: NDArray[np.float64],
    who: NDArray[np.int32],
    what: NDArray[np.int32],
    negatives: NDArray[np.int32],
) -> None:  # pragma: no cover - compiled
    for line in range(len(who)):
        user, liked = customers[who[line]], items[what[line]]
        for other in negatives[line]:
            if other == what[line]:
                continue
            margin = biases[what[line]] - biases[other]
            for f in range(FACTORS):
                margin += user[f] * (liked[f] - items[other, f])
            pull = BPR_RATE / (1.0 + np.exp(margin))
            keep = 1.0 - BPR_RATE * BPR_REGULARISATION
            for f in range(FACTORS):
                own, better, worse = user[f], liked[f], items[other, f]
                user[f] = keep * own + pull * (better - worse)
                liked[f] = keep * better + pull * own
                items[other, f] = keep * worse - pull * own
            biases[what[line]] = keep * biases[what[line]] + pull
            biases[other] = keep * biases[other] - pull
