"""What every test may rely on."""

import os
import signal
from pathlib import Path

# Programs and workers that tests start import the tests' own functions.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])

# A shell starts what runs in its background with Ctrl-C ignored, and so would be every command that
# the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
