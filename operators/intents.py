"""Online routing of texts to intents that people name as they go."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.arrays import load_into
from operators.deltas import require_delta, require_within
from operators.errors import ParameterError, StateMismatchError
from operators.linear_text import LinearText, as_features
from operators.text_features import Features

MAX_NAME_CHARS = 64
CODE_POINTS = 0x110000


def names_of(codes: NDArray[np.uint32]) -> list[str]:
    """Names from their code points, one a row, padded with 0."""
    return [
        row.tobytes().decode("utf-32-le", "surrogatepass").rstrip("\0")
        for row in codes.astype("<u4")
    ]


class Intents:
    """What a text is about, learned from human labels alone; None until it is confident.

    A multinomial logistic model (`operators.linear_text.LinearText`) over hashed n-grams. Beside
    the intents it knows a class "none of them" whose logit is always 0, and there is no constant
    term: a text with nothing in common with the labelled ones is equally likely of every class. An
    intent of which n labels were learned is held back by the rule of succession::

        probability = p(intent) * n / (n + 1)

    and while only one intent is known nothing is named, since there is nothing to tell it from.

    Each replica numbers the intents as they come up there, so replicas call them by their names.

    Parameters
    ----------
    max_intents
        At most this many different intents, in order of appearance, at least 1. Labels with
        further names, also those that another replica has learned, are not learned, and counted in
        `quality` as ``labels_refused``.
    threshold
        An intent is named only where its probability is at least this, in [0, 1].
    bits
        The model has 2**bits rows for hashed n-grams, of ``8 (max_intents + 2)`` bytes each, half
        of them for what the other replicas know; 1 to 18.
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
        self._model.forget_unsent()
        known = names_of(self._names[: self._model.active - 1])
        self._classes = {name: position + 1 for position, name in enumerate(known)}

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what this replica learned since the last time; empty where nothing.

        Returns
        -------
        As `operators.linear_text.LinearText.take_delta`, and ``names`` uint32[m, 64]: the m classes
        after the first, as code points padded with 0.
        """
        delta = self._model.take_delta()
        if delta:
            delta["names"] = self._names[: len(delta["learned"]) - 1].copy()
        return delta

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another replica learned; in `quality` only ``labels_refused`` may change.

        Intents that are new here are taken in. Where there is no room for one, what was learned of
        it is left out; which ones find room may depend on the order of deltas.

        Raises
        ------
        StateMismatchError
            Where names, shapes or dtypes are not those of `take_delta`, or a number is impossible;
            nothing is changed then.
        """
        if not delta:
            return
        checked = self._model.check_delta({k: array for k, array in delta.items() if k != "names"})
        learned = checked["learned"][1:]
        names = self._check_names(delta, len(learned))
        classes = np.array([0, *(self._admit(name) or -1 for name in names)])
        self._refused[0] += learned[classes[1:] < 0].sum()
        self._model.add_delta(checked, classes)

    def _check_names(self, delta: Mapping[str, NDArray[Any]], count: int) -> list[str]:
        """Refuse the names of a delta unless there are `count` different ones; return them."""
        expected = {"names": (np.uint32, (count, MAX_NAME_CHARS))}
        given = {name: delta[name] for name in ("names",) if name in delta}
        codes = require_delta("Intents", given, expected)["names"]
        require_within("Intents", given, "names", 0, CODE_POINTS)
        names = names_of(codes)
        if "" in names or len(set(names)) < len(names):
            raise StateMismatchError("Intents: the names of a delta are not different ones")
        return names

    def _class_of(self, intent: str | None) -> int:
        """Class of a label, taken in where it is new; 0 where there is nothing to learn."""
        name = (intent or "").strip()[:MAX_NAME_CHARS].rstrip("\0")
        if not name:
            return 0
        found = self._admit(name)
        self._refused[0] += not found
        return found

    def _admit(self, name: str) -> int:
        """Class of a name, taken in where it is new; 0 where there is no room."""
        if name not in self._classes and len(self._classes) < self.max_intents:
            codes = np.frombuffer(name.encode("utf-32-le", "surrogatepass"), "<u4")
            self._names[len(self._classes), : len(codes)] = codes
            self._classes[name] = len(self._classes) + 1
        return self._classes.get(name, 0)
