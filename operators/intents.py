"""Online routing of texts to intents that people name as they go."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.errors import ParameterError
from operators.linear_text import LinearText, as_features
from operators.text_features import Features

MAX_NAME_CHARS = 64


class Intents:
    """What a text is about, learned from human labels alone; None until it is confident.

    A multinomial logistic model (`operators.linear_text.LinearText`) over hashed n-grams. Beside
    the intents it knows a class "none of them" whose logit is always 0, and there is no constant
    term: a text with nothing in common with the labelled ones is equally likely of every class. An
    intent of which n labels were learned is held back by the rule of succession::

        probability = p(intent) * n / (n + 1)

    and while only one intent is known nothing is named, since there is nothing to tell it from.

    Parameters
    ----------
    max_intents
        At most this many different intents, in order of appearance, at least 1. Labels with
        further names are not learned, and counted in `quality` as ``labels_refused``.
    threshold
        An intent is named only where its probability is at least this, in [0, 1].
    bits
        The model has 2**bits rows for hashed n-grams, of ``4 (max_intents + 2)`` bytes each;
        1 to 18.
    learning_rate
        AdaGrad's step, > 0.

    Raises
    ------
    ParameterError
        A parameter outside its range.

    Examples
    --------
    >>> model = Intents()
    >>> model.predict_many(["where is my parcel"])
    [(None, 0.0)]
    >>> model.learn_many(["where is my parcel", "card declined"] * 5, ["delivery", "payment"] * 5)
    >>> model.predict_many(["my parcel is late"])[0][0], model.predict_many(["hello"])[0][0]
    ('delivery', None)

    References
    ----------
    J. Duchi, E. Hazan and Y. Singer (2011). Adaptive subgradient methods for online learning and
    stochastic optimization. Journal of Machine Learning Research 12.
    """

    def __init__(
        self,
        max_intents: int = 128,
        threshold: float = 0.6,
        bits: int = 15,
        learning_rate: float = 0.5,
    ) -> None:
        if max_intents < 1:
            raise ParameterError(f"max_intents must be at least 1, not {max_intents}")
        if not 0 <= threshold <= 1:
            raise ParameterError(f"threshold must lie in [0, 1], not {threshold}")
        self.max_intents = max_intents
        self.threshold = threshold
        no_dense = np.zeros((0, max_intents + 1), np.float32)
        self._model = LinearText(max_intents + 1, 1, 1, no_dense, bits, learning_rate)
        self._names = np.zeros((max_intents, MAX_NAME_CHARS), np.uint32)
        self._refused = np.zeros(1, np.int64)
        self._classes: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        """The intents known, in order of appearance."""
        return list(self._classes)

    def predict_many(self, texts: Sequence[str] | Features) -> list[tuple[str | None, float]]:
        """Most likely intent of each text; changes nothing.

        Parameters
        ----------
        texts
            n strings, or their features from `TextFeatures.transform_many`.

        Returns
        -------
        n pairs: the intent, or None where its probability is below the threshold; and that
        probability in [0, 1], 0 while fewer than two intents are known.
        """
        if len(self._classes) < 2:
            return [(None, 0.0)] * len(texts)
        labels = self._model.labels_by_class[1:]
        probabilities = self._model.predict_proba_many(as_features(texts))[:, 1:]
        probabilities *= (labels / (labels + 1)).astype(np.float32)
        best = probabilities.argmax(axis=1)
        names = self.names
        return [
            (names[intent] if probability >= self.threshold else None, probability)
            for intent, probability in zip(
                best.tolist(), probabilities.max(axis=1).tolist(), strict=True
            )
        ]

    def learn_many(self, texts: Sequence[str] | Features, intents: Sequence[str | None]) -> None:
        """Learn from human labels, text by text.

        Parameters
        ----------
        texts
            n strings or their features.
        intents
            n names, without the space around them; the first 64 characters count. None and the
            empty string say "not labelled" and are passed over.

        Raises
        ------
        ParameterError
            There are not n names, or the features have too few bits; nothing was learned.
        """
        if len(intents) != len(texts):
            raise ParameterError(f"{len(texts)} texts, but {len(intents)} intents")
        if isinstance(texts, Features):
            self._model.require_bits(texts)
        classes = np.array([self._class_of(intent) for intent in intents], np.int64)
        labelled = np.flatnonzero(classes)
        if not len(labelled):
            return
        if isinstance(texts, Features):
            features = texts if len(labelled) == len(texts) else texts.take(labelled)
        else:
            features = as_features([texts[i] for i in labelled.tolist()])
        self._model.learn_many(features, classes[labelled])

    def quality(self) -> dict[str, float]:
        """Prequential quality: each labelled text was predicted before it was learned.

        Returns
        -------
        ``labels`` (learned) and ``labels_refused``, and from the first label on ``accuracy`` of
        the most likely class whatever the threshold, ``macro_f1`` and ``recent_accuracy`` (about
        the last 1,000 labels). The first label of each intent counts as a mistake.
        """
        return {**self._model.quality(), "labels_refused": float(self._refused[0])}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Give the live arrays by name; the names of the intents are code points, padded with 0."""
        return {**self._model.arrays(), "names": self._names, "refused": self._refused}

    def load_arrays(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Copy saved arrays in; raises `StateMismatchError` and changes nothing if they differ."""
        self._model.require_active(saved)
        load_into(self.arrays(), saved)
        known = self._names[: self._model.active - 1].astype("<u4")
        self._classes = {
            row.tobytes().decode("utf-32-le", "surrogatepass").rstrip("\0"): position + 1
            for position, row in enumerate(known)
        }

    def _class_of(self, intent: str | None) -> int:
        """Class of a label, taken in where it is new; 0 where there is nothing to learn."""
        name = (intent or "").strip()[:MAX_NAME_CHARS].rstrip("\0")
        if not name or name in self._classes:
            return self._classes.get(name, 0)
        if len(self._classes) == self.max_intents:
            self._refused[0] += 1
            return 0
        codes = np.frombuffer(name.encode("utf-32-le", "surrogatepass"), "<u4")
        self._names[len(self._classes), : len(codes)] = codes
        self._classes[name] = len(self._classes) + 1
        return self._classes[name]
