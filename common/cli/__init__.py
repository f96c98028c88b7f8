"""The command line."""

import os

# Read by OpenMP when torch is first imported, so set here, before.  Threads that wait for each
# other by spinning keep a busy machine from running the one they wait for: with one core of two
# taken, trainings of small operators went twice as fast (docs/settings.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
