"""The databases of tests/integration, for what both kinds of store have to hold."""

from tests.integration.conftest import postgres_uri, settings, template

__all__ = ["postgres_uri", "settings", "template"]
