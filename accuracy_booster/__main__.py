"""`python -m accuracy_booster`, which imports nothing from the directory that it is called in."""

import os
import sys

# Python puts that directory first: a file torch.py there would be run. Where the package itself
# is there (a checkout), it stays.
_HERE = os.path.realpath(os.getcwd())
if (
    sys.path
    and not getattr(sys.flags, "safe_path", False)
    and os.path.realpath(sys.path[0] or os.getcwd()) == _HERE
    and os.path.realpath(os.path.dirname(os.path.dirname(__file__))) != _HERE
):
    del sys.path[0]

from accuracy_booster.start import main  # noqa: E402

sys.exit(main())
