"""The worker's shared models, and the outcomes made of them.

Shared arrays belong to the worker, not to a partition. They are saved at intervals in a store of
their own; a crash may lose or repeat one interval of learning, never a row or an offset. A new
outcome is one module in ``streams/outcomes/`` and one line here.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from operators.churn import ChurnModel
from operators.errors import StateMismatchError
from operators.hybrid import Hybrid
from operators.intents import Intents
from operators.kmeans import StreamingKMeans
from operators.policy import Options, Policy
from operators.sentiment import Sentiment
from operators.text_features import TextFeatures
from operators.vocabulary import Vocabulary
from streams import deduplication
from streams.catalog import Catalog
from streams.outcomes.base import Outcome
from streams.outcomes.chats import Chats
from streams.outcomes.churn import Churn
from streams.outcomes.feedback import Feedback
from streams.outcomes.list_maker import ListMaker
from streams.outcomes.profile import FEATURES, Profile
from streams.outcomes.recommendations import Recommendations
from streams.outcomes.segments import Segments
from streams.rules import Rules
from streams.settings import Settings, names_in

MAX_NAMES = 65_536
"""Categories and attribute values with a name; further ones are not told apart."""


class SharedModel(Protocol):
    """A model whose learned numbers are arrays."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the live arrays by name."""

    def load_arrays(self, saved: Mapping[str, NDArray[Any]], /) -> None:
        """Copy saved arrays in."""

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what was learned here since the last call, empty where nothing was."""

    def apply_delta(self, delta: Mapping[str, NDArray[Any]], /) -> None:
        """Add what another replica learned."""


class Models:
    """Everything a worker learns that no single customer owns.

    Parameters
    ----------
    settings
        Sizes, horizons and the seed.

    Attributes
    ----------
    outcomes
        In the order in which they are told of a batch; the profile counts before others read it.
    row_dtype
        Layout of a customer's row: one field per outcome, the ids seen before, and the boundary
        of event time at which the row was last swept.
    """

    def __init__(self, settings: Settings) -> None:
        self._copies: dict[str, NDArray[Any]] = {}
        self.names = Vocabulary(MAX_NAMES)
        self.hybrid = Hybrid(settings.max_items, seed=settings.seed)
        self.kmeans = StreamingKMeans(
            settings.segments, len(FEATURES), max_groups=settings.partitions, seed=settings.seed
        )
        self.churn = ChurnModel(
            len(FEATURES),
            FEATURES,
            horizon_days=settings.churn_horizon_days,
            alert_threshold=settings.churn_alert_threshold,
            release_threshold=min(0.5, settings.churn_alert_threshold),
            cooldown_days=settings.churn_cooldown_days,
            seed=settings.seed,
        )
        self.sentiment = Sentiment()
        self.intents = Intents()
        policy = Policy(self.hybrid.vocabulary, policy_options(settings))
        self.rules = Rules(policy)
        self.catalog = Catalog(
            self.names,
            settings.max_items,
            self.hybrid.set_available,
            self.hybrid.introduce,
            policy.set_item,
        )
        self.feedback = Feedback(
            dismissed_days=settings.dismissed_days,
            max_impressions=settings.max_impressions,
            impression_window_days=settings.impression_window_days,
        )
        segments = Segments(self.kmeans)
        self.maker = ListMaker(
            self.hybrid,
            policy,
            segments.names,
            candidates=settings.policy_candidates,
            exclude_bought=settings.exclude_bought,
        )
        self.recommendations = Recommendations(
            self.hybrid, self.catalog, self.feedback, self.maker, length=settings.list_length
        )
        gap_ms = settings.session_gap_minutes * 60_000
        self.outcomes: tuple[Outcome, ...] = (
            Profile(self.catalog, self.names, gap_ms),
            segments,
            Churn(self.churn),
            Chats(TextFeatures(), self.sentiment, self.intents),
            self.feedback,
            self.recommendations,
        )
        self.row_dtype = np.dtype(
            [
                ("seen", deduplication.ROW_DTYPE),
                ("swept_ms", "i8"),
                *((outcome.name, outcome.row_dtype) for outcome in self.outcomes),
            ],
            align=True,
        )

    def _shared(self) -> dict[str, SharedModel]:
        return {
            "names": self.names,
            "recommendations": self.recommendations,
            "kmeans": self.kmeans,
            "churn": self.churn,
            "sentiment": self.sentiment,
            "intents": self.intents,
            "feedback": self.feedback.rates,
        }

    def copy_arrays(self) -> dict[str, NDArray[Any]]:
        """Copy every shared array, by ``model/array`` name, so that it can be saved meanwhile.

        The copies are good until the next call: memory is used again, since fresh memory would
        cost ten times the copying.
        """
        for model, shared in self._shared().items():
            for name, array in shared.arrays().items():
                self._copy(f"{model}/{name}", array)
        return dict(self._copies)

    def _copy(self, name: str, array: NDArray[Any]) -> None:
        copy = self._copies.get(name)
        if copy is None or copy.shape != array.shape or copy.dtype != array.dtype:
            self._copies[name] = array.copy()
        else:
            np.copyto(copy, array)

    def load_arrays(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Take in saved arrays.

        Raises
        ------
        StateMismatchError
            Where they do not fit, as after a change of settings.
        """
        for model, shared in self._shared().items():
            shared.load_arrays(_of_model(model, saved))

    def take_delta(self) -> dict[str, NDArray[Any]]:
        """Return what was learned here since the last call, by ``model/array`` name.

        Empty where nothing was. What came from others is not in it.
        """
        return {
            f"{model}/{name}": array
            for model, shared in self._shared().items()
            for name, array in shared.take_delta().items()
        }

    def apply_delta(self, delta: Mapping[str, NDArray[Any]]) -> None:
        """Add what another worker learned.

        Raises
        ------
        StateMismatchError
            Where a model's part does not fit; those of the others are taken in all the same.
        """
        misfits: list[str] = []
        for model, shared in self._shared().items():
            part = _of_model(model, delta)
            if not part:
                continue
            try:
                shared.apply_delta(part)
            except StateMismatchError as error:
                misfits.append(f"{model}: {error}")
        if misfits:
            raise StateMismatchError("; ".join(misfits))

    def quality(self) -> dict[tuple[str, str], float]:
        """Return prequential quality by (model, metric)."""
        flat = {("recommendations", name): value for name, value in self.hybrid.quality().items()}
        rates = self.feedback.rates.quality()
        flat |= {("recommendations", name): value for name, value in rates.items()}
        flat |= {
            ("recommendations", f"weight_of_{name}"): value
            for name, value in self.hybrid.weights().items()
        }
        flat |= {("sentiment", name): value for name, value in self.sentiment.quality().items()}
        flat |= {("intents", name): value for name, value in self.intents.quality().items()}
        for model, metrics in self.churn.quality().items():
            flat |= {(f"churn_{model}", name): value for name, value in metrics.items()}
        return flat

    def updates(self) -> dict[str, int]:
        """Return how many examples each model has learned in this process or before."""
        return {
            "recommendations": self.recommendations.learned,
            "churn": int(self.churn.label_counts.sum()),
        }

    def drifts(self) -> dict[str, int]:
        """Return how often each model's error was found to have risen."""
        return {"churn": int(self.churn.drift_counts.sum())}


def policy_options(settings: Settings) -> Options:
    """Return what the settings say of the policy of lists."""
    return Options(
        max_per_category=settings.max_per_category,
        diversity=settings.diversity,
        min_new_items=settings.min_new_items,
        new_item_events=settings.new_item_events,
        drop_bought=settings.exclude_bought,
        drop_seen=settings.exclude_seen,
        repeatable=names_in(settings.repeatable_categories),
        unrepeatable=names_in(settings.unrepeatable_categories),
        max_rules=settings.max_rules,
    )


def _of_model(model: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Pick the arrays whose names begin with ``model/``, and take that away."""
    prefix = f"{model}/"
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
