"""Online algorithms: one a file, named after the algorithm, numpy in and numpy out.

Nothing in here knows of Kafka, Faust or RocksDB. An operator is given or exposes arrays;
whoever holds the arrays persists them. See ``operators/checks.py`` for the contract that
every operator keeps.
"""
