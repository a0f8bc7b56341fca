"""`python -m sixgate`."""

import sys

from sixgate.cli import main

sys.exit(main())
