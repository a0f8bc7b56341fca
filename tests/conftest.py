"""What every test may rely on."""

from __future__ import annotations

import signal

# Who is started in the background of a shell ignores SIGINT, and so does whatever it starts; tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
