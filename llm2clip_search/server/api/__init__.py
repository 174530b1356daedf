"""Routes of the REST API, a file for each group; each has ``ENDPOINTS``."""
