"""What a CRM gets: one module per outcome. They are listed in ``streams/models.py``."""
