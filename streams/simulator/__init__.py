"""Simulated traffic with planted truth: a shop's clicks, purchases and chats from a seed."""

from streams.simulator.behaviour import SEGMENT_NAMES
from streams.simulator.simulator import Batch, Event, Simulator
from streams.simulator.texts import INTENTS
from streams.simulator.truth import NEVER, Truth

__all__ = ["INTENTS", "NEVER", "SEGMENT_NAMES", "Batch", "Event", "Simulator", "Truth"]
