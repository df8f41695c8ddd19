import numpy as np
import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.partitioner import partition_of, partitions_of

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(deadline=None)  # the first call loads the kernel
@given(st.lists(texts, max_size=20), st.integers(1, 1_000))
def test_customers_lie_where_the_kafka_client_puts_them(
    customers: list[str], partitions: int
) -> None:
    expected = [(murmur2(name.encode()) & 0x7FFFFFFF) % partitions for name in customers]
    found = partitions_of(customers, partitions)
    assert found.dtype == np.int32
    assert found.tolist() == expected


@settings(deadline=None)
@given(texts, st.integers(1, 100))
def test_one_customer_is_placed_like_many(customer: str, partitions: int) -> None:
    assert partition_of(customer, partitions) == partitions_of([customer], partitions)[0]


def test_known_hashes_of_the_java_client_give_their_partitions() -> None:
    # From the unit tests of Apache Kafka's `Utils.murmur2`.
    hashes = {"21": -973_932_308, "foobar": -790_332_482, "a-little-bit-long-string": -985_981_536}
    partitions = 1_000_003
    for text, value in hashes.items():
        assert partition_of(text, partitions) == (value & 0x7FFFFFFF) % partitions


def test_a_topic_without_partitions_is_refused() -> None:
    with pytest.raises(ValueError, match="1 partition or more"):
        partitions_of(["ada"], 0)
