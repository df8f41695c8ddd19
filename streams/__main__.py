"""``python -m streams`` is ``crm-streams``."""

from streams.cli import main

if __name__ == "__main__":
    main()
