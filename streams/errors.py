"""The error tree of the application.

::

    StreamsError
    ├── SettingsError             a setting outside its range, an unreadable settings file
    ├── BrokerError
    │   ├── BrokerUnavailableError    no broker answers at the address
    │   ├── BrokerStartError          the embedded broker did not come up
    │   └── HangingTransactionError   the broker has forgotten to end a transaction
    ├── TopicsError               topics missing, or with differing numbers of partitions
    ├── DataDirectoryError        not writable, or locked by another worker
    ├── PortInUseError            the web port is taken
    ├── ForeignStateError         the state belongs to another cluster, or is ahead of the topics
    ├── PublishError              an output could not be written to the broker
    ├── TransactionError          the broker does not let a partition write transactions
    ├── GuaranteeError            the settings ask for what the broker does not offer
    ├── WorkerCrashError          something in the worker broke that nobody foresaw
    ├── StalledError              work is waiting and nothing is done
    ├── ReplayError               a file that cannot be replayed
    └── RequestError              a worker's REST interface refused or did not answer
"""


class StreamsError(Exception):
    """Root of every error that the application raises on purpose; its text is one clear line."""


class SettingsError(StreamsError):
    """A setting outside its range, or a settings file that cannot be read."""


class BrokerError(StreamsError):
    """Something is wrong with the broker."""


class BrokerUnavailableError(BrokerError):
    """No broker answers at the address."""


class BrokerStartError(BrokerError):
    """The embedded broker did not come up."""


class HangingTransactionError(BrokerError):
    """A topic holds a transaction that nobody can end any more, but an operator."""


class TopicsError(StreamsError):
    """Topics are missing, or differ in their number of partitions."""


class DataDirectoryError(StreamsError):
    """The data directory is not writable, or another worker holds it."""


class PortInUseError(StreamsError):
    """The web port is taken."""


class ForeignStateError(StreamsError):
    """The local state belongs to another cluster, or is ahead of the topics."""


class PublishError(StreamsError):
    """An output could not be written to the broker."""


class TransactionError(StreamsError):
    """The broker does not let a partition write transactions, or not in time."""


class GuaranteeError(StreamsError):
    """The settings ask for a guarantee that the broker does not offer."""


class WorkerCrashError(StreamsError):
    """Something in the worker broke that nobody foresaw; its log has the traceback."""


class StalledError(StreamsError):
    """Records are waiting and the worker makes no progress."""


class ReplayError(StreamsError):
    """A file cannot be replayed."""


class RequestError(StreamsError):
    """A worker's REST interface refused the request or did not answer."""
