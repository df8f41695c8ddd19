"""Online sentiment of short texts, useful before the first label."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from operators.batches import require_lengths
from operators.errors import ParameterError, StateMismatchError, require_finite
from operators.lexicon import LEXICON_COLUMNS
from operators.linear_text import LinearText, as_features
from operators.text_features import Features

SENTIMENTS = ("negative", "neutral", "positive")

# VADER's own rule: a compound beyond 0.05 is positive, below -0.05 negative.
COMPOUND_PRIOR = 4.0
NEUTRAL_PRIOR = 0.05 * COMPOUND_PRIOR


class Sentiment:
    """Sentiment of texts: a lexicon as the prior, and every human label a lesson.

    A multinomial logistic model (`operators.linear_text.LinearText`) of negative, neutral and
    positive over hashed n-grams and the columns of `operators.lexicon.Lexicon`. Before the first
    label its logits are -4 c, 0.2 and 4 c for the lexicon's compound c: VADER's own rule, by
    which a text is neutral while c is within 0.05 of 0. The score is

        score = p(positive) - p(negative).

    Parameters
    ----------
    bits
        The model has 2**bits rows for hashed n-grams, 32 bytes each, half of them for what the
        other replicas know; 1 to 18.
    learning_rate
        AdaGrad's step, > 0.

    Raises
    ------
    ParameterError
        A parameter outside its range.

    Examples
    --------
    >>> model = Sentiment()
    >>> scores, labels, _ = model.predict_many(["I love it!", "this is terrible", "one two"])
    >>> [SENTIMENTS[label] for label in labels]
    ['positive', 'negative', 'neutral']
    >>> model.learn_many(["one two"] * 5, [-1.0] * 5)
    >>> bool(model.predict_many(["one two"])[0][0] < -0.5)
    True

    References
    ----------
    C. J. Hutto and E. Gilbert (2014). VADER: a parsimonious rule-based model for sentiment
    analysis of social media text. ICWSM.

    J. Duchi, E. Hazan and Y. Singer (2011). Adaptive subgradient methods for online learning and
    stochastic optimization. Journal of Machine Learning Research 12.
    """

    def __init__(self, bits: int = 18, learning_rate: float = 0.2) -> None:
        prior = np.zeros((1 + len(LEXICON_COLUMNS), len(SENTIMENTS)), np.float32)
        prior[0, 1] = NEUTRAL_PRIOR
        prior[1] = -COMPOUND_PRIOR, 0, COMPOUND_PRIOR
        classes = len(SENTIMENTS)
        self._model = LinearText(classes, classes, 0, prior, bits, learning_rate)

    def predict_many(
        self, texts: Sequence[str] | Features
    ) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float32]]:
        """Sentiment of each text; changes nothing.

        Parameters
        ----------
        texts
            n strings, or their features from `TextFeatures.transform_many`.

        Returns
        -------
        scores, labels, probabilities
            float32[n] in [-1, 1]; int8[n], 0 negative, 1 neutral, 2 positive: the most likely;
            float32[n, 3] in the same order, each row summing to 1.
        """
        probabilities = self._model.predict_proba_many(as_features(texts))
        scores = probabilities[:, 2] - probabilities[:, 0]
        labels = probabilities.argmax(axis=1).astype(np.int8)
        return scores, labels, probabilities

    def learn_many(self, texts: Sequence[str] | Features, labels: ArrayLike) -> None:
        """Learn from human labels, text by text.

        Parameters
        ----------
        texts
            n strings or their features; only labelled ones (see `Features.take`).
        labels
            float[n] in [-1, 1]: -1 negative, 0 neutral, 1 positive. A label in between is a
            mixture of its two neighbours: 0.3 is 70 % neutral and 30 % positive. In `quality` it
            counts as the nearer one, and at the middle as the one that is not neutral.

        Raises
        ------
        NotFiniteError
            A label is NaN or infinite; nothing was learned.
        ParameterError
            A label lies outside [-1, 1], or there are not n; nothing was learned.
        """
        values = np.asarray(labels, np.float64)
        require_lengths("Sentiment", len(texts), labels=values)
        require_finite("labels", values)
        sizes = np.abs(values)
        if (sizes > 1).any():
            raise ParameterError("a label lies outside [-1, 1]")
        outer = 1 + np.sign(values).astype(np.int64)
        polar = sizes >= 0.5
        truth = np.where(polar, outer, 1)
        other = np.where(polar, 1, outer)
        share = np.minimum(sizes, 1 - sizes).astype(np.float32)
        self._model.learn_many(as_features(texts), truth, other, share)

    def quality(self) -> dict[str, float]:
        """Prequential quality: each labelled text was predicted before it was learned.

        Returns
        -------
        ``labels`` (how many), and from the first label on ``accuracy``, ``macro_f1`` and
        ``recent_accuracy`` (about the last 1,000 labels), all in [0, 1].
        """
        return self._model.quality()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Give the live arrays by name."""
        return self._model.arrays()

    def load_arrays(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Copy saved arrays in; raises `StateMismatchError` and changes nothing if they differ."""
        self._model.load_arrays(saved)

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what this replica learned since the last time; empty where nothing.

        See `operators.linear_text.LinearText.take_delta`.
        """
        return self._model.take_delta()

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another replica learned; `quality` stays as it is.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible;
            nothing is changed then.
        """
        if not delta:
            return
        checked = self._model.check_delta(delta)
        if len(checked["learned"]) != len(SENTIMENTS):
            raise StateMismatchError(f"Sentiment: a delta of {len(checked['learned'])} classes")
        self._model.add_delta(checked, np.arange(len(SENTIMENTS)))
