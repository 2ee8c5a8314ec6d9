"""Secrets backends.

Airflow makes the configured one while it is first imported. That comes before any module here, so that one which
is itself the first to need Airflow is not found half imported.
"""

import airflow  # noqa: F401  # see above
