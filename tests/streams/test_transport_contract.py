"""What the batch transport takes for granted in Faust; a change there must be read, not guessed."""

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import faust
import pytest
from faust.app.base import App
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer, ThreadDelegateConsumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.transport.drivers.aiokafka import Consumer as KafkaConsumer

RELIED_ON: dict[Callable[..., Any], str] = {
    Consumer.getmany: "4b168d84882a",
    Consumer._wait_next_records: "6218e1969a63",
    Consumer._drain_messages: "44a2500309e8",
    Consumer._new_offset: "1d2c7ea89a7a",
    Consumer._add_gap: "4df2573ded7c",
    Consumer._filter_committable_offsets: "dc5e9baf5d99",
    Consumer.perform_seek: "0e8c130ff4b0",
    Consumer.ack: "5fcf41cf4515",
    ThreadDelegateConsumer.seek_to_committed: "f1d483b861b0",
    KafkaConsumer._new_consumer_thread: "0870ec53dea7",
    AIOKafkaConsumerThread._create_worker_consumer: "c2701bfc3e6f",
    AIOKafkaConsumerThread._fetch_records: "39a2c6c79fc1",
    AIOKafkaConsumerThread.getmany: "26fc5fc9f3b6",
    Recovery._resume_streams: "d986a6710c1a",
    App._new_transport: "42db531312dd",
    App._on_partitions_revoked: "d5c895bbe57d",
    App._on_partitions_assigned: "de932b7927db",
}


def digest(function: Callable[..., Any]) -> str:
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:12]


def test_faust_is_the_release_that_was_read() -> None:
    assert faust.__version__ == "0.15.3"


@pytest.mark.parametrize("function", RELIED_ON, ids=lambda function: function.__qualname__)
def test_what_is_overridden_or_relied_on_is_unchanged(function: Callable[..., Any]) -> None:
    assert digest(function) == RELIED_ON[function], (
        f"{function.__qualname__} differs from the one that streams/transport.py was written "
        "against: read the change, adapt the transport, then update this digest"
    )
