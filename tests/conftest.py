"""What every test may rely on."""

import os
import signal
from pathlib import Path

from hypothesis import HealthCheck, settings

# How long an example takes says nothing on a busy machine.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("untimed")

# Programs and workers that tests start import the tests' own functions.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])

# A shell starts what runs in its background with Ctrl-C ignored, and so would be every command that
# the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
