"""For dry_run.rs: a program that outlasts its time, below a stage that starts it in a session of
its own. Prints how the stage ended; the program's id is in the file that is named."""

from __future__ import annotations

import os
import signal
import sys

LANE, PID = sys.argv[1:3]
sys.path.insert(0, LANE)
import place  # noqa: E402 (found by the path above)

SLEEP = f"import os, time; open({PID!r}, 'w').write(str(os.getpid())); time.sleep(60)"

if sys.argv[3:] == ["stage"]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    place.run([sys.executable, "-c", SLEEP], 50, dict(os.environ))
else:
    words = [sys.executable, "-B", __file__, LANE, PID, "stage"]
    print(place.run(words, 3, dict(os.environ))["how"])
