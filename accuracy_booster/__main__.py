import sys

from accuracy_booster.cli import main

sys.exit(main())
