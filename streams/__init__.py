"""The application: topics in, agents, outcomes, topics out."""

__version__ = "0.1.0"
