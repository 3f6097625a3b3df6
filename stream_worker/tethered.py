"""A `vitalcast` command that does not outlive its starter: `python -m stream_worker.tethered COMMAND ...`.

Its standard input is a pipe whose other end the starter holds and never writes to. So the end of the input is the end
of the starter, of one that was killed too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Final

from stream_worker.cli import main

# For what is in hand. The starter's broker may have ended with it, so that nothing can be finished any more.
END_WITHIN_S: Final = 3.0


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_WITHIN_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, name="tether", daemon=True).start()
    main()
