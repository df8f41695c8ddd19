"""What the catalogue says of items: category, tags, title, availability; read whole."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from operators.content import words_of
from operators.vocabulary import Vocabulary
from streams.decode import CatalogChange
from streams.records import CatalogItem

TITLE_MAX_CHARACTERS = 80
MAX_TAGS = 8


def words_of_item(item: CatalogItem) -> list[str]:
    """Return what an item is about: its category and tags as they are, and its title's words.

    Examples
    --------
    >>> words_of_item(CatalogItem(item_id="m1", title="Red mug", category="Kitchen", tags=["new"]))
    ['category:kitchen', 'tag:new', 'red', 'mug']
    """
    category = [f"category:{item.category.lower()}"] if item.category else []
    tags = [f"tag:{tag.lower()}" for tag in (item.tags or [])[:MAX_TAGS]]
    return [*category, *tags, *words_of([item.title or ""])]


class Catalog:
    """The items of the catalogue, as far as the engine uses them.

    Tags go to whoever `on_labels` is; nobody else here needs them.

    Parameters
    ----------
    names
        Vocabulary that categories are added to.
    max_items
        Most items kept; changes of further items are counted in `refused` and otherwise ignored.
    on_availability
        Called with an item id and whether it may be recommended, whenever that is said.
    on_words
        Called with an item id and the words of its entry, whenever there is one.
    on_labels
        Called with an item id, its category or None, and its tags, whenever they are said; a
        removed item has neither.

    Examples
    --------
    >>> catalog = Catalog(
    ...     Vocabulary(10), 10, lambda item, yes: None, lambda item, words: None,
    ...     lambda item, *labels: None,
    ... )
    >>> item = CatalogItem(item_id="mug", title="Red mug", category="kitchen")
    >>> catalog.apply(CatalogChange("mug", item))
    >>> catalog.title("mug"), catalog.title("cup")
    ('Red mug', 'cup')
    """

    def __init__(
        self,
        names: Vocabulary,
        max_items: int,
        on_availability: Callable[[str, bool], None],
        on_words: Callable[[str, list[str]], None],
        on_labels: Callable[[str, str | None, Sequence[str]], None],
    ) -> None:
        self._names = names
        self._max_items = max_items
        self._on_availability = on_availability
        self._on_words = on_words
        self._on_labels = on_labels
        self._titles: dict[str, str] = {}
        self._categories: dict[str, int] = {}
        self.refused = 0

    def __len__(self) -> int:
        return len(self._titles)

    def apply(self, change: CatalogChange) -> None:
        """Take in one change of the catalogue."""
        item_id, item = change.item_id, change.item
        if item is None:
            self._titles.pop(item_id, None)
            self._categories.pop(item_id, None)
            self._on_labels(item_id, None, ())
            self._on_availability(item_id, False)
            return
        if item_id not in self._titles and len(self._titles) >= self._max_items:
            self.refused += 1
            return
        self._titles[item_id] = (item.title or item_id)[:TITLE_MAX_CHARACTERS]
        self._categories[item_id] = self._category_key(item.category)
        self._on_words(item_id, words_of_item(item))
        self._on_labels(item_id, item.category, item.tags or ())
        self._on_availability(item_id, item.available is not False)

    def _category_key(self, category: str | None) -> int:
        if not category:
            return 0
        index = int(self._names.learn_many([category])[0])
        return int(self._names.keys[index]) if index >= 0 else 0

    def title(self, item_id: str) -> str:
        """Return the item's title; its id where the catalogue has none."""
        return self._titles.get(item_id, item_id)

    def category_keys(self, item_ids: Sequence[str | None]) -> NDArray[np.uint64]:
        """Return the category key of each item, uint64; 0 where none is known."""
        get = self._categories.get
        return np.array([get(item, 0) for item in item_ids], np.uint64)  # type: ignore[arg-type] # None is never a key
