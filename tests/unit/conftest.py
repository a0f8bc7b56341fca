"""Settings of all unit tests."""

from hypothesis import HealthCheck, settings

# How long an example takes says what else the machine does.
settings.register_profile("beside-load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("beside-load")
